"""Writes tags.json: sequences of tags in every scheme and without one, and what seqeval and scikit-learn say of them.

    python tests/golden/make_tags.py

seqeval 1.2.2, scikit-learn 1.9. seqeval's default reading knows the letters B, I, E and S; BILOU is handed to it as IOBES (L is E, U is S).
NaN is written as null.
"""
import json
import math
import pathlib
import warnings

import numpy as np
import seqeval.metrics as sq
import sklearn.metrics as m
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, Tokens

warnings.simplefilter("ignore")
rng = np.random.default_rng(20)
SCHEMES = {"iob1": IOB1, "iob2": IOB2, "iobes": IOBES, "bilou": BILOU}
TYPES = ["PER", "LOC", "MISC-x", "O-Type"]


def num(x):
    x = float(x)
    return None if math.isnan(x) else x


def write(scheme, words, spans):
    """The tags of spans (type, start, end)."""
    tags = ["O"] * words
    for kind, start, end in spans:
        for i in range(start, end):
            first, last = i == start, i + 1 == end
            if scheme == "iob1":
                letter = "B" if first and any(s[0] == kind and s[2] == start for s in spans) else "I"
            elif scheme == "iob2":
                letter = "B" if first else "I"
            else:
                single, end_letter = ("S", "E") if scheme == "iobes" else ("U", "L")
                letter = single if first and last else "B" if first else end_letter if last else "I"
            tags[i] = f"{letter}-{kind}"
    return tags


def sentence(words=9):
    spans, at = [], 0
    while at < words:
        length = int(rng.integers(1, 4))
        if rng.random() < 0.6 and at + length <= words:
            spans.append((TYPES[rng.integers(len(TYPES))], at, at + length))
        at += length
    return spans


def changed(spans):
    """Some spans have another type or are gone."""
    return [(TYPES[rng.integers(len(TYPES))] if rng.random() < 0.3 else k, s, e) for k, s, e in spans if rng.random() < 0.8]


def noisy(sentences):
    pool = sorted({t for s in sentences for t in s})
    return [[t if rng.random() < 0.85 else pool[rng.integers(len(pool))] for t in s] for s in sentences]


def other_side(tag):
    return tag if tag == "O" else f"{tag[2:]}-{tag[0]}"


def known(tag):
    """The same tag with letters that seqeval's default reading knows."""
    return {"L": "E", "U": "S"}.get(tag[0], tag[0]) + tag[1:]


def scores(true, predicted, suffix, **how):
    module = sq.v1 if how else sq.sequence_labeling
    out = {"accuracy": sq.accuracy_score(true, predicted)}
    for average, end in [("micro", ""), ("macro", "_macro"), ("weighted", "_weighted")]:
        p, r, f, _ = module.precision_recall_fscore_support(true, predicted, average=average, suffix=suffix, **how)
        out["f1" + end] = num(f)
        if average == "micro":
            out["precision"], out["recall"] = float(p), float(r)
    return out


def spans_case(name, scheme, true, predicted, suffix=False):
    lenient = lambda s: [[k, a, b + 1] for k, a, b in get_entities(s, suffix)]
    strict = lambda s: [[e.tag, e.start, e.end] for e in Tokens(s, SCHEMES[scheme], suffix=suffix).entities]
    write_known = lambda s: [known(t) for t in s] if not suffix else [other_side(known(other_back(t))) for t in s]
    t, p = [write_known(s) for s in true], [write_known(s) for s in predicted]
    return {"name": name, "scheme": scheme, "suffix": suffix, "true": true, "predicted": predicted,
            "lenient": {**scores(t, p, suffix), "spans": [lenient(s) for s in p], "true_spans": [lenient(s) for s in t]},
            "strict": {**scores(true, predicted, suffix, scheme=SCHEMES[scheme]), "spans": [strict(s) for s in predicted],
                       "true_spans": [strict(s) for s in true]}}


def other_back(tag):
    return tag if tag == "O" else f"{tag[-1]}-{tag[:-2]}"


cases = [
    spans_case("words of one BILOU span after another", "bilou",
               [["B-LOC", "L-LOC", "B-LOC", "L-LOC"], ["U-PER", "U-PER"]],
               [["B-LOC", "L-LOC", "B-LOC", "L-LOC"], ["U-PER", "U-PER"]]),
    spans_case("single words of IOBES", "iobes", [["S-PER", "S-PER", "O", "S-LOC"]], [["S-PER", "S-PER", "S-LOC", "O"]]),
    spans_case("letters without a type", "iob2", [["B", "I", "O", "B", "B"]], [["B", "I", "I", "B", "O"]]),
]
for scheme in SCHEMES:
    spans = [sentence() for _ in range(12)]
    true = [write(scheme, 9, s) for s in spans]
    neat = [write(scheme, 9, changed(s)) for s in spans]
    for name, predicted in [("whole spans", neat), ("any tags", noisy(true))]:
        cases.append(spans_case(f"{scheme}: {name}", scheme, true, predicted))
        swap = lambda all: [[other_side(t) for t in s] for s in all]
        cases.append(spans_case(f"{scheme}: {name}, letters behind", scheme, swap(true), swap(predicted), suffix=True))


def words_case(name, tags, n, right):
    true = [[tags[rng.integers(len(tags))] for _ in range(int(rng.integers(1, 9)))] for _ in range(n)]
    predicted = [[t if rng.random() < right else tags[rng.integers(len(tags))] for t in s] for s in true]
    t, p = [x for s in true for x in s], [x for s in predicted for x in s]
    out = {"accuracy": m.accuracy_score(t, p)}
    for average, end in [("micro", ""), ("macro", "_macro"), ("weighted", "_weighted")]:
        precision, recall, f, _ = m.precision_recall_fscore_support(t, p, average=average, zero_division=0)
        out["f1" + end] = float(f)
        if average == "micro":
            out["precision"], out["recall"] = float(precision), float(recall)
    names = sorted(set(t) | set(p))
    each = m.precision_recall_fscore_support(t, p, labels=names, zero_division=0)
    per = {k: [float(each[0][i]), float(each[1][i]), float(each[2][i]), int(each[3][i])] for i, k in enumerate(names)}
    return {"name": name, "tags": tags, "true": true, "predicted": predicted, "scores": out, "per_tag": per}


words = [
    words_case("parts of speech", ["NOUN", "VERB", "ADJ", "PUNCT", "ADP"], 30, 0.7),
    words_case("types without a letter", ["O", "PER", "ORG", "LOC", "OTHER"], 30, 0.6),
    words_case("a tag that does not occur", ["X", "O", "SYM", "never"], 2, 0.5),
]
path = pathlib.Path(__file__).with_name("tags.json")
path.write_text(json.dumps({"spans": cases, "words": words}, ensure_ascii=False).replace('{"name"', '\n{"name"') + "\n")
