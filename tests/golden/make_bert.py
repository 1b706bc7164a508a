#!/usr/bin/env python3
"""Writes tests/golden/bert: small BERT classifiers saved by transformers, and what they must compute.

    python3 -m pip install torch==2.15.0 transformers==5.23.0
    python3 tests/golden/make_bert.py

  a/          3 layers, hidden 32, 4 heads, FFN 64, vocabulary 200, 40 positions, erf GELU; 3 labels, cross-entropy;
              with a word-piece tokenizer, and texts.json: texts, their ids and logits
  b/          the same with hidden 40, tanh GELU (`gelu_new`) and one output, mean squared error
  a-legacy/   the weights of a under the names of the first BERT releases (LayerNorm.gamma, LayerNorm.beta)
  a-sharded/  the weights of a in several files with model.safetensors.index.json

Weights are random, but not small: standard deviation 0.2, no bias 0, no LayerNorm weight 1, so that a wrong sign,
epsilon, activation or transpose shows in every number. See fixture.json's keys in README.md here.
"""
import csv
import re
import shutil
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification, BertTokenizer

import common

HERE = Path(__file__).resolve().parent
OUT = HERE / "bert"
SENTENCES = HERE.parents[1] / "examples" / "sentiment"
VOCAB, POSITIONS, BATCH = 200, 40, 32
MODELS = {
    "a": dict(hidden_size=32, hidden_act="gelu", id2label={0: "negative", 1: "neutral", 2: "positive"},
              problem_type="single_label_classification"),
    "b": dict(hidden_size=40, hidden_act="gelu_new", num_labels=1, problem_type="regression"),
}


def build(seed, **kw):
    if "id2label" in kw:
        kw["label2id"] = {label: i for i, label in kw["id2label"].items()}
    config = BertConfig(vocab_size=VOCAB, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
                        max_position_embeddings=POSITIONS, type_vocab_size=2, **kw)
    model = BertForSequenceClassification(config)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = 0.2 * torch.randn(p.shape, generator=rng)
            p.copy_(1 + noise if name.endswith("LayerNorm.weight") else noise)
    return model.eval()


def batch(seed):
    """32 ragged sequences, lengths 1 to 40 with both ends; token types all 0, all 1, or 0 then 1 in turn.

    Ids start at 1: transformers gives row 0, the padding row, no gradient, which a model without padding need not copy.
    """
    rng = torch.Generator().manual_seed(seed)
    draw = lambda low, high, n: torch.randint(low, high, (n,), generator=rng).tolist()
    lengths = [1, POSITIONS, 2, POSITIONS - 1] + draw(1, POSITIONS + 1, BATCH - 4)
    lengths = [lengths[i] for i in torch.randperm(BATCH, generator=rng).tolist()]
    rows = [draw(1, VOCAB, n) for n in lengths]
    firsts = [(n, 0, draw(0, n + 1, 1)[0])[i % 3] for i, n in enumerate(lengths)]
    types = [[0] * f + [1] * (n - f) for f, n in zip(firsts, lengths)]
    return rows, types


def tokenizer():
    """200 word pieces: the special tokens, every printable ASCII character, and the most frequent words of train.csv."""
    chars = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *chars, *("##" + c for c in chars if c.isalnum())]
    words = Counter()
    with open(SENTENCES / "train.csv", encoding="utf-8", newline="") as f:
        for row in csv.DictReader(f):
            words.update(re.findall(r"[a-z]{2,}", row["text"].lower()))
    common_first = sorted(words, key=lambda w: (-words[w], w))
    pieces += common_first[: VOCAB - len(pieces)]
    tok = BertTokenizer(vocab={p: i for i, p in enumerate(pieces)}, do_lower_case=True, model_max_length=POSITIONS)
    assert len(tok) == VOCAB
    return tok


def texts(tok, model):
    """The first 12 test sentences and two odd texts as word pieces, at most 40, and a's logits: as check_saved.py reads them."""
    with open(SENTENCES / "test.csv", encoding="utf-8", newline="") as f:
        listed = [row["text"] for row in csv.DictReader(f)][:12]
    listed += ["", "Café, naïve: 日本 🙂 (a word the vocabulary lacks is [UNK])\u0085"]
    rows = tok(listed, truncation=True, max_length=POSITIONS)["input_ids"]
    with torch.no_grad():
        logits = model.double()(**common.pad(rows, [[0] * len(r) for r in rows])).logits
    return {"max_length": POSITIONS, "texts": listed, "input_ids": rows, "logits": common.round9(logits.tolist())}


def main():
    common.fixed()
    shutil.rmtree(OUT, ignore_errors=True)
    for seed, (name, kw) in enumerate(MODELS.items()):
        folder = OUT / name
        build(seed, **kw).save_pretrained(folder)
        rows, types = batch(seed + 100)
        rng = torch.Generator().manual_seed(seed + 200)
        if kw["problem_type"] == "regression":
            labels = torch.tensor(common.round9(torch.randn(BATCH, generator=rng, dtype=torch.float64).tolist()), dtype=torch.float64)
        else:
            labels = torch.randint(0, len(kw["id2label"]), (BATCH,), generator=rng)
        load = lambda dtype: AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).eval()
        fixture, grads = common.reference(load, rows, types, labels, lr=1e-3, warmup_steps=2, steps=10)
        common.dump(folder / "fixture.json", {"problem_type": kw["problem_type"], **fixture})
        save_file({n: g.float().contiguous() for n, g in grads.items()}, folder / "grads.safetensors")
        print(name, {k: fixture[k] for k in ("loss", "grad_norm")}, fixture["f32"], fixture["train"]["losses"], sep="\n  ")

    a = OUT / "a"
    tok = tokenizer()
    tok.save_pretrained(a)
    load = lambda folder: AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    common.dump(a / "texts.json", texts(tok, load(a)))

    state = load_file(a / "model.safetensors")
    legacy, sharded = OUT / "a-legacy", OUT / "a-sharded"
    legacy.mkdir()
    rename = lambda n: n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    save_file({rename(n): t for n, t in state.items()}, legacy / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(a / "config.json", legacy)
    load(a).save_pretrained(sharded, max_shard_size="50KB")
    for folder in (legacy, sharded):
        for n, p in load(folder).state_dict().items():
            assert torch.equal(p, state[n]), f"{folder}: transformers reads another {n}"
    size = sum(f.stat().st_size for f in OUT.rglob("*") if f.is_file())
    print(f"{size / 1e6:.2f} MB in {OUT}")


if __name__ == "__main__":
    main()
