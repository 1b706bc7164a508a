#!/usr/bin/env python3
"""Measures training steps of a MiniLM-sized BERT classifier in PyTorch, to compare with `cargo bench --bench train`.

    python3 step_torch.py [--repeat 10] [--only dense,ragged] [--model FOLDER]

A step is forward + backward + AdamW (lr 5e-5, weight decay 0.01) in f32, dropout 0.1, of 6 layers, 384 wide, 12 heads, FFN 1536,
vocabulary 30522, random weights, 2 labels; gradients set to none between steps, no clipping. Two threads by default.

  dense   16 sequences of 128 random tokens: eager (with SDPA) and torch.compile, each with AdamW as it comes ("default")
          and fused. Seconds of each step after warm-up; the median; tokens/s = 16 * 128 / median
  ragged  examples/sentiment/train.csv in random order, batch 16, padded to the longest of its batch, at most 64 tokens; eager,
          AdamW fused. real_tokens_per_s = tokens that are not padding, over the time of all steps after warm-up.
          Needs --model for the tokenizer

Prints one JSON object on standard output. peak_rss_mib of a variant is the process's peak so far, so only the first
variant's is its own: give --only and --variants to measure one.
"""
import common  # first: it notes when the process began

import argparse
import json
import random
import statistics
import time

VARIANTS = ["eager", "eager-fused", "compile", "compile-fused"]


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--repeat", type=int, default=10, help="number of timed steps of each dense variant")
    p.add_argument("--warmup", type=int, default=3, help="number of warm-up steps")
    p.add_argument("--ragged-steps", type=int, default=60, help="number of timed steps on ragged text")
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--length", type=int, default=128)
    p.add_argument("--max-length", type=int, default=64)
    p.add_argument("--dropout", type=float, default=0.1)
    p.add_argument("--layers", type=int, default=6)
    p.add_argument("--variants", default=",".join(VARIANTS), help="variants of the dense step, separated by commas")
    p.add_argument("--only", default="dense,ragged")
    p.add_argument("--model", help="folder with the tokenizer for ragged text (all-MiniLM-L6-v2)")
    args = p.parse_args()
    args.only, args.variants = args.only.split(","), args.variants.split(",")
    if unknown := set(args.variants) - set(VARIANTS) | set(args.only) - {"dense", "ragged"}:
        p.error(f"unknown: {', '.join(sorted(unknown))}")
    if "ragged" in args.only and not args.model:
        p.error("ragged text needs --model FOLDER, or give --only dense")
    return args


def main():
    args = arguments()
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()

    def model_and_step(compiled, fused):
        torch.manual_seed(0)
        config = transformers.BertConfig(
            vocab_size=30522, hidden_size=384, num_hidden_layers=args.layers, num_attention_heads=12, intermediate_size=1536,
            hidden_dropout_prob=args.dropout, attention_probs_dropout_prob=args.dropout, num_labels=2, attn_implementation="sdpa",
            problem_type="single_label_classification",  # left open, the model writes it in the first step and is compiled twice
        )
        model = transformers.BertForSequenceClassification(config).train()
        optim = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.01, fused=fused or None)
        run = torch.compile(model) if compiled else model

        def step(batch):
            loss = run(**batch).loss
            loss.backward()
            optim.step()
            optim.zero_grad(set_to_none=True)
            return loss.item()

        return step

    def dense(variant):
        step = model_and_step("compile" in variant, "fused" in variant)
        ids = torch.randint(1000, 30522, (args.batch, args.length))
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids),
                 "labels": torch.arange(args.batch) % 2}
        first = time.perf_counter()
        step(batch)
        first = time.perf_counter() - first
        for _ in range(args.warmup - 1):
            step(batch)
        seconds = []
        for _ in range(args.repeat):
            began = time.perf_counter()
            step(batch)
            seconds.append(time.perf_counter() - began)
        median = statistics.median(seconds)
        return {
            "median_seconds": round(median, 4), "min_seconds": round(min(seconds), 4), "max_seconds": round(max(seconds), 4),
            "first_call_seconds": round(first, 2), "tokens_per_s": round(args.batch * args.length / median, 1), "peak_rss_mib": common.peak_rss_mib(),
        }

    def ragged():
        tok = common.tokenizer(args.model)
        rows = common.sentences(common.SENTIMENT / "train.csv")
        ids = tok([t for t, _ in rows], truncation=True, max_length=args.max_length, padding=False)["input_ids"]
        order = list(range(len(rows)))
        random.Random(0).shuffle(order)
        batches = [order[i : i + args.batch] for i in range(0, len(order) - args.batch + 1, args.batch)]
        collate = transformers.DataCollatorWithPadding(tok)
        step = model_and_step(False, True)

        def run(picked):
            batch = collate([{"input_ids": ids[i], "token_type_ids": [0] * len(ids[i]), "labels": rows[i][1]} for i in picked])
            step(batch)
            return sum(len(ids[i]) for i in picked), batch["input_ids"].numel()

        steps = args.warmup + args.ragged_steps
        listed = [batches[i % len(batches)] for i in range(steps)]
        for picked in listed[: args.warmup]:
            run(picked)
        began = time.perf_counter()
        counts = [run(picked) for picked in listed[args.warmup :]]
        seconds = time.perf_counter() - began
        real, padded = (sum(c) for c in zip(*counts))
        return {
            "steps": args.ragged_steps, "seconds": round(seconds, 3), "real_tokens": real, "padded_tokens": padded,
            "real_tokens_per_s": round(real / seconds, 1), "padded_tokens_per_s": round(padded / seconds, 1), "peak_rss_mib": common.peak_rss_mib(),
        }

    out = {"peer": "step_torch", "machine": common.machine(args.threads), "batch": args.batch, "length": args.length, "repeat": args.repeat}
    if "dense" in args.only:
        out["dense"] = {v: dense(v) for v in args.variants}
    if "ragged" in args.only:
        out["ragged"] = ragged()
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
