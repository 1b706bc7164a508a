#!/usr/bin/env python3
"""Runs the quickstart's job for some steps on several devices, and compares the losses in one plot.

    python3 curves.py --binary target/release/tempra --model FOLDER [--out FOLDER] [--steps 200]
                      [--runs cpu:f32,cuda:f32,cuda:bf16,cuda:bf16] [RECIPE]

A run is a device and a precision. If one is listed twice, its losses and its trained weights must be bit-identical. Writes curves.json
(the losses of each run, the largest difference from the first run, and whether repeated runs agree) and, if matplotlib is installed,
curves.png. Exits with 1 if a run fails or a repeated run differs.
"""
import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def digest(folder):
    """One hash of all tensors that a run left."""
    found = hashlib.sha256()
    files = sorted((folder / "model").glob("*.safetensors"))
    if not files:
        sys.exit(f"curves.py: {folder} has no weights")
    for file in files:
        found.update(file.read_bytes())
    return found.hexdigest()


def train(args, device, precision, folder):
    command = [args.binary, "train", args.recipe, "--device", device, "--quiet"]
    for key, value in {"model.path": args.model, "precision": precision, "output": folder, "train.max_steps": args.steps,
                       "train.log_every": 1}.items():
        command += ["--set", f"{key}={value}"]
    print(" ".join(map(str, command)), file=sys.stderr)
    done = subprocess.run(command, stdout=sys.stderr)
    if done.returncode:
        return {"failed": done.returncode}
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    losses = {line["step"]: float(line["loss"]) for line in lines if "loss" in line and "step" in line}
    return {"losses": [losses[step] for step in sorted(losses)], "weights": digest(folder)}


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--binary", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--out", type=Path, default=Path("target/curves"))
    p.add_argument("--steps", type=int, default=200)
    p.add_argument("--runs", default="cpu:f32,cuda:f32,cuda:bf16,cuda:bf16")
    p.add_argument("recipe", nargs="?", default=str(ROOT / "examples/sentiment/recipe.toml"))
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    runs = []
    for i, name in enumerate(args.runs.split(",")):
        device, precision = name.rsplit(":", 1)
        folder = args.out / f"run-{i}"
        if folder.exists():
            sys.exit(f"curves.py: {folder} already exists: remove it, or choose another --out")
        runs.append({"name": name, **train(args, device, precision, folder)})
    whole = [r for r in runs if "losses" in r]
    if not whole:
        sys.exit("curves.py: every run failed")
    for r in whole:
        pairs = list(zip(r["losses"], whole[0]["losses"]))
        r["furthest_from_first"] = max(abs(a - b) for a, b in pairs)
    again = [(a, b) for j, b in enumerate(whole) for a in whole[:j] if a["name"] == b["name"]]
    report = {"steps": args.steps, "runs": runs,
              "same_bits": {}}
    for a, b in again:
        same = (list(map(repr, a["losses"])), a["weights"]) == (list(map(repr, b["losses"])), b["weights"])
        report["same_bits"][a["name"]] = report["same_bits"].get(a["name"], True) and same
    (args.out / "curves.json").write_text(json.dumps(report, indent=1) + "\n")
    for r in runs:
        told = f"loss {r['losses'][0]:.4f} to {r['losses'][-1]:.4f}, at most {r['furthest_from_first']:.1e} from the first run's" \
            if "losses" in r else f"failed with {r['failed']}"
        print(f"{r['name']}: {told}")
    for name, same in report["same_bits"].items():
        print(f"{name} twice: {'bit-identical' if same else 'NOT bit-identical'}")
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        print("matplotlib is not installed, so there is no plot", file=sys.stderr)
    else:
        figure, axes = pyplot.subplots(figsize=(8, 4.5))
        drawn = set()
        for r in whole:
            if r["name"] not in drawn:
                axes.plot(range(1, len(r["losses"]) + 1), r["losses"], label=r["name"], linewidth=1, alpha=0.8)
            drawn.add(r["name"])
        axes.set(xlabel="optimizer step", ylabel="training loss")
        axes.legend()
        figure.savefig(args.out / "curves.png", dpi=150, bbox_inches="tight")
    if len(whole) < len(runs) or not all(report["same_bits"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
