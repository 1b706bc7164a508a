#!/usr/bin/env python3
"""Writes tests/golden/heads: tiny classifiers as transformers and sentence-transformers save them, and what they say.

    python3 -m pip install torch==2.15.0 transformers==5.23.0 sentence-transformers==6.2.0
    python3 tests/golden/make_heads.py

The point is config.json, which is left as it was saved: without id2label for two labels, with LABEL_0 alone for one output, with and
without problem_type. Weights are random, of standard deviation 0.3; one layer, width 8. `fixture.json` of each folder:

texts           what was asked
logits          of each text (of taggers a list for each of its words), in f32
predictions     what transformers' text-classification pipeline makes of the logits: softmax, sigmoid, or nothing; of one output
                without problem_type, for which the pipeline and the training loss disagree, the logits
labels          the names by which transformers knows the outputs
activated       only of cross-encoders: what sentence-transformers' CrossEncoder.predict gives
"""
import json
import shutil
from pathlib import Path

import torch
import transformers
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers.pipelines.text_classification import TextClassificationPipeline

import common

OUT = Path(__file__).resolve().parent / "heads"
WORDS = "the a cat dog sat ran on mat in house big red good bad film and is was not very".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = ["the cat sat on the mat", "a very bad film", "good", "the big red dog ran in the house and was not good"]
SIZES = dict(vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12,
             max_position_embeddings=24, type_vocab_size=2)
BARE = {k: v for k, v in SIZES.items() if k != "type_vocab_size"}
KINDS = {
    "bert": ("Bert", SIZES),
    "roberta": ("Roberta", dict(SIZES, type_vocab_size=1, pad_token_id=0)),
    "xlm-roberta": ("XLMRoberta", dict(SIZES, type_vocab_size=1, pad_token_id=0)),
    "distilbert": ("DistilBert", dict(vocab_size=32, dim=8, n_layers=1, n_heads=2, hidden_dim=12, max_position_embeddings=24)),
    "electra": ("Electra", dict(SIZES, embedding_size=8)),
    "albert": ("Albert", dict(SIZES, embedding_size=8)),
    "modernbert": ("ModernBert", dict(BARE, pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3)),
    "xlnet": ("XLNet", dict(vocab_size=32, d_model=8, n_layer=1, n_head=2, d_inner=12, pad_token_id=0)),
}
NAMED = dict(id2label={0: "bad", 1: "fair", 2: "good"}, label2id={"bad": 0, "fair": 1, "good": 2})
# What the head is for, and the settings of its config.
HEADS = {
    "one": ("Sequence", dict(num_labels=1)),
    "two": ("Sequence", {}),
    "tags": ("Token", {}),
}
MORE = {
    "three": ("Sequence", dict(num_labels=3)),
    "named": ("Sequence", NAMED),
    "number": ("Sequence", dict(num_labels=1, problem_type="regression")),
    "label": ("Sequence", dict(num_labels=1, problem_type="multi_label_classification")),
    "labels": ("Sequence", dict(num_labels=3, problem_type="multi_label_classification")),
    "tags5": ("Token", dict(num_labels=5)),
    "tags1": ("Token", dict(num_labels=1)),
}


def tokenizer():
    vocab = {w: i for i, w in enumerate(SPECIAL + WORDS)}
    tok = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tok.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # A pair's texts have one type: not every model here has two.
    tok.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:0 [SEP]:0", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tok.add_special_tokens(SPECIAL)
    return tok


def build(kind, settings, head, more, seed):
    config = getattr(transformers, kind + "Config")(**settings, **more)
    model = getattr(transformers, f"{kind}For{head}Classification")(config)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = 0.3 * torch.randn(p.shape, generator=rng)
            p.copy_(1 + noise if common.is_norm(name) else noise)
    return model.eval()


def ask(model, tok, text, pair=None):
    with torch.no_grad():
        ids = torch.tensor([tok.encode(text, pair).ids])
        return model(input_ids=ids).logits[0]


def pipeline_scores(config, logits):
    """Through transformers' own code, but for one output without problem_type: there its sigmoid is of the pipeline alone."""
    if config.num_labels == 1 and config.problem_type is None:
        return logits.tolist()
    fake = type("Fake", (), {"model": type("Model", (), {"config": config})})()
    rows = TextClassificationPipeline.postprocess(fake, {"logits": logits[None]}, top_k=None, _legacy=True)
    return [r["score"] for r in rows]


def write(folder, model, tok, head):
    # What is open here, as it was saved there: from_pretrained fills in what config.json leaves out.
    again = type(model).from_pretrained(folder).eval()
    logits = [ask(again, tok, t) for t in TEXTS]
    fixture = {"texts": TEXTS, "labels": [again.config.id2label[i] for i in range(again.config.num_labels)]}
    if head == "Token":
        fixture["logits"] = [common.round9(l[1:-1].tolist()) for l in logits]
    else:
        fixture["logits"] = [common.round9(l.tolist()) for l in logits]
        fixture["predictions"] = [common.round9(pipeline_scores(again.config, l)) for l in logits]
    common.dump(folder / "fixture.json", fixture)


def main():
    common.fixed()
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    tok = tokenizer()
    tok.save(str(OUT / "tokenizer.json"))
    seed = 900
    for name, (kind, settings) in KINDS.items():
        for what, (head, more) in (HEADS | MORE if name in ("bert", "modernbert") else HEADS).items():
            seed += 1
            folder = OUT / f"{name}-{what}"
            model = build(kind, settings, head, more, seed)
            model.save_pretrained(folder)
            write(folder, model, tok, head)
    # config.json with num_labels alone, as older versions and people write it.
    for what, head in (("three", "bert-three"), ("tags5", "bert-tags5")):
        folder = OUT / f"{head}-count"
        shutil.copytree(OUT / head, folder)
        config = json.loads((folder / "config.json").read_text())
        n = len(config.pop("id2label"))
        del config["label2id"]
        config["num_labels"] = n
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        loaded = transformers.AutoConfig.from_pretrained(folder)
        assert loaded.num_labels == n and loaded.id2label[n - 1] == f"LABEL_{n - 1}"
    # Cross-encoders: sentence-transformers' default is a sigmoid; some are published with none.
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tok, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
                                                unk_token="[UNK]", mask_token="[MASK]", model_input_names=["input_ids", "attention_mask"])
    for what, activation in (("sigmoid", None), ("identity", torch.nn.Identity())):
        folder = OUT / f"cross-{what}"
        plain = OUT / "plain"
        shutil.copytree(OUT / "bert-one", plain)
        fast.save_pretrained(plain)
        encoder = CrossEncoder(str(plain), activation_fn=activation)
        encoder.save_pretrained(str(folder))
        shutil.rmtree(plain)
        pairs = [(t, TEXTS[2]) for t in TEXTS]
        again = CrossEncoder(str(folder))
        fixture = {"texts": TEXTS, "pairs": [b for _, b in pairs], "labels": ["LABEL_0"],
                   "logits": [common.round9(ask(again.model, tok, a, b).tolist()) for a, b in pairs],
                   "activated": common.round9(again.predict(pairs).tolist())}
        common.dump(folder / "fixture.json", fixture)
        for extra in folder.iterdir():
            if extra.suffix == ".md" or extra.name.startswith(("tokenizer", "special_tokens")):
                extra.unlink()
        print(sorted(p.name for p in folder.iterdir()), json.loads((folder / "config.json").read_text()))
    size = sum(f.stat().st_size for f in OUT.rglob("*") if f.is_file())
    print(f"{size / 1e6:.2f} MB in {OUT}")


if __name__ == "__main__":
    main()
