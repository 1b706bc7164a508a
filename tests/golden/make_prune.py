"""Masks of magnitude pruning by torch.nn.utils.prune (PyTorch), for matrices and globally. Writes prune.json."""

import json
import pathlib

import torch
from torch.nn.utils import prune

torch.manual_seed(7)
layers = [torch.nn.Linear(9, 8), torch.nn.Linear(5, 12), torch.nn.Linear(16, 1)]
with torch.no_grad():
    # Magnitudes that differ between the matrices, so that both scopes do.
    for factor, layer in zip([1.0, 3.0, 0.5], layers):
        layer.weight.mul_(factor)
weights = [layer.weight.detach().flatten().tolist() for layer in layers]


def masks():
    found = [layer.weight_mask.int().flatten().tolist() for layer in layers]
    for layer in layers:
        # Puts the masked weight in place of the weight; the next case starts from the original.
        prune.remove(layer, "weight")
    with torch.no_grad():
        for layer, weight in zip(layers, weights):
            layer.weight.copy_(torch.tensor(weight).reshape(layer.weight.shape))
    return found


cases = []
for sparsity in [0.1, 0.5, 0.85]:
    for layer in layers:
        # A number, not a share: PyTorch rounds a share to the nearest number.
        prune.l1_unstructured(layer, "weight", amount=int(sparsity * layer.weight.numel()))
    cases.append({"scope": "matrix", "sparsity": sparsity, "masks": masks()})
    total = sum(len(w) for w in weights)
    prune.global_unstructured([(layer, "weight") for layer in layers], prune.L1Unstructured, amount=int(sparsity * total))
    cases.append({"scope": "global", "sparsity": sparsity, "masks": masks()})
out = {"torch": torch.__version__, "weights": weights, "cases": cases}
pathlib.Path(__file__).with_name("prune.json").write_text(json.dumps(out) + "\n")
