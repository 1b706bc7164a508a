#!/usr/bin/env python3
"""Writes tests/golden/contrastive.json: the contrastive loss of pairs under tests/golden/bert/a, by sentence-transformers.

    python3 -m pip install torch==2.15.0 transformers==5.23.0 sentence-transformers==6.2.0
    python3 tests/golden/make_contrastive.py

  pairs     eight pairs of the sequences of bert/a/fixture.json, all different, with CachedMultipleNegativesRankingLoss in
            chunks of 3 (and MultipleNegativesRankingLoss, which must say the same), mean pooling, scale 1 / 0.05
  repeated  six pairs that share texts, with what MultipleNegativesRankingLoss computes (cross-entropy of scaled cosines) over
            the logits of pairs that share no text; sentence-transformers itself keeps such pairs out of a batch
            (NoDuplicatesBatchSampler)

Each has `texts` and `partners` (rows of the fixture), `loss`, and of every parameter's gradient `l2` and `samples`.
"""
import json
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer, losses, models
from sentence_transformers import util
from transformers import BertModel

import common

HERE = Path(__file__).resolve().parent
A = HERE / "bert" / "a"
TEMPERATURE = 0.05
PAIRS = [(0, 9), (4, 5), (2, 11), (7, 6), (12, 1), (13, 3), (8, 10), (15, 14)]
# One partner twice, one text twice, a pair the other way round, a text that is another's partner.
REPEATED = [(0, 9), (4, 9), (4, 5), (5, 4), (2, 11), (11, 7)]


def features(fixture, rows):
    batch = common.pad([fixture["input_ids"][i] for i in rows], [fixture["token_type_ids"][i] for i in rows])
    return dict(batch)


def gradients(model):
    named = [(n.removeprefix("0.auto_model.").removeprefix("0.model."), p) for n, p in model.named_parameters()]
    rng = torch.Generator().manual_seed(2)
    found = {}
    for name, p in named:
        if p.grad is None:
            continue
        flat = p.grad.flatten()
        at = torch.nonzero(flat).flatten()
        at = at[torch.randperm(len(at), generator=rng)[:6]].sort().values.tolist()
        found[name] = {"l2": common.round9(flat.norm().item()), "samples": [[i, common.round9(flat[i].item())] for i in at]}
    return found


def main():
    torch.set_default_dtype(torch.float64)
    fixture = json.loads((A / "fixture.json").read_text())
    word = models.Transformer(str(A), max_seq_length=40)
    model = SentenceTransformer(modules=[word, models.Pooling(word.get_word_embedding_dimension(), pooling_mode="mean")], device="cpu")
    model.to(torch.float64).eval()
    out = {"temperature": TEMPERATURE}

    def entry(pairs, loss):
        model.zero_grad(set_to_none=True)
        value = loss([features(fixture, [p[side] for p in pairs]) for side in (0, 1)])
        if value.requires_grad:
            value.backward()
        return {
            "texts": [a for a, _ in pairs], "partners": [b for _, b in pairs],
            "loss": common.round9(value.item()), "grads": gradients(model),
        }

    plain = losses.MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE)
    cached = losses.CachedMultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE, mini_batch_size=3)
    out["pairs"] = entry(PAIRS, lambda x: cached(x, torch.zeros(1)))
    other = entry(PAIRS, lambda x: plain(x, torch.zeros(1)))
    assert abs(other["loss"] - out["pairs"]["loss"]) < 1e-8, (other["loss"], out["pairs"]["loss"])

    def masked(sentences):
        a, b = (model(x)["sentence_embedding"] for x in sentences)
        scores = util.cos_sim(a, b) / TEMPERATURE
        shared = [[i != j and bool(set(p) & {q[1]} or p[0] == q[0]) for j, q in enumerate(REPEATED)] for i, p in enumerate(REPEATED)]
        scores = scores.masked_fill(torch.tensor(shared), float("-inf"))
        return torch.nn.functional.cross_entropy(scores, torch.arange(len(REPEATED)))

    out["repeated"] = entry(REPEATED, masked)
    assert abs(out["repeated"]["loss"] - entry(REPEATED, lambda x: plain(x, torch.zeros(1)))["loss"]) > 0.05
    common.dump(HERE / "contrastive.json", out)
    print(out["pairs"]["loss"], other["loss"], out["repeated"]["loss"], len(out["pairs"]["grads"]))


if __name__ == "__main__":
    main()
