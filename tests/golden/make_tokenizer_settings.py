"""Writes tests/golden/tokenizer-settings/: tokenizer folders whose files disagree, and what transformers makes of texts with them.

    pip install transformers==5.23.0 tokenizers==0.23.3 sentencepiece protobuf
    python tests/golden/make_tokenizer_settings.py

A case names a base, changes its files, and says what AutoTokenizer then gives: ids and *byte* offsets of every text in `texts`, ids and
types of every pair in `pairs`, the ids of the first text cut to CUT tokens. A case that transformers cannot open has an `error`; one that
tempra refuses although transformers opens it has `refused`, a word of tempra's message. `types` says whether the model is given token types.
"""
import copy
import json
import shutil
import tempfile
from pathlib import Path

import transformers
from transformers import AlbertTokenizer, AutoTokenizer, BertTokenizer, RobertaTokenizer, XLMRobertaTokenizer, XLNetTokenizer

HERE = Path(__file__).resolve().parent
OUT = HERE / "tokenizer-settings"
CUT = 7
# A base: the type of its model, and its files, by their place under tests/golden.
BASES = {
    "bert": ("bert", {"vocab.txt": "data/bert-cased/vocab.txt"}, BertTokenizer),
    "roberta": ("roberta", {"vocab.json": "subwords/roberta/vocab.json", "merges.txt": "subwords/roberta/merges.txt"}, RobertaTokenizer),
    "xlm-roberta": ("xlm-roberta", {"sentencepiece.bpe.model": "subwords/xlm-roberta/sentencepiece.bpe.model"}, XLMRobertaTokenizer),
    "albert": ("albert", {"spiece.model": "subwords/albert/spiece.model"}, AlbertTokenizer),
    "xlnet": ("xlnet", {"spiece.model": "subwords/xlnet/spiece.model"}, XLNetTokenizer),
    "modernbert": ("modernbert", {}, None),
}
TEXTS = [
    "The Movie was unbelievably GOOD, Café!",
    "a naïve café cafe\u0301 déjà vu; Straße ÀÉ",
    "東京 and 大大阪 the大",
    " emoji 😀 dog🐕\u200d🦺 plays  two  spaces ",
    "[MASK] <mask> the [SEP] </s> in, [UNK] <unk> [CLS]<cls> <sep> [PAD]<pad>",
    "newtok in aNewTokb, <ent>good</ent> NEWTOK good<e1> the@@ <ent> cafétok",
    "``so'' it\u2019s\u2026 \uff21\uff22 1,234,",
    "tab\tand\nline\u00a0nbsp \x01z\u200bw",
    "",
]
PAIRS = [("the movie", "a Café"), ("", "newtok")]


def token(content, special=True, normalized=None, **flags):
    flags = {"lstrip": False, "rstrip": False, "single_word": False, **flags}
    return {"content": content, "normalized": not special if normalized is None else normalized, "special": special, **flags}


def cases():
    J, M = "tokenizer.json", "special_tokens_map.json"
    vocab_only = {"without": [J]}
    both = lambda name, **c: [
        {"name": f"{name}, tokenizer.json", **c},
        {"name": f"{name}, older files", **c, **vocab_only},
    ]
    config = lambda **c: {"config": c}
    bert = lambda name, **c: both(f"bert: {name}", base="bert", **c)
    out = []
    add = out.extend
    # The classes as they are.
    for base in BASES:
        add(both(base, base=base) if base != "modernbert" else [{"name": base, "base": base}])
    # BERT's normalizer.
    for flags in (
        {"do_lower_case": False}, {"do_lower_case": True}, {"strip_accents": False}, {"strip_accents": True, "do_lower_case": False},
        {"strip_accents": None, "do_lower_case": True}, {"tokenize_chinese_chars": False}, {"do_lower_case": False, "tokenize_chinese_chars": False},
        {"do_basic_tokenize": False}, {"never_split": ["Movie"]}, {"lowercase": False}, {"clean_text": False}, {"handle_chinese_chars": False},
        {"keep_accents": True}, {"add_prefix_space": True}, {"wordpieces_prefix": "@@"}, {"split_special_tokens": True},
    ):
        add(bert(json.dumps(flags), **config(**flags)))
    # What tokenizer.json says and its class does not look at.
    N = "normalizer"
    for patch in (
        {f"{N}.lowercase": False}, {f"{N}.strip_accents": False, f"{N}.handle_chinese_chars": False}, {f"{N}.clean_text": False}, {N: None},
        {N: {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}},
        {"pre_tokenizer": {"type": "Whitespace"}}, {"model.unk_token": "a"}, {"model.max_input_chars_per_word": 5}, {"model.continuing_subword_prefix": "#"},
        {"post_processor": {"type": "BertProcessing", "sep": ["[MASK]", 4], "cls": ["[CLS]", 2]}}, {"post_processor": None},
        {"truncation": {"direction": "Left", "max_length": 5, "strategy": "LongestFirst", "stride": 0}},
        {"padding": {"strategy": {"Fixed": 16}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}},
        {"added_tokens": []},
    ):
        for klass in ("BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast", None):
            if klass != "BertTokenizerFast" or patch == {N: None}:
                c = config() if klass is None else config(tokenizer_class=klass)
                if patch == {"post_processor": None} and klass == "PreTrainedTokenizerFast":
                    c["refused"] = "adds no special tokens"
                out.append({"name": f"bert: patched {json.dumps(patch)} as {klass}", "base": "bert", "patch": patch, **c})
    out.append({"name": "bert: no tokenizer_config.json over a cased tokenizer.json", "base": "bert", "patch": {f"{N}.lowercase": False}})
    for klass in ("DistilBertTokenizer", "ElectraTokenizer", "ElectraTokenizerFast", "TokenizersBackend"):
        out.append({"name": f"bert: {klass}, cased", "base": "bert", "patch": {f"{N}.lowercase": False}, **config(tokenizer_class=klass)})
        if klass != "TokenizersBackend":
            add(bert(f"{klass}, cased", **config(tokenizer_class=klass, do_lower_case=False)))
    for model in ("distilbert", "electra", "modernbert"):
        c = dict(base="bert", model=model, patch={f"{N}.lowercase": False})
        out.append({"name": f"{model}: no class", **c})
        out.append({"name": f"{model}: BertTokenizer", **c, **config(tokenizer_class="BertTokenizer")})
    # Added tokens.
    n = {"bert": 159, "roberta": 340, "xlm-roberta": 302, "albert": 300, "xlnet": 300, "modernbert": 340}
    for base, first in n.items():
        older = (lambda name, **c: [{"name": f"{name}, tokenizer.json", **c}]) if base == "modernbert" else both
        variants = {
            "added_tokens.json": {"files": {"added_tokens.json": {"newtok": first, "<ent>": first + 1}}},
            "added_tokens.json, unordered": {"files": {"added_tokens.json": {"<ent>": first + 1, "newtok": first}}},
            "added_tokens.json, special by the map": {"files": {"added_tokens.json": {"NewTok": first}, M: {"additional_special_tokens": ["NewTok"]}}},
            "added_tokens_decoder": config(added_tokens_decoder={str(first): token("newtok", False), str(first + 1): token("<ent>")}),
            "added_tokens_decoder, not normalized": config(added_tokens_decoder={str(first): token("NewTok", False, False), str(first + 1): token("GOOD", False, True)}),
            "added_tokens_decoder, stripping": config(added_tokens_decoder={str(first): token("<ent>", True, lstrip=True, rstrip=True), str(first + 1): token("newtok", False, single_word=True)}),
            "added_tokens_decoder, a gap": config(added_tokens_decoder={str(first + 5): token("<ent>")}),
            "added_tokens_decoder, of the vocabulary": config(added_tokens_decoder={"9": token("the", False, False)}),
            "added_tokens_decoder, empty": config(added_tokens_decoder={}),
            "added_tokens_decoder and added_tokens.json": {**config(added_tokens_decoder={str(first): token("<ent>")}), "files": {"added_tokens.json": {"newtok": first}}},
            "additional_special_tokens": config(additional_special_tokens=["<ent>", "NewTok"]),
            "extra_special_tokens": config(extra_special_tokens=["<e1>", token("<ent>", lstrip=True) | {"__type": "AddedToken"}]),
            "extra_special_tokens, named": config(extra_special_tokens={"ent_token": "<ent>"}),
            "a token of its own": config(ent_token="<ent>"),
            "special_tokens_map.json, extra": {"files": {M: {"additional_special_tokens": ["<ent>"]}}},
            "added in tokenizer.json": {"append": {"added_tokens": [{"id": first, **token("newtok", False)}, {"id": first + 1, **token("<ent>")}]}},
            "added in tokenizer.json, others in the decoder": {**config(added_tokens_decoder={str(first): token("<e1>")}), "append": {"added_tokens": [{"id": first, **token("newtok", False)}]}},
            "added in tokenizer.json, others in added_tokens.json": {"append": {"added_tokens": [{"id": first, **token("newtok", False)}]}, "files": {"added_tokens.json": {"<ent>": first, "<e1>": first + 1}}},
        }
        for name, c in variants.items():
            out.extend([{"name": f"{base}: {name}", "base": base, **c}] if "append" in c else older(f"{base}: {name}", base=base, **c))
    # Special tokens under other names.
    renamed = dict(cls_token="a", sep_token="of", unk_token="the", pad_token="!", mask_token="movie")
    add(bert("special tokens of other names", **config(**renamed)))
    add(bert("one special token of another name", **config(sep_token=".")))
    add(bert("a mask of another name", **config(mask_token="<mask>")))
    add(bert("special_tokens_map.json", files={M: {"sep_token": "!", "mask_token": token("film", lstrip=True) | {}}}))
    add(bert("special_tokens_map.json against tokenizer_config.json", files={M: {"sep_token": "!"}}, **config(sep_token="?")))
    add(bert("special_tokens_map.json beside added_tokens_decoder", files={M: {"sep_token": "!"}}, **config(added_tokens_decoder={"3": token("[SEP]")})))
    add(bert("an AddedToken in tokenizer_config.json", **config(mask_token=token("[MASK]", lstrip=True) | {"__type": "AddedToken"})))
    add(bert("special tokens that are null", **config(pad_token=None, mask_token=None)))
    for base, names in {"roberta": ("a", "e"), "xlm-roberta": ("▁the", "▁a"), "albert": ("▁the", "▁a"), "xlnet": ("▁the", "▁a"), "modernbert": ("a", "e")}.items():
        older = (lambda name, **c: [{"name": f"{name}, tokenizer.json", **c}]) if base == "modernbert" else both
        for keys in (("cls_token", "sep_token"), ("bos_token", "eos_token"), ("unk_token", "mask_token")):
            add(older(f"{base}: {' and '.join(keys)} of other names", base=base, **config(**dict(zip(keys, names)))))
        mask = "[MASK]" if base == "albert" else "<mask>"
        add(older(f"{base}: a mask that strips", base=base, **config(mask_token=token(mask, lstrip=True) | {"__type": "AddedToken"})))
        add(older(f"{base}: a mask that does not strip", base=base, **config(added_tokens_decoder={"4": token(mask, lstrip=False)})))
    # The subword classes.
    for base in ("roberta", "xlm-roberta", "albert", "xlnet", "modernbert"):
        older = (lambda name, **c: [{"name": f"{name}, tokenizer.json", **c}]) if base == "modernbert" else both
        for flags in (
            {"add_prefix_space": True}, {"add_prefix_space": False}, {"trim_offsets": False}, {"do_lower_case": True}, {"do_lower_case": False},
            {"keep_accents": True}, {"keep_accents": False}, {"remove_space": False}, {"legacy": False}, {"split_special_tokens": True},
            {"add_bos_token": True, "add_eos_token": True}, {"sp_model_kwargs": {"nbest_size": -1}}, {"errors": "strict"}, {"unk_id": 5},
        ):
            add(older(f"{base}: {json.dumps(flags)}", base=base, **config(**flags)))
            # They mean something else once there is a tokenizer.json, as in what tempra saves.
            refused = {"albert": "add_bos_token", "xlnet": "unk_id"}.get(base)
            if refused in flags:
                out[-1]["refused"] = refused
    for base in ("roberta", "xlm-roberta", "albert", "xlnet"):
        klass = BASES[base][2].__name__
        lower = {N: {"type": "Lowercase"}}
        for k in (klass, klass + "Fast", "PreTrainedTokenizerFast", None):
            out.append({"name": f"{base}: another normalizer as {k}", "base": base, "patch": lower, **(config() if k is None else config(tokenizer_class=k))})
        pre = {"pre_tokenizer": {"type": "Whitespace"}} if base == "roberta" else {"pre_tokenizer.pretokenizers.1.prepend_scheme": "never"}
        out.append({"name": f"{base}: another pre_tokenizer", "base": base, "patch": pre})
        out.append({"name": f"{base}: no post_processor", "base": base, "patch": {"post_processor": None}})
    out.append({"name": "roberta: add_prefix_space in tokenizer.json", "base": "roberta", "patch": {"pre_tokenizer.add_prefix_space": True}})
    # How texts are cut.
    for base in BASES:
        for flags in ({"truncation_side": "left"}, {"model_max_length": 6}, {"max_len": 5}, {"padding_side": "left"}):
            out.append({"name": f"{base}: {json.dumps(flags)}", "base": base, **config(**flags)})
    # A side that stands in tokenizer.json alone, which other settings have written anew.
    left = {"truncation": {"direction": "Left", "max_length": 5, "strategy": "LongestFirst", "stride": 0}}
    for base in BASES:
        out.append({"name": f"{base}: cut from the left, with an added token", "base": base, "patch": left, **config(additional_special_tokens=["<ent>"])})
    # Whether the model is given token types.
    for base in BASES:
        for names in (["input_ids", "token_type_ids", "attention_mask"], ["input_ids", "attention_mask"]):
            out.append({"name": f"{base}: model_input_names with {len(names)}", "base": base, **config(model_input_names=names)})
    for model in ("distilbert", "electra", "albert"):
        for klass in ("DistilBertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast"):
            out.append({"name": f"{model}: types of a {klass}", "base": "bert", "model": model, **config(tokenizer_class=klass)})
    # Classes and code that tempra does not have, and files that a class cannot read.
    for klass in ("BertJapaneseTokenizer", "BertweetTokenizer", "CamembertTokenizer", "MPNetTokenizer", "GPT2Tokenizer", "RoFormerTokenizer", "NoSuchTokenizer"):
        for c in both(f"bert: {klass}", base="bert", **config(tokenizer_class=klass)):
            out.append({**c, "refused": klass})
    out.append({"name": "bert: a class of config.json", "base": "bert", "model_config": {"tokenizer_class": "BertJapaneseTokenizer"}, "refused": "BertJapaneseTokenizer"})
    out.append({"name": "bert: RobertaTokenizer", "base": "bert", **config(tokenizer_class="RobertaTokenizer"), "refused": "RobertaTokenizer"})
    out.append({"name": "bert: XLMRobertaTokenizer", "base": "bert", **config(tokenizer_class="XLMRobertaTokenizer"), "refused": "XLMRobertaTokenizer"})
    out.append({"name": "roberta: BertTokenizer", "base": "roberta", **config(tokenizer_class="BertTokenizer"), "refused": "BertTokenizer"})
    out.append({"name": "bert: auto_map", "base": "bert", **config(auto_map={"AutoTokenizer": ["code.Tokenizer", None]}), "refused": "auto_map"})
    out.append({"name": "modernbert: vocab.txt alone", "base": "bert", "model": "modernbert", **vocab_only, "refused": "tokenizer.json"})
    out.append({"name": "bert: PreTrainedTokenizerFast without tokenizer.json", "base": "bert", **config(tokenizer_class="PreTrainedTokenizerFast"), **vocab_only, "refused": "tokenizer.json"})
    return out


def patched(value, changes):
    for path, new in changes.items():
        at, keys = value, path.split(".")
        for key in keys[:-1]:
            at = at[int(key)] if isinstance(at, list) else at[key]
        at[int(keys[-1]) if isinstance(at, list) else keys[-1]] = new
    return value


def build(case, folder):
    """The folder of a case; tests/all/tokenizer_settings.rs does the same."""
    model, files, _ = BASES[case["base"]]
    files = {**files, "tokenizer.json": f"tokenizer-settings/{case['base']}.json"}
    for name, source in files.items():
        if name not in case.get("without", []):
            shutil.copy(HERE / source, folder / name)
    if "patch" in case or "append" in case:
        path = folder / "tokenizer.json"
        value = patched(json.loads(path.read_text(encoding="utf-8")), case.get("patch", {}))
        for key, more in case.get("append", {}).items():
            value[key] = value[key] + copy.deepcopy(more)
        path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    for name, content in case.get("files", {}).items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    if "config" in case:
        (folder / "tokenizer_config.json").write_text(json.dumps(case["config"]), encoding="utf-8")
    config = {"model_type": case.get("model", model), **case.get("model_config", {})}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def in_bytes(text, span):
    return [len(text[:i].encode()) for i in span]


def encoded(tok):
    texts = tok(TEXTS, return_offsets_mapping=True)
    spans = []
    for i, text in enumerate(TEXTS):
        seq = texts.sequence_ids(i)
        spans.append([x for s, o in zip(seq, texts["offset_mapping"][i]) for x in ([0, 0] if s is None else in_bytes(text, o))])
    pairs = tok([a for a, _ in PAIRS], [b for _, b in PAIRS], return_token_type_ids=True)
    cut = tok(TEXTS[:1], truncation=True, max_length=CUT)["input_ids"][0]
    limit = tok.model_max_length if tok.model_max_length < 10**9 else None
    named = {k: tok.convert_tokens_to_ids(str(v)) for k in ("cls_token", "mask_token", "unk_token") if (v := getattr(tok, k)) is not None}
    return {
        "ids": texts["input_ids"], "offsets": spans, "pair_ids": pairs["input_ids"], "pair_types": pairs["token_type_ids"], "cut": cut,
        "model_max_length": limit, "named": named, "size": len(tok), "types": "token_type_ids" in tok.model_input_names,
    }


# Settings of bert/a, whose logits show what a setting is worth; every id has an embedding.
MODEL = {
    "as it is": {},
    "do_lower_case": {"do_lower_case": False},
    "strip_accents": {"strip_accents": False},
    "tokenize_chinese_chars": {"tokenize_chinese_chars": False},
    "added_tokens_decoder": {"added_tokens_decoder": {"1": token("[UNK]"), "2": token("[CLS]"), "3": token("[SEP]"), "100": None}},
    "special tokens": {"cls_token": "[SEP]", "sep_token": "[CLS]"},
    "pairs": {},
    "pairs without token types": {"model_input_names": ["input_ids", "attention_mask"]},
}
# The second text of each row of the pairs.
SECOND = "this film was not so good"
ROWS = ["The Movie was GOOD, Café", "this is a NICE place", "a cafe\u0301 for naïve people 東京", "nothing good [MASK] here", "the food is bad"]


def logits():
    """Of bert/a under each of the settings, from f32, which is what tempra computes in."""
    import torch
    from transformers import AutoModelForSequenceClassification

    base = HERE / "bert" / "a"
    vocab = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    # A token of the vocabulary that is now found inside of words, and before lower-casing.
    inside = next(t for t in vocab if t.isalpha() and len(t) == 2 and any(t in r and f" {t} " not in f" {r} " for r in ROWS))
    MODEL["added_tokens_decoder"]["added_tokens_decoder"].pop("100", None)
    MODEL["added_tokens_decoder"]["added_tokens_decoder"][str(vocab[inside])] = token(inside, False, False)
    out = []
    for name, settings in MODEL.items():
        with tempfile.TemporaryDirectory() as d:
            shutil.copytree(base, d, dirs_exist_ok=True)
            path = Path(d) / "tokenizer_config.json"
            config = {**json.loads(path.read_text(encoding="utf-8")), **settings}
            path.write_text(json.dumps(config), encoding="utf-8")
            tok = AutoTokenizer.from_pretrained(d)
            model = AutoModelForSequenceClassification.from_pretrained(d).eval()
            second = {"text_pair": SECOND} if name.startswith("pairs") else {}
            with torch.no_grad():
                rows = [torch.softmax(model(**tok(r, **second, return_tensors="pt", truncation=True)).logits[0].double(), -1).tolist() for r in ROWS]
            out.append({"name": name, "config": config, "second": second.get("text_pair"), "probabilities": [[float(f"{x:.7g}") for x in r] for r in rows]})
    return out


def bases():
    OUT.mkdir(exist_ok=True)
    for name, (_, files, klass) in BASES.items():
        path = OUT / f"{name}.json"
        if klass is None:
            value = json.loads((HERE / "data/roberta/tokenizer.json").read_text(encoding="utf-8"))
            special = {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in (("<s>", 0), ("</s>", 2))}
            part = lambda t: {"SpecialToken": {"id": t, "type_id": 0}}
            a, b = ({"Sequence": {"id": x, "type_id": 0}} for x in "AB")
            value["post_processor"] = {
                "type": "TemplateProcessing", "single": [part("<s>"), a, part("</s>")],
                "pair": [part("<s>"), a, part("</s>"), b, part("</s>")], "special_tokens": special,
            }
            value["normalizer"] = {"type": "NFC"}
            value["truncation"] = value["padding"] = None
            value["added_tokens"][4]["lstrip"] = True
            path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
            continue
        with tempfile.TemporaryDirectory() as d:
            for file, source in files.items():
                shutil.copy(HERE / source, Path(d) / file)
            tok = klass.from_pretrained(d)
            value = json.loads(tok.backend_tokenizer.to_str())
            path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


def main():
    transformers.logging.set_verbosity(50)
    bases()
    done = []
    for case in cases():
        with tempfile.TemporaryDirectory() as d:
            build(case, Path(d))
            case = {**case}
            try:
                result = encoded(AutoTokenizer.from_pretrained(d))
                if "refused" not in case:
                    case.update(result)
            except BaseException as e:
                # Without advice on where to install something.
                case["error"] = f"{type(e).__name__}: {e}"[:200].replace(d, "DIR").split(" See http")[0]
        done.append(case)
    # Most cases give what another gives already: it is stored once.
    results, index = [], {}
    keys = ("ids", "offsets", "pair_ids", "pair_types", "cut", "named", "size")
    for case in done:
        if "ids" in case:
            result = {k: case.pop(k) for k in keys}
            text = json.dumps(result, ensure_ascii=False, separators=(",", ":"))
            case["gives"] = index.setdefault(text, len(index))
            if case["gives"] == len(results):
                results.append(text)
    found = logits()
    assert len({json.dumps(m["probabilities"]) for m in found}) == len(found), "a setting that does nothing shows nothing"
    line = lambda v: json.dumps(v, ensure_ascii=False, separators=(",", ":"))
    lines = ",\n".join(map(line, done))
    head = {"transformers": transformers.__version__, "cut_to": CUT, "texts": TEXTS, "pairs": PAIRS, "bases": {k: [m, f] for k, (m, f, _) in BASES.items()}}
    (OUT / "cases.json").write_text(
        "{" + line(head)[1:-1] + ',\n"cases":[\n' + lines + '\n],\n"results":[\n' + ",\n".join(results)
        + '\n],\n"rows":' + line(ROWS) + ',\n"models":[\n' + ",\n".join(map(line, found)) + "\n]}\n", encoding="utf-8")
    errors = [c["name"] for c in done if "error" in c]
    print(len(done), "cases,", len(results), "results,", len(errors), "errors")


if __name__ == "__main__":
    main()
