#!/usr/bin/env python3
"""Writes tests/golden/encoders: a small classifier of each architecture saved by transformers, and what it must compute.

    python3 -m pip install torch==2.15.0 transformers==5.23.0
    python3 tests/golden/make_encoders.py [NAME...]

Weights are random, but not small: standard deviation 0.2, no bias 0, no layer norm's weight 1, so that a wrong sign,
epsilon, activation, name or transpose shows in every number. Two layers, hidden 24, 3 heads; fixture.json has the keys
of make_bert.py's (README.md here), without the ten AdamW steps.
"""
import shutil
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification

import common

OUT = Path(__file__).resolve().parent / "encoders"
VOCAB, LONGEST, BATCH = 90, 24, 16
SIZES = dict(vocab_size=VOCAB, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
             max_position_embeddings=LONGEST, type_vocab_size=2)
# A padding id of 1 takes two rows from the positions; RoBERTa's eps is 1e-5 in its published files.
ROBERTA = dict(SIZES, max_position_embeddings=LONGEST + 2, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5)
MODERN = dict({k: v for k, v in SIZES.items() if k != "type_vocab_size"}, num_hidden_layers=4, pad_token_id=0, bos_token_id=1, attention_dropout=0.1, embedding_dropout=0.1, mlp_dropout=0.1,
              eos_token_id=2, cls_token_id=1, sep_token_id=2)
MODELS = {
    "roberta": ("Roberta", ROBERTA),
    "xlm-roberta": ("XLMRoberta", dict(ROBERTA, hidden_act="gelu_new")),
    "distilbert": ("DistilBert", dict(vocab_size=VOCAB, dim=24, n_layers=2, n_heads=3, hidden_dim=40,
                                      max_position_embeddings=LONGEST)),
    "electra": ("Electra", dict(SIZES, embedding_size=16)),
    # ELECTRA-base has no map between the two widths.
    "electra-wide": ("Electra", dict(SIZES, embedding_size=24)),
    # Three layers of two sets of weights: the first set runs twice, so its gradients are sums.
    "albert": ("Albert", dict(SIZES, embedding_size=16, num_hidden_layers=3, num_hidden_groups=2)),
    # Types 0, 1 and, for the last token, 2; distances beyond seven are one, so that the sinusoids' ends show.
    "xlnet": ("XLNet", dict(vocab_size=VOCAB, d_model=24, n_layer=2, n_head=3, d_inner=40, pad_token_id=0)),
    "xlnet-clamped": ("XLNet", dict(vocab_size=VOCAB, d_model=24, n_layer=2, n_head=3, d_inner=40, pad_token_id=0, clamp_len=7,
                                   ff_activation="relu")),
    # Windows of four tokens to each side in the second and the third layer.
    "modernbert": ("ModernBert", dict(MODERN, local_attention=8)),
    # Every bias there is, the mean over tokens, each layer another kind by name, windows wider than any text.
    "modernbert-mean": ("ModernBert", dict(MODERN, attention_bias=True, mlp_bias=True, norm_bias=True, classifier_bias=True,
                                           classifier_pooling="mean", hidden_activation="gelu_pytorch_tanh",
                                           layer_types=["sliding_attention", "full_attention"] * 2)),
}


def turned(q, k, cos, sin, unsqueeze_dim=1):
    """ModernBERT's rotary positions; transformers rounds queries and keys to f32 first, which a reference in f64 must not."""
    half = q.shape[-1] // 2
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    turn = lambda x: x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin
    return turn(q), turn(k)


def exact_angles(modeling):
    """Has ModernBERT compute in f64 what it computes in f32, and checks that in f32 it is the same."""
    theirs, rng = modeling.apply_rotary_pos_emb, torch.Generator().manual_seed(1)
    q, k = torch.randn(2, 3, 5, 8, generator=rng), torch.randn(2, 3, 5, 8, generator=rng)
    angle = torch.randn(2, 5, 8, generator=rng)
    for a, b in zip(theirs(q, k, angle.cos(), angle.sin()), turned(q, k, angle.cos(), angle.sin())):
        assert torch.equal(a, b)
    modeling.apply_rotary_pos_emb = turned

    def forward(self, x, position_ids, layer_type):
        base = self.config.rope_parameters[layer_type]["rope_theta"]
        dim = self.config.hidden_size // self.config.num_attention_heads
        angles = position_ids[..., None].double() / base ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)

    emb = modeling.ModernBertRotaryEmbedding
    config = transformers.ModernBertConfig(**MODERN)
    x, at = torch.zeros(1), torch.arange(LONGEST)[None]
    for kind in ("full_attention", "sliding_attention"):
        for a, b in zip(emb(config)(x, at, kind), forward(emb(config), x, at, kind)):
            assert (a - b).abs().max() < 1e-5
    emb.forward = forward


def build(kind, seed, settings):
    labels = {0: "negative", 1: "neutral", 2: "positive"}
    config = getattr(transformers, kind + "Config")(
        id2label=labels, label2id={v: k for k, v in labels.items()}, problem_type="single_label_classification", **settings)
    model = getattr(transformers, kind + "ForSequenceClassification")(config)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = 0.2 * torch.randn(p.shape, generator=rng)
            p.copy_(1 + noise if common.is_norm(name) else noise)
    return model.eval()


def batch(seed, types, pad):
    """16 ragged sequences, lengths 1 to 24 with both ends; no id is the padding's, whose row transformers gives no gradient."""
    rng = torch.Generator().manual_seed(seed)
    draw = lambda low, high, n: torch.randint(low, high, (n,), generator=rng).tolist()
    lengths = [1, LONGEST, 2, LONGEST - 1] + draw(1, LONGEST + 1, BATCH - 4)
    rows = [draw(pad + 1, VOCAB, n) for n in lengths]
    firsts = [draw(0, n + 1, 1)[0] if types > 1 else n for n in lengths]
    return rows, [[0] * f + [1] * (n - f) for f, n in zip(firsts, lengths)]


def main():
    common.fixed()
    exact_angles(transformers.models.modernbert.modeling_modernbert)
    for seed, (name, (kind, settings)) in enumerate(MODELS.items()):
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        folder = OUT / name
        shutil.rmtree(folder, ignore_errors=True)
        build(kind, seed + 300, settings).save_pretrained(folder)
        load = lambda dtype: AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).eval().to(dtype)
        config = load(torch.float32).config
        pad = config.pad_token_id
        types = getattr(config, "type_vocab_size", 2 if kind == "XLNet" else 0)
        rows, kinds = batch(seed + 400, types, pad)
        if kind == "XLNet":
            kinds = [k[:-1] + [2] for k in kinds]
        rng = torch.Generator().manual_seed(seed + 500)
        labels = torch.randint(0, 3, (BATCH,), generator=rng)
        fixture, grads = common.one_pass(load, rows, kinds if types > 0 else None, labels, pad)
        common.dump(folder / "fixture.json", {"problem_type": "single_label_classification", **fixture})
        save_file({n: g.float().contiguous() for n, g in grads.items()}, folder / "grads.safetensors")
        print(name, {k: fixture[k] for k in ("loss", "grad_norm")}, fixture["f32"], sep="\n  ")
    size = sum(f.stat().st_size for f in OUT.rglob("*") if f.is_file())
    print(f"{size / 1e6:.2f} MB in {OUT}")


if __name__ == "__main__":
    main()
