#!/usr/bin/env python3
"""Prints a Markdown table that compares tempra with its peers, from the JSON files of `run`.

    python3 table.py FOLDER

Reads tempra.json (of `cargo bench --bench train`), tempra_job.json, hf_trainer.json, step-VARIANT.json and step-ragged.json; a
missing file or number is shown as "-". The last column says by what factor tempra is faster, slower, smaller or larger.
"""
import json
import sys
from pathlib import Path
from statistics import mean

VARIANTS = ("eager", "eager-fused", "compile", "compile-fused")


def read(folder, name):
    path = folder / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() and path.stat().st_size else {}


def at(d, *keys):
    for k in keys:
        d = d.get(k) if isinstance(d, dict) else None
    return d


def over_seeds(job, key):
    found = [s[key] for s in job.get("seeds", []) if s.get(key) is not None]
    return mean(found) if found else None


def show(x):
    return "-" if x is None else f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def row(what, peer, ours, theirs, more_is_better):
    words = "-"
    if ours and theirs:
        better, worse = ("smaller", "larger") if "MiB" in what else ("faster", "slower")
        times = ours / theirs if more_is_better else theirs / ours
        words = f"{times:.2f}x {better}" if times >= 1 else f"{1 / times:.2f}x {worse}"
    return f"| {what} | {peer} | {show(ours)} | {show(theirs)} | {words} |"


def heading(hf):
    """The machine and the versions, from what the Trainer's script noted."""
    m = hf.get("machine") or {}
    facts = [m.get("cpu"), f"{m['threads']} threads" if m.get("threads") else None, m.get("date")]
    versions = [f"{name} {m[key]}" for name, key in (("PyTorch", "torch"), ("transformers", "transformers")) if m.get(key)]
    found = ["# " + ", ".join(filter(None, facts))] if any(facts) else []
    return [line for part in (found, [", ".join(["f32", *versions]) + "; `benches/peers/run`"] if versions else []) for line in (*part, "") if part]


def by_seed(job, hf):
    """The numbers of each seed, behind the means of the table."""
    lines = ["", "| by seed | tempra | HF Trainer |", "|---|---|---|"]
    for key, what in (("train_seconds", "seconds of training"), ("real_tokens_per_s", "real tokens/s"), ("accuracy", "test accuracy")):
        found = [[s[key] for s in d.get("seeds", []) if s.get(key) is not None] for d in (job, hf)]
        if any(found):
            lines.append(f"| {what} | {' | '.join(', '.join(f'{x:g}' for x in values) or '-' for values in found)} |")
    return lines if len(lines) > 3 else []


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: table.py FOLDER")
    folder = Path(sys.argv[1])
    bench, job, hf = (read(folder, n) for n in ("tempra.json", "tempra_job.json", "hf_trainer.json"))
    lines = ["| what | peer | tempra | peer's | tempra is |", "|---|---|---|---|---|"]
    for v in VARIANTS:
        torch = read(folder, f"step-{v}.json")
        for key, what, more in (("tokens_per_s", "step, tokens/s", True), ("peak_rss_mib", "step, peak MiB", False)):
            lines.append(row(what, f"PyTorch {v}", at(bench, "dense", key), at(torch, "dense", v, key), more))
    torch = read(folder, "step-ragged.json")
    for key, what, more in (("real_tokens_per_s", "ragged text, real tokens/s", True), ("peak_rss_mib", "ragged text, peak MiB", False)):
        lines.append(row(what, "PyTorch eager-fused", at(bench, "ragged", key), at(torch, "ragged", key), more))
    for key, what, more in (("train_seconds", "job, seconds of training", False), ("real_tokens_per_s", "job, real tokens/s", True)):
        lines.append(row(what, "HF Trainer", over_seeds(job, key), over_seeds(hf, key), more))
    for key, what in (("process_seconds", "job, seconds of the whole process"), ("time_to_first_step", "job, seconds to the first step"), ("peak_rss_mib", "job, peak MiB")):
        lines.append(row(what, "HF Trainer", at(job, key), at(hf, key), False))
    ours, theirs = over_seeds(job, "accuracy"), over_seeds(hf, "accuracy")
    both = ["-" if x is None else f"{x:.4f}" for x in (ours, theirs)]
    lines.append(f"| job, test accuracy (mean of seeds) | HF Trainer | {both[0]} | {both[1]} | |")
    print("\n".join(heading(hf) + lines + by_seed(job, hf)))


if __name__ == "__main__":
    main()
