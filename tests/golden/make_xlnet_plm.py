#!/usr/bin/env python3
"""Writes tests/golden/xlnet-plm.json: what transformers' two streams give for the small XLNet of tests/golden/encoders/xlnet.

    python3 -m pip install torch==2.15.0 transformers==5.23.0
    python3 tests/golden/make_xlnet_plm.py

Three sequences, each with some tokens predicted in a random order: ranks 1, 2, ... in the order of prediction, 0 for tokens that
are given. Outputs of the queries in the order of their tokens, in f64; and the gradients of mask_emb, of a query matrix and of a
segment embedding by the sum of all outputs times 1, 2, ... mod 7 less 3, as they come. Then the same with the language model's head on
it, whose bias is zero: the mean loss of all queries, and gradients by it.
"""
from pathlib import Path

import torch
from transformers import AutoModel, XLNetLMHeadModel

import common

HERE = Path(__file__).resolve().parent


def double(model):
    """Its branch for two streams does not cast the sinusoids, which are of f32."""
    positions = model.relative_positional_encoding
    model.relative_positional_encoding = lambda *a, **k: positions(*a, **k).double()


def main():
    common.fixed()
    lm = XLNetLMHeadModel.from_pretrained(HERE / "encoders/xlnet", dtype=torch.float64).eval().to(torch.float64)
    torch.nn.init.zeros_(lm.lm_loss.bias)
    double(lm.transformer)
    model = AutoModel.from_pretrained(HERE / "encoders/xlnet", dtype=torch.float64).eval().to(torch.float64)
    double(model)
    rng = torch.Generator().manual_seed(77)
    draw = lambda low, high, n: torch.randint(low, high, (n,), generator=rng).tolist()
    sequences, total, count, loss = [], 0.0, 0, 0.0
    for length, targets in ((9, 3), (24, 7), (2, 1)):
        ids, types = draw(1, 90, length), [0] * (length // 2) + [1] * (length - length // 2 - 1) + [2]
        where = torch.randperm(length, generator=rng)[:targets]
        ranks = [0] * length
        for rank, t in enumerate(where.tolist(), 1):
            ranks[t] = rank
        perm = torch.zeros(1, length, length, dtype=torch.float64)
        for i in range(length):
            for j in range(length):
                perm[0, i, j] = float(ranks[j] > 0 and ranks[i] <= ranks[j])
        places = [t for t in range(length) if ranks[t] > 0]
        mapping = torch.zeros(1, len(places), length, dtype=torch.float64)
        for n, t in enumerate(places):
            mapping[0, n, t] = 1.0
        inputs = {"input_ids": torch.tensor([ids]), "token_type_ids": torch.tensor([types]), "perm_mask": perm,
                  "target_mapping": mapping}
        out = model(**inputs).last_hidden_state[0]
        labels = torch.tensor([ids[t] for t in places])
        loss = loss + torch.nn.functional.cross_entropy(lm(**inputs).logits[0], labels, reduction="sum")
        weights = torch.tensor([(count + n) % 7 - 3 for n in range(1, out.numel() + 1)], dtype=torch.float64).view_as(out)
        count += out.numel()
        total = total + (out * weights).sum()
        sequences.append({"input_ids": ids, "token_type_ids": types, "ranks": ranks, "outputs": common.round9(out.tolist())})
    total.backward()
    named = dict(model.named_parameters())
    names = ["mask_emb", "layer.0.rel_attn.q", "layer.1.rel_attn.seg_embed", "layer.0.rel_attn.r"]
    grads = {"transformer." + n: common.round9(named[n].grad.flatten().tolist()) for n in names}
    loss = loss / sum(max(s["ranks"]) for s in sequences)
    loss.backward()
    named = dict(lm.named_parameters())
    names = ["lm_loss.bias", "transformer.word_embedding.weight", "transformer.mask_emb", "transformer.layer.1.rel_attn.v"]
    head = {"loss": loss.item(), "gradients": {n: common.round9(named[n].grad.flatten().tolist()) for n in names}}
    versions = {"torch": torch.__version__.split("+")[0], "transformers": __import__("transformers").__version__}
    common.dump(HERE / "xlnet-plm.json", {"versions": versions, "sequences": sequences, "gradients": grads, "head": head})


if __name__ == "__main__":
    main()
