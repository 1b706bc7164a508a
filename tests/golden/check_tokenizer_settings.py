#!/usr/bin/env python3
"""Has transformers open tokenizer folders that tempra saved: they must give what the folders did that tempra read.

    python3 tests/golden/check_tokenizer_settings.py DIR

DIR holds a folder for each case of tokenizer-settings/cases.json, named by its place in the list. Exit status 1: one differs.
"""
import json
import sys
from pathlib import Path

import transformers
from transformers import AutoTokenizer

from make_tokenizer_settings import OUT, encoded

transformers.logging.set_verbosity(50)
fixture = json.loads((OUT / "cases.json").read_text(encoding="utf-8"))
wrong = compared = 0
for i, case in enumerate(fixture["cases"]):
    folder = Path(sys.argv[1]) / str(i)
    if not folder.is_dir():
        continue
    compared += 1
    expected = fixture["results"][case["gives"]]
    try:
        found = encoded(AutoTokenizer.from_pretrained(folder))
    except Exception as e:
        found = {"error": f"{type(e).__name__}: {e}"[:300]}
    expected = {**expected, "types": case["types"]}
    for key in ("ids", "offsets", "pair_ids", "pair_types", "cut", "named", "types"):
        if found.get(key) != expected[key]:
            wrong += 1
            print(f"{case['name']}: {key}\n  {found.get(key, found)}\n  {expected[key]}"[:600])
            break
print(f"{compared} folders, {wrong} differ")
sys.exit(wrong > 0)
