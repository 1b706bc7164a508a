#!/usr/bin/env python3
"""Opens a folder saved by tempra with transformers and compares logits.

    python3 tests/golden/check_saved.py DIR FIXTURE.json

FIXTURE.json, written by tempra from its own model in memory: {"texts": [...], "logits": [[...], ...]}. A text is a string, or a pair
of them as a list. Instead of texts: "input_ids", and "token_type_ids" if the model has types, for a folder without a tokenizer. Optional: "max_length" (default: what the model and its tokenizer allow), "tolerance" (default 1e-4).
Exit status 0: every weight was found, none was left over, and no logit differs by more than the tolerance, in f32,
in batches of 16 padded sequences. 1: otherwise, with the worst difference. 2: the fixture cannot be used.
"""
import json
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers

import common
from transformers import AutoModelForSequenceClassification, AutoTokenizer

BATCH = 16


def logits(model, tok, texts, max_length):
    out = []
    for i in range(0, len(texts), BATCH):
        part = texts[i : i + BATCH]
        first = [t if isinstance(t, str) else t[0] for t in part]
        # A pair may stand beside single texts only if each is encoded alone.
        second = [None if isinstance(t, str) else t[1] for t in part]
        rows = [tok(a, b, truncation=True, max_length=max_length, padding=False) for a, b in zip(first, second)]
        with torch.no_grad():
            out.append(model(**tok.pad(rows, padding=True, return_tensors="pt")).logits)
    return torch.cat(out)


def logits_of_ids(model, rows, types):
    with torch.no_grad():
        parts = [slice(i, i + BATCH) for i in range(0, len(rows), BATCH)]
        id, left = model.config.pad_token_id, model.config.model_type == "xlnet"
        return torch.cat([model(**common.pad(rows[p], types and types[p], id=id, left=left)).logits for p in parts])


def main():
    if len(sys.argv) != 3:
        print("usage: check_saved.py DIR FIXTURE.json", file=sys.stderr)
        return 2
    folder, path = sys.argv[1:]
    with open(path, encoding="utf-8") as f:
        fixture = json.load(f)
    ids = fixture.get("input_ids")
    texts, wanted = ids or fixture["texts"], torch.tensor(fixture["logits"], dtype=torch.float64)
    if not texts or wanted.ndim != 2 or len(texts) != len(wanted):
        print(f"{path}: expected as many rows of logits as texts, found {tuple(wanted.shape)} for {len(texts)}", file=sys.stderr)
        return 2

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model, info = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    model.eval()
    bad = {k: sorted(v) for k, v in info.items() if k in ("missing_keys", "unexpected_keys", "mismatched_keys") and v}
    if bad:
        print(f"{folder}: transformers did not read the weights as they are: {bad}", file=sys.stderr)
        return 1
    if ids:
        found = logits_of_ids(model, ids, fixture.get("token_type_ids")).double()
    else:
        tok = AutoTokenizer.from_pretrained(folder)
        allowed = min(tok.model_max_length, getattr(model.config, "max_position_embeddings", tok.model_max_length))
        found = logits(model, tok, texts, fixture.get("max_length", allowed)).double()
    if found.shape != wanted.shape:
        print(f"{folder}: transformers gives logits {tuple(found.shape)}, the fixture has {tuple(wanted.shape)}", file=sys.stderr)
        return 1
    diff = (found - wanted).abs()
    tolerance = fixture.get("tolerance", 1e-4)
    worst = diff.max().item()
    row, col = divmod(diff.argmax().item(), diff.shape[1])
    line = f"worst difference {worst:.3g} over {len(texts)} texts"
    if not worst <= tolerance:  # NaN fails too
        print(f"{folder}: {line}, more than {tolerance:g}: text {row} {texts[row]!r}, label {col}: transformers "
              f"{found[row, col]:.6f}, fixture {wanted[row, col]:.6f}", file=sys.stderr)
        return 1
    print(f"{folder}: {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
