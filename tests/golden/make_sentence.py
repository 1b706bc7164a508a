#!/usr/bin/env python3
"""Writes tests/golden/sentence.json: folders of sentence-transformers about bert/a, and the vectors that it makes of texts.

    python3 -m pip install torch==2.15.0 transformers==5.23.0 sentence-transformers==6.2.0
    python3 tests/golden/make_sentence.py

A case has files by their paths; `at` is the folder in it that the model's own files stand in. `refused`: a word of tempra's message where
a setting is refused; sentence-transformers may take it.
"""
import json
import os
import shutil
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import transformers
import sentence_transformers
from sentence_transformers import SentenceTransformer

import common

HERE = Path(__file__).resolve().parent
TEXTS = ["The food was GOOD, Café", "a bad place", "It is a very nice little film and the story is good too, isn't it", "NOTHING", "cafe\u0301 東京"]
CASED = {"tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "model_max_length": 40}}
OLD = "sentence_transformers.models."
NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
}


def modules(*kinds, new=False, at=""):
    folders = {"Transformer": at}
    place = lambda i, k: folders.get(k, f"{i}_{k.split('.')[-1]}")
    name = lambda k: k if "." in k else NEW[k] if new else OLD + k
    return [{"idx": i, "name": str(i), "path": place(i, k), "type": name(k)} for i, k in enumerate(kinds)]


def pool(mode="mean_tokens", **more):
    keys = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    return {"word_embedding_dimension": 32, **{f"pooling_mode_{k}": k == mode for k in keys}, **more}


def cases():
    out = []

    def case(name, kinds=("Transformer", "Pooling", "Normalize"), pooling=None, settings=None, about=None, files=None, new=False, at="", config="sentence_bert_config.json", refused=None):
        all = {"modules.json": modules(*kinds, new=new, at=at), "1_Pooling/config.json": pool() if pooling is None else pooling}
        if settings is not None:
            all[f"{at}/{config}".lstrip("/")] = settings
        if about is not None:
            all["config_sentence_transformers.json"] = about
        for path, content in (files or {}).items():
            all[f"{at}/{path}".lstrip("/") if path == "tokenizer_config.json" else path] = content
        out.append({"name": name, "at": at, "files": all, **({"refused": refused} if refused else {})})

    two = ("Transformer", "Pooling")
    prompts = lambda **p: {"prompts": {"query": "very good: ", "None": ""}, "default_prompt_name": "query", **p}
    case("plain")
    case("names of version 6", new=True, settings={
        "transformer_task": "feature-extraction", "module_output_name": "token_embeddings",
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}},
        pooling={"embedding_dimension": 32, "pooling_mode": "cls", "include_prompt": True},
        files={"2_Normalize/config.json": {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}})
    case("no normalisation", two)
    case("cls without normalisation", two, pool("cls_token"))
    case("a list of one mode", two, {"embedding_dimension": 32, "pooling_mode": ["mean"]})
    case("no mode at all", two, {"word_embedding_dimension": 32})
    case("every mode false", two, pool(None))
    case("cased", files=CASED)
    case("lower case over a cased tokenizer", files=CASED, settings={"max_seq_length": 40, "do_lower_case": True})
    case("lower case over one that does it", settings={"max_seq_length": 40, "do_lower_case": True})
    case("six tokens", settings={"max_seq_length": 6, "do_lower_case": False})
    case("no longest text", settings={"max_seq_length": None}, files={"tokenizer_config.json": {**CASED["tokenizer_config.json"], "model_max_length": 8}})
    case("a default prompt", about=prompts())
    case("a default prompt, not normalised", two, about=prompts(default_prompt_name="query"))
    case("prompts without a default", about=prompts(default_prompt_name=None))
    case("an empty default prompt", about=prompts(default_prompt_name="None"), pooling=pool(include_prompt=False))
    case("lower case and a prompt", files=CASED, settings={"do_lower_case": True}, about=prompts())
    case("the old layout", at="0_Transformer", settings={"max_seq_length": 7, "do_lower_case": False})
    case("the old layout, lower case", two, pool("cls_token"), at="0_Transformer", settings={"max_seq_length": 40, "do_lower_case": True}, files=CASED)
    case("settings under an old name", settings={"max_seq_length": 5, "do_lower_case": False}, config="sentence_roberta_config.json")
    case("a dropout", ("Transformer", "Pooling", "Dropout", "Normalize"), files={"2_Dropout/config.json": {"dropout": 0.1}})
    # What tempra refuses by name.
    no = lambda name, refused, *kinds, **more: case(name, *kinds, refused=refused, **more)
    no("dense", "Dense", ("Transformer", "Pooling", "Dense"))
    no("layer norm", "LayerNorm", ("Transformer", "Pooling", "LayerNorm"))
    no("no pooling", "Transformer", ("Transformer",))
    no("code of its own", "custom_st.Transformer", ("custom_st.Transformer", "Pooling"))
    no("max", "max", two, pool("max_tokens"))
    no("the root of the length", "mean_sqrt_len_tokens", two, pool("mean_sqrt_len_tokens"))
    no("weighted mean", "weightedmean", two, {"pooling_mode": "weightedmean", "embedding_dimension": 32})
    no("last token", "lasttoken", two, {"pooling_mode": "lasttoken", "embedding_dimension": 32})
    no("two modes", "cls and mean", two, {"pooling_mode": ["cls", "mean"], "embedding_dimension": 32})
    no("a mean without the prompt", "include_prompt", about=prompts(), pooling=pool(include_prompt=False))
    no("a default prompt that is not there", "default_prompt_name", about=prompts(default_prompt_name="passage"))
    no("another task", "transformer_task", settings={"transformer_task": "sequence-classification"})
    no("another output", "modality_config", settings={"modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}}})
    no("arguments for the tokenizer", "tokenizer_args", settings={"tokenizer_args": {"do_lower_case": False}})
    no("arguments for the model", "model_kwargs", settings={"model_kwargs": {"attn_implementation": "eager"}})
    no("how texts are processed", "processing_kwargs", settings={"processing_kwargs": {"text": {"max_length": 4}}})
    no("another tokenizer", "tokenizer_name_or_path", settings={"tokenizer_name_or_path": "x"})
    no("another input of the normalisation", "module_input_name", files={"2_Normalize/config.json": {"module_input_name": "token_embeddings"}})
    return out


def build(case, folder):
    inner = folder / case["at"]
    inner.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(HERE / "bert/a" / name, inner / name)
    for path, content in case["files"].items():
        (folder / path).parent.mkdir(exist_ok=True, parents=True)
        (folder / path).write_text(json.dumps(content), encoding="utf-8")


def main():
    common.fixed()
    done = []
    for case in cases():
        if "refused" not in case:
            with tempfile.TemporaryDirectory() as d:
                build(case, Path(d))
                vectors = SentenceTransformer(d, device="cpu").encode(TEXTS)
                case["vectors"] = [[float(f"{x:.7g}") for x in v] for v in vectors.tolist()]
        done.append(case)
    versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__, "sentence-transformers": sentence_transformers.__version__}
    line = lambda v: json.dumps(v, ensure_ascii=False, separators=(",", ":"))
    text = "{" + line({"versions": versions, "texts": TEXTS})[1:-1] + ',\n"cases":[\n' + ",\n".join(map(line, done)) + "\n]}\n"
    (HERE / "sentence.json").write_text(text, encoding="utf-8")
    different = len({line(c["vectors"]) for c in done if "vectors" in c})
    print(len(done), "cases,", different, "different vectors")


if __name__ == "__main__":
    main()
