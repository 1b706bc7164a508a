#!/usr/bin/env python3
"""Measures a training step of each architecture with tempra and with PyTorch eager, in alternating rounds.

    cargo build --release
    python3 benches/peers/encoders.py [--tempra target/release/tempra] [--threads 2] [--rounds 3] [NAME...]

The models have random weights and MiniLM-L6's size (6 layers, width 384, 12 heads, feed-forward 1,536; ModernBERT's gated MLP 1,024). The
batch has 16 sequences of 64 tokens. A step is forward, backward, clipping at 1.0 and AdamW in f32 on the CPU, with the default dropout of
the class. Prints tokens/s of the median step of each round, and by what factor tempra is faster or slower: PyTorch's median time over all
rounds divided by tempra's, or the reverse. Rounds alternate so that noise of the machine affects both alike.
"""
import argparse
import json
import statistics
import subprocess
import tempfile
import time

import torch
import transformers

SEQUENCES, LENGTH = 16, 64
SIZE = dict(vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536,
            max_position_embeddings=514)
CONFIGS = {
    "bert": ("Bert", SIZE),
    "roberta": ("Roberta", dict(SIZE, type_vocab_size=1)),
    "distilbert": ("DistilBert", dict(vocab_size=30522, dim=384, n_layers=6, n_heads=12, hidden_dim=1536)),
    "electra": ("Electra", dict(SIZE, embedding_size=128)),
    "albert": ("Albert", dict(SIZE, embedding_size=128)),
    "xlnet": ("XLNet", dict(vocab_size=30522, d_model=384, n_layer=6, n_head=12, d_inner=1536)),
    "modernbert": ("ModernBert", dict(SIZE, intermediate_size=1024, local_attention=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                                      cls_token_id=1, sep_token_id=2)),
}


def torch_step(config, repeats):
    model = transformers.AutoModelForSequenceClassification.from_config(config).train()
    optim = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.01)
    ids = torch.randint(5, config.vocab_size, (SEQUENCES, LENGTH))
    batch = dict(input_ids=ids, attention_mask=torch.ones_like(ids), labels=torch.arange(SEQUENCES) % 2)
    took = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        optim.zero_grad(set_to_none=True)
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optim.step()
        took.append(time.perf_counter() - start)
    return statistics.median(took[1:])


def tempra_step(binary, folder, threads):
    run = [binary, "bench", "step", "--shape-of", folder, "--sequences", SEQUENCES, "--length", LENGTH, "--seconds", 2, "--threads", threads,
           "--no-sweep", "--json"]
    report = json.loads(subprocess.run(list(map(str, run)), check=True, capture_output=True).stdout)
    return next(s["seconds"]["median"] for s in report["steps"] if s["part"] == "base")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("names", nargs="*")
    p.add_argument("--tempra", default="target/release/tempra")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--repeats", type=int, default=5)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {args.threads} threads, {SEQUENCES} x {LENGTH} tokens")
    for name, (kind, settings) in CONFIGS.items():
        if args.names and name not in args.names:
            continue
        config = getattr(transformers, kind + "Config")(num_labels=2, **settings)
        ours, theirs = [], []
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            for _ in range(args.rounds):
                ours.append(tempra_step(args.tempra, folder, args.threads))
                theirs.append(torch_step(config, args.repeats))
        speed = lambda seconds: SEQUENCES * LENGTH / seconds
        rounds = ", ".join(f"{speed(a):.0f}/{speed(b):.0f}" for a, b in zip(ours, theirs))
        a, b = statistics.median(ours), statistics.median(theirs)
        words = f"{b / a:.2f}x faster" if a <= b else f"{a / b:.2f}x slower"
        print(f"{name:<11} tempra {speed(a):6.0f}  PyTorch {speed(b):6.0f} tokens/s  tempra is {words}   ({rounds})", flush=True)


if __name__ == "__main__":
    main()
