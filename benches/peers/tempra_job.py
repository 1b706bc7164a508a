#!/usr/bin/env python3
"""Runs the quickstart's job with tempra and measures it from outside, to compare with hf_trainer.py.

    python3 tempra_job.py --binary target/release/tempra --model FOLDER [SEED ...] [-- options of `tempra train`]

Runs `tempra train examples/sentiment/recipe.toml` once for each seed (default 0) and prints one JSON object with the keys of
hf_trainer.py. process_seconds and peak_rss_mib are the child process's own, by the clock and by the kernel; accuracy,
train_seconds, first_step_seconds and real_tokens_per_s are read from `metrics.json` in the run's folder, null if it lacks them.
Needs only Python's standard library.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REPORTED = ("accuracy", "train_seconds", "first_step_seconds", "real_tokens_per_s")


def run(command):
    """(seconds, peak MiB) of a child process. Its output goes to standard error: standard output is for the JSON."""
    began = time.monotonic()
    child = subprocess.Popen(command, stdout=sys.stderr)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.monotonic() - began
    if code := os.waitstatus_to_exitcode(status):
        sys.exit(f"{command[0]} ended with status {code}")
    return seconds, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main():
    argv = sys.argv[1:]
    extra = []
    if "--" in argv:
        cut = argv.index("--")
        argv, extra = argv[:cut], argv[cut + 1 :]
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("seeds", nargs="*", type=int, default=[0])
    p.add_argument("--binary", required=True, type=Path)
    p.add_argument("--model", required=True)
    args = p.parse_args(argv)

    runs, peaks = [], []
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "run"
            recipe = ROOT / "examples" / "sentiment" / "recipe.toml"
            sets = [f"model.path={args.model}", f"seed={seed}", f"output={out}"]
            command = [str(args.binary.resolve()), "train", str(recipe), *(w for s in sets for w in ("--set", s)), *extra]
            seconds, peak = run(command)
            metrics = out / "metrics.json"
            found = json.loads(metrics.read_text(encoding="utf-8")) if metrics.is_file() else {}
        peaks.append(peak)
        runs.append({"seed": seed, "process_seconds": round(seconds, 2), **{k: found.get(k) for k in REPORTED}})
    print(json.dumps({"peer": "tempra", "seeds": runs, "process_seconds": runs[0]["process_seconds"],
                      # tempra counts it from the start of the process.
                      "time_to_first_step": runs[0]["first_step_seconds"],
                      "peak_rss_mib": round(max(peaks), 1)}, indent=1))


if __name__ == "__main__":
    main()
