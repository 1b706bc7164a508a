"""Writes tests/golden/subwords/: small tokenizers as spiece.model, sentencepiece.bpe.model, vocab.json with merges.txt, and what
transformers makes of texts with them.

    pip install transformers==5.23.0 sentencepiece==0.2.1 protobuf
    python tests/golden/make_subwords.py
"""
import csv
import json
import os
import shutil
from pathlib import Path

import sentencepiece
from transformers import AlbertTokenizer, RobertaTokenizer, XLMRobertaTokenizer, XLNetTokenizer

import make_tokens

HERE = Path(__file__).resolve().parent
OUT = HERE / "subwords"
SENTENCES = HERE.parents[1] / "examples" / "sentiment" / "train.csv"
# How each published model was trained: its special tokens and their numbers.
TRAINED = {
    "xlnet": dict(control_symbols=["<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"], unk_id=0, bos_id=1, eos_id=2, pad_id=-1),
    "albert": dict(control_symbols=["[CLS]", "[SEP]", "[MASK]"], pad_id=0, unk_id=1, bos_id=-1, eos_id=-1),
    "xlm-roberta": dict(unk_id=0, bos_id=1, eos_id=2, pad_id=-1),
}
READERS = {"xlnet": XLNetTokenizer, "albert": AlbertTokenizer, "xlm-roberta": XLMRobertaTokenizer, "roberta": RobertaTokenizer}


def main():
    with open(SENTENCES, encoding="utf-8", newline="") as f:
        texts = [row["text"] for row in csv.DictReader(f)]
    corpus = OUT.with_suffix(".txt")
    # Full-width letters and a typographic apostrophe: a table of characters of hundreds of bytes instead of nfkc's 240 kB.
    rules = OUT.with_suffix(".tsv")
    rules.write_text("FF21\t41\nFF22\t42\n2019\t27\n2026\t2E 2E 2E\n")
    corpus.write_text("\n".join([*texts, "in 1,234 or 56, 7, 8, 9, years"] + make_tokens.TEXTS), encoding="utf-8")
    shutil.rmtree(OUT, ignore_errors=True)
    # A model keeps the paths that it was made with.
    os.chdir(HERE)
    cases = {}
    for name, reader in READERS.items():
        folder = OUT / name
        folder.mkdir(parents=True)
        if name == "roberta":
            model = json.loads((HERE / "data/roberta/tokenizer.json").read_text(encoding="utf-8"))["model"]
            (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
            merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
            (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
        else:
            stem = folder / ("sentencepiece.bpe" if name == "xlm-roberta" else "spiece")
            sentencepiece.SentencePieceTrainer.train(
                input=corpus.name, model_prefix=str(stem.relative_to(HERE)), vocab_size=300, hard_vocab_limit=False, num_threads=1,
                character_coverage=0.98, normalization_rule_tsv=rules.name, minloglevel=2, **TRAINED[name])
            stem.with_suffix(".bpe.vocab" if name == "xlm-roberta" else ".vocab").unlink()
        tok = reader.from_pretrained(folder)
        cases[name] = [make_tokens.case(tok, t, None, 512) for t in [*make_tokens.TEXTS, *texts[:60], "``so'' 1,234 and 56, 7,", "\uff21\uff22 it\u2019s\u2026"]]
        cases[name] += [make_tokens.case(tok, a, b, n) for a, b in make_tokens.PAIRS for n in (12, 512)]
    corpus.unlink()
    rules.unlink()
    (OUT / "tokens.json").write_text(json.dumps(cases, ensure_ascii=False, indent=None).replace('}, {"text"', '},\n{"text"') + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
