#!/usr/bin/env python3
"""Opens folders saved by tempra, each with the class of transformers that its config names, and compares what they give.

    python3 tests/golden/check_task.py DIR...

outputs.json in each, written by tempra: {"input_ids": [[...], ...], "outputs": [[...], ...]}, token types all 0; what the heads give for
all sequences, end to end: rows of sequences, or of tokens. Exit status 0: every weight was found, none was left over, none had another
shape, and no number differs by more than 1e-4 (of itself where it is above 1) in f32. 1: otherwise, with what was wrong.
"""
import json
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers

TOLERANCE = 1e-4


def bare(name):
    """Whether a class is an encoder without a head."""
    return name.endswith("Model") and not name.endswith("LMHeadModel")


def given(out, name):
    """What tempra gives for one sequence, in its order."""
    if bare(name):
        return [out.last_hidden_state[0].mean(0)]
    if "QuestionAnswering" in name:
        return [torch.stack([out.start_logits[0], out.end_logits[0]], 1)]
    if name.endswith("ForPreTraining"):
        pairs = out.sop_logits if name.startswith("Albert") else out.seq_relationship_logits
        return [out.prediction_logits[0], pairs[0]]
    return [out.logits[0]]


def check(folder):
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    with open(os.path.join(folder, "outputs.json"), encoding="utf-8") as f:
        fixture = json.load(f)
    name = config["architectures"][0]
    model, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    # A bare encoder has a pooler in transformers, which a mean over tokens does without.
    missing = [k for k in info["missing_keys"] if not (bare(name) and "pooler" in k)]
    wrong = {"missing": missing, "unexpected": list(info["unexpected_keys"]), "mismatched": list(info["mismatched_keys"])}
    if any(wrong.values()):
        print(f"{folder}: {name}: {wrong}")
        return False
    model.eval()
    found = [[] for _ in fixture["outputs"]]
    for ids in fixture["input_ids"]:
        more = {"token_type_ids": torch.zeros(1, len(ids), dtype=torch.long)} if config["model_type"] == "xlnet" else {}
        with torch.no_grad():
            out = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), **more)
        for all, part in zip(found, given(out, name)):
            all.extend(part.flatten().tolist())
    worst = 0.0
    for ours, theirs in zip(fixture["outputs"], found):
        if len(ours) != len(theirs):
            print(f"{folder}: {name}: {len(ours)} numbers, transformers gives {len(theirs)}")
            return False
        worst = max(worst, max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(ours, theirs)))
    print(f"{name}: {worst:.1e}")
    return worst <= TOLERANCE


transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
sys.exit(0 if all([check(folder) for folder in sys.argv[1:]]) else 1)
