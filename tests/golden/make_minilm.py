#!/usr/bin/env python3
"""Writes tests/golden/minilm/fixture.json: what a classifier on the real all-MiniLM-L6-v2 checkpoint must compute.

    python3 -m pip install torch==2.15.0 transformers==5.23.0
    python3 tests/golden/make_minilm.py "$(examples/quickstart --fetch-only)"

32 test sentences of the sentiment example, evenly spaced by length, so the shortest and the longest (cut at 64 tokens)
are among them; two labels; a classifier head given in the fixture; dropout off. See the keys in README.md here.
"""
import csv
import hashlib
import sys
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import common

HERE = Path(__file__).resolve().parent
TEST = HERE.parents[1] / "examples" / "sentiment" / "test.csv"
LABELS = ["negative", "positive"]
MAX_LENGTH, COUNT, SAMPLES = 64, 32, 16


def sentences(tok):
    """32 (text, label) pairs from shortest to longest, shuffled."""
    with open(TEST, encoding="utf-8", newline="") as f:
        rows = [(r["text"], LABELS.index(r["label"])) for r in csv.DictReader(f)]
    rows.sort(key=lambda r: len(tok(r[0])["input_ids"]))
    picked = [rows[round(i * (len(rows) - 1) / (COUNT - 1))] for i in range(COUNT)]
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0)).tolist()
    return [picked[i] for i in order]


def sampled(grad, rng):
    """16 [flat index, value] pairs where the gradient is not 0: most rows of an embedding have none."""
    flat = grad.flatten()
    live = flat.nonzero().flatten()
    chosen = live[torch.randperm(len(live), generator=rng)[:SAMPLES]].sort().values
    return [[i, common.round9(flat[i].item())] for i in chosen.tolist()]


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: make_minilm.py FOLDER_OF_ALL_MINILM_L6_V2")
    folder = Path(sys.argv[1])
    common.fixed()
    tok = AutoTokenizer.from_pretrained(folder)
    # The saved tokenizer cuts and pads to 128 tokens; a caller chooses.
    tok.backend_tokenizer.no_truncation()
    tok.backend_tokenizer.no_padding()
    pairs = sentences(tok)
    texts = [t for t, _ in pairs]
    rows = tok(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"]
    rng = torch.Generator().manual_seed(1)
    head = {
        "classifier.weight": common.round9((0.1 * torch.randn(2, 384, generator=rng)).tolist()),
        "classifier.bias": common.round9((0.1 * torch.randn(2, generator=rng)).tolist()),
    }

    def load(dtype):
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype, num_labels=2)
        with torch.no_grad():
            for name, value in head.items():
                model.get_parameter(name).copy_(torch.tensor(value))  # f32 first: what a reader of the fixture has
        return model.eval()

    labels = torch.tensor([label for _, label in pairs])
    types = [[0] * len(r) for r in rows]
    fixture, grads = common.reference(load, rows, types, labels, lr=5e-5, warmup_steps=1, steps=10)
    fixture.pop("token_type_ids")
    rng = torch.Generator().manual_seed(2)
    out = HERE / "minilm"
    out.mkdir(exist_ok=True)
    common.dump(out / "fixture.json", {
        "problem_type": "single_label_classification",
        "weights_sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "max_length": MAX_LENGTH,
        "texts": texts,
        **fixture,
        "head": head,
        "grads": {
            n: {"shape": list(g.shape), "l2": common.round9(g.norm().item()), "samples": sampled(g, rng)}
            for n, g in grads.items()
        },
    })
    print({k: fixture[k] for k in ("loss", "grad_norm", "lengths", "logits")}, fixture["f32"], fixture["train"]["losses"], sep="\n")


if __name__ == "__main__":
    main()
