"""What PyTorch says of the loss of R-Drop on given logits: value and gradients, written to r_drop.json. Needs torch.

    python tests/golden/make_r_drop.py

The formula is that of the README of github.com/dropreg/R-Drop: half the sum of both cross-entropies plus alpha times half the sum of both
KL divergences, here the mean over the examples, with class weights a weighted mean as that of `cross_entropy`.
"""

import json
import pathlib

import torch
import torch.nn.functional as F

torch.manual_seed(5)
ALPHA = 0.7


def case(rows, classes, weighted):
    a, b = (torch.randn(rows, classes, dtype=torch.float64, requires_grad=True) for _ in range(2))
    with torch.no_grad():
        a *= 2
    labels = torch.randint(classes, (rows,))
    weights = torch.rand(classes, dtype=torch.float64) + 0.5 if weighted else None
    cross = 0.5 * (F.cross_entropy(a, labels, weights) + F.cross_entropy(b, labels, weights))
    p, q = F.log_softmax(a, -1), F.log_softmax(b, -1)
    # kl_div(input, target) is KL(target || exp(input)).
    apart = 0.5 * (
        F.kl_div(q, p, reduction="none", log_target=True) + F.kl_div(p, q, reduction="none", log_target=True)
    ).sum(-1)
    each = weights[labels] if weighted else torch.ones(rows, dtype=torch.float64)
    loss = cross + ALPHA * (each * apart).sum() / each.sum()
    loss.backward()
    return {
        "a": a.tolist(),
        "b": b.tolist(),
        "labels": labels.tolist(),
        "class_weights": weights.tolist() if weighted else [],
        "loss": loss.item(),
        "divergence": apart.tolist(),
        "da": a.grad.tolist(),
        "db": b.grad.tolist(),
    }


cases = [case(5, 3, False), case(4, 2, False), case(6, 7, True), case(1, 4, False)]
found = {"versions": {"torch": torch.__version__}, "alpha": ALPHA, "cases": cases}
pathlib.Path(__file__).with_name("r_drop.json").write_text(json.dumps(found, indent=1) + "\n")
