"""Writes tests/golden/data/{bert,bert-cased,roberta}/ and tokens.json: the ids, types and byte offsets that transformers gives.

    python tests/golden/make_tokens.py        (transformers 5.23.0, tokenizers 0.23.3)
"""
import json
import shutil
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, decoders, processors, trainers
from transformers import AutoTokenizer, BertTokenizer

HERE = Path(__file__).parent / "data"
WORDS = """the a of movie film was is not good bad very great plot acting and but it i you cafe cafes naive deja vu
un ##believ ##able ##s ##ed ##ing ##ly play walk house run jump quick brown fox lazy dog over strasse tokyo
大 阪 東 京 ! ? . , ' " - ( ) # $ % & * + / : ; < = > @ [ ] ^ _ ` { | } ~ 0 1 2 3 4 5 6 7 8 9""".split()
LETTERS = [c for c in "abcdefghijklmnopqrstuvwxyzßéæ"]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + WORDS + LETTERS + ["##" + c for c in LETTERS]
CASED = ["The", "Movie", "Café", "naïve", "I", "A", "##É"]

TEXTS = [
    "",
    "   ",
    "the movie was good",
    "The MOVIE was   unbelievably good!!",
    "a naïve café, déjà vu; Straße",
    "東京 and 大阪 大大阪",
    "tab\tand\nnewline\r\nand\u00a0nbsp and \u2003em space",
    "zero\u200bwidth \u200djoiner and \u202ertl and control \x01\x02 and \ufffd",
    "emoji 😀 the dog 🐕‍🦺 plays",
    "e\u0301 combining cafe\u0301 and A\u030a",
    "[MASK] and [SEP] in the text, [UNK] too and [nothing]",
    "running jumped walks quickly unplayable",
    "x" * 101 + " the " + "a" * 100,
    "Ἑλληνικά и русский עברית العربية हिन्दी",
    "##able ## able # # #",
    "1,234.5 ($67) 89% a/b c_d e-f g@h.i",
]
PAIRS = [
    ("the movie was good", "the film was great"),
    ("", "a dog"),
    ("a dog", ""),
    ("the quick brown fox jumps over the lazy dog", "it was not good"),
    ("it was", "the quick brown fox jumps over the lazy dog and the plot was very bad"),
    ("café déjà vu 東京", "naïve 大阪 😀"),
    ("the quick brown fox jumps", "over the lazy dog and the plot"),
]


def in_bytes(text, span):
    return [len(text[:i].encode()) for i in span]


def case(tok, text, pair, max_length):
    # As lists: a single call drops a pair that is "", a batched one (what training does) keeps it.
    texts = ([text],) if pair is None else ([text], [pair])
    e = tok(*texts, truncation="longest_first", max_length=max_length, return_offsets_mapping=True,
            return_token_type_ids=True)
    ids, whole, seq = e["input_ids"][0], tok(*texts)["input_ids"][0], e.sequence_ids(0)
    spans = zip(seq, e["offset_mapping"][0])
    offsets = [[0, 0] if s is None else in_bytes(pair if s else text, o) for s, o in spans]
    unk = sum(1 for i, s in zip(ids, seq) if s is not None and i == tok.unk_token_id)
    return {"text": text, "pair": pair, "max_length": max_length, "ids": ids, "types": e["token_type_ids"][0],
            "offsets": offsets, "lost": len(whole) - len(ids), "unknown": unk}


def cases(tok):
    out = [case(tok, t, None, n) for t in TEXTS for n in (512, 7, tok.num_special_tokens_to_add(False))]
    lens = [512, 20, 13, 10, 9, 8, 7, 6, 5, tok.num_special_tokens_to_add(True)]
    return out + [case(tok, a, b, n) for a, b in PAIRS for n in lens]


def bert(name, vocab, **config):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    config = {"tokenizer_class": "BertTokenizer", "model_max_length": 128, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tok = BertTokenizer.from_pretrained(folder)
    assert tok.cls_token_id == 2 and tok.num_special_tokens_to_add(True) == 3, "not a BERT tokenizer"
    return cases(tok)


def roberta():
    folder = HERE / "roberta"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator([" ".join(WORDS)] + TEXTS, trainer)
    tok.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    # What a published file may carry and tempra must switch off.
    tok.enable_truncation(5)
    tok.enable_padding(length=16, pad_id=1, pad_token="<pad>")
    tok.save(str(folder / "tokenizer.json"), pretty=False)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>",
              "sep_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>",
              "model_max_length": 1000000000000000019884624838656}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tok = AutoTokenizer.from_pretrained(folder)
    assert tok.is_fast and tok.num_special_tokens_to_add(True) == 4
    return cases(tok)


if __name__ == "__main__":
    HERE.mkdir(parents=True, exist_ok=True)
    golden = {
        "bert": bert("bert", VOCAB),
        "bert-cased": bert("bert-cased", VOCAB + CASED, do_lower_case=False, strip_accents=False),
        "roberta": roberta(),
    }
    with open(HERE / "tokens.json", "w", encoding="utf-8") as f:
        json.dump(golden, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")
    print({k: len(v) for k, v in golden.items()})
