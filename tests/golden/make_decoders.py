#!/usr/bin/env python3
"""Writes tests/golden/decoders: small masked language models whose last map is not the token table, or has no bias.

    python3 -m pip install torch==2.15.0 transformers==5.23.0
    python3 tests/golden/make_decoders.py

Weights as make_encoders.py draws them. fixture.json: sequences, which of their tokens are asked for (`masked`, counted over all sequences),
`labels`, `logits` of those tokens, the mean cross-entropy; grads.safetensors: the gradient of every parameter. For XLNet the sequences and
ranks are those of xlnet-plm.json.
"""
import json
import shutil
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

import common
import make_encoders
import make_xlnet_plm

OUT = Path(__file__).resolve().parent / "decoders"
VOCAB, LONGEST = 90, 16
SIZES = dict(vocab_size=VOCAB, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
             max_position_embeddings=LONGEST, type_vocab_size=2, tie_word_embeddings=False)
MODERN = dict({k: v for k, v in SIZES.items() if k != "type_vocab_size"}, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
MODELS = {
    "bert": ("BertForMaskedLM", SIZES),
    # The config ties what the file holds with two values: transformers leaves it untied.
    "bert-tied-in-config": ("BertForMaskedLM", SIZES),
    "roberta": ("RobertaForMaskedLM", dict(SIZES, max_position_embeddings=LONGEST + 2, type_vocab_size=1, pad_token_id=1)),
    "xlm-roberta": ("XLMRobertaForMaskedLM", dict(SIZES, max_position_embeddings=LONGEST + 2, type_vocab_size=1, pad_token_id=1)),
    "albert": ("AlbertForMaskedLM", dict(SIZES, embedding_size=8)),
    "distilbert": ("DistilBertForMaskedLM", dict(vocab_size=VOCAB, dim=12, n_layers=1, n_heads=2, hidden_dim=16, max_position_embeddings=LONGEST,
                                                 tie_word_embeddings=False)),
    "modernbert": ("ModernBertForMaskedLM", dict(MODERN, decoder_bias=True)),
    "modernbert-no-bias": ("ModernBertForMaskedLM", dict(MODERN, decoder_bias=False, classifier_activation="relu", classifier_bias=True)),
    "modernbert-tied-no-bias": ("ModernBertForMaskedLM", dict(MODERN, tie_word_embeddings=True, decoder_bias=False)),
    "xlnet": ("XLNetLMHeadModel", dict(vocab_size=90, d_model=12, n_layer=1, n_head=2, d_inner=16, pad_token_id=0, tie_word_embeddings=False)),
}


def build(kind, seed, settings):
    model = getattr(transformers, kind)(getattr(transformers, kind).config_class(**settings))
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = 0.2 * torch.randn(p.shape, generator=rng)
            p.copy_(1 + noise if common.is_norm(name) else noise)
    return model.eval()


def masked(model, seed):
    rng = torch.Generator().manual_seed(seed)
    draw = lambda low, high, n: torch.randint(low, high, (n,), generator=rng).tolist()
    lengths = [2, LONGEST, 5, 7]
    rows = [draw(3, VOCAB, n) for n in lengths]
    kinds = [[0] * (n // 2) + [1] * (n - n // 2) for n in lengths] if getattr(model.config, "type_vocab_size", 0) > 1 else None
    where = [sorted(torch.randperm(n, generator=rng)[: max(1, n // 3)].tolist()) for n in lengths]
    labels = [draw(3, VOCAB, len(w)) for w in where]
    logits, loss, count = [], 0.0, sum(map(len, where))
    # One by one: nothing is padded.
    for i, row in enumerate(rows):
        more = {} if kinds is None else {"token_type_ids": torch.tensor([kinds[i]])}
        out = model(input_ids=torch.tensor([row]), attention_mask=torch.ones(1, len(row), dtype=torch.long), **more).logits[0]
        logits.append(out[where[i]])
        loss = loss + torch.nn.functional.cross_entropy(out[where[i]], torch.tensor(labels[i]), reduction="sum") / count
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    fixture = {
        "input_ids": rows,
        **({} if kinds is None else {"token_type_ids": kinds}),
        "masked": [s + t for s, w in zip(starts, where) for t in w],
        "labels": [x for l in labels for x in l],
        "logits": common.round9(torch.cat(logits).tolist()),
    }
    return fixture, loss


def permuted(model):
    loss, count = 0.0, 0
    for s in json.loads((OUT.parent / "xlnet-plm.json").read_text(encoding="utf-8"))["sequences"]:
        ids, ranks = s["input_ids"], s["ranks"]
        n = len(ids)
        perm = torch.tensor([[[float(ranks[j] > 0 and ranks[i] <= ranks[j]) for j in range(n)] for i in range(n)]], dtype=torch.float64)
        places = [t for t in range(n) if ranks[t] > 0]
        mapping = torch.zeros(1, len(places), n, dtype=torch.float64)
        for k, t in enumerate(places):
            mapping[0, k, t] = 1.0
        out = model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([s["token_type_ids"]]), perm_mask=perm, target_mapping=mapping)
        loss = loss + torch.nn.functional.cross_entropy(out.logits[0], torch.tensor([ids[t] for t in places]), reduction="sum")
        count += len(places)
    return {}, loss / count


def main():
    common.fixed()
    make_encoders.exact_angles(transformers.models.modernbert.modeling_modernbert)
    shutil.rmtree(OUT, ignore_errors=True)
    for seed, (name, (kind, settings)) in enumerate(MODELS.items()):
        folder = OUT / name
        build(kind, seed + 700, settings).save_pretrained(folder)
        if name == "bert-tied-in-config":
            path = folder / "config.json"
            config = json.loads(path.read_text(encoding="utf-8"))
            config["tie_word_embeddings"] = True
            path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        model = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float64).eval().double()
        if kind.startswith("XLNet"):
            make_xlnet_plm.double(model.transformer)
        fixture, loss = permuted(model) if kind.startswith("XLNet") else masked(model, seed + 800)
        loss.backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        stored = load_file(folder / "model.safetensors")
        # Untied, BERT's first bias has no part in anything.
        unused = sorted(set(stored) - set(grads))
        assert all(n.endswith((".bias", "seg_embed", "mask_emb", "pooler.weight")) for n in unused), unused
        versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
        common.dump(folder / "fixture.json", {"versions": versions, **fixture, "loss": common.round9(loss.item()), "grad_norm": common.round9(common.total_norm(grads))})
        save_file({n: g.float().contiguous() for n, g in grads.items()}, folder / "grads.safetensors")
        print(name, loss.item(), "without a gradient:", unused)


if __name__ == "__main__":
    main()
