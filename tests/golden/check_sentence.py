#!/usr/bin/env python3
"""Opens folders saved by tempra with sentence-transformers, and compares the vectors of some texts.

    python3 tests/golden/check_sentence.py DIR...

vectors.json in each, written by tempra: {"texts": [...], "vectors": [[...], ...]}. Exit status 0: no number differs by more than 1e-5, alone
or in one batch. 1: otherwise. 3: there is no sentence-transformers.
"""
import json
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

try:
    from sentence_transformers import SentenceTransformer
except ImportError as e:
    print(f"no sentence-transformers: {e}")
    sys.exit(3)

TOLERANCE = 1e-5


def check(folder):
    with open(os.path.join(folder, "vectors.json"), encoding="utf-8") as f:
        fixture = json.load(f)
    model = SentenceTransformer(folder, device="cpu")
    worst = 0.0
    for found in (model.encode(fixture["texts"]), [model.encode([text])[0] for text in fixture["texts"]]):
        for ours, theirs in zip(fixture["vectors"], found):
            if len(ours) != len(theirs):
                print(f"{folder}: vectors of {len(ours)}, sentence-transformers gives {len(theirs)}")
                return False
            worst = max(worst, max(abs(a - float(b)) for a, b in zip(ours, theirs)))
    print(f"{folder}: {worst:.1e}")
    return worst <= TOLERANCE


sys.exit(0 if all([check(folder) for folder in sys.argv[1:]]) else 1)
