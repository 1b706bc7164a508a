"""Writes task_metrics.json: entities, answers, labels, curves and summaries, and what their reference implementations say of them.

    python tests/golden/make_task_metrics.py SQUAD_METRICS

seqeval 1.2.2, scikit-learn 1.9, torchmetrics 1.9 (SQuAD 1.1), rouge-score 0.1.2, NLTK 3.10. SQUAD_METRICS is transformers/data/metrics/squad_metrics.py of
transformers 4.44.2, which holds the functions of the official script evaluate-v2.0. NaN is written as null.
"""
import json
import math
import pathlib
import re
import sys
import types
import warnings

import numpy as np
import nltk
import rouge_score.rouge_scorer
import seqeval.metrics as sq
import sklearn
import sklearn.metrics as m
import torchmetrics
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, Tokens
from torchmetrics.functional.text import squad as squad_v1

warnings.simplefilter("ignore")
rng = np.random.default_rng(11)


def num(x):
    x = float(x)
    return None if math.isnan(x) else x


# Entities.
def scores(true, predicted, **how):
    out = {"accuracy": sq.accuracy_score(true, predicted)}
    for average, suffix in [("micro", ""), ("macro", "_macro"), ("weighted", "_weighted")]:
        module = sq.v1 if how else sq.sequence_labeling
        p, r, f, _ = module.precision_recall_fscore_support(true, predicted, average=average, **how)
        out["f1" + suffix] = num(f)
        if average == "micro":
            out["precision"], out["recall"] = float(p), float(r)
    return out


def per_type(true, predicted, **how):
    if how:
        each, names = sq.v1.precision_recall_fscore_support(true, predicted, average=None, **how), sorted(
            {e.tag for s in (true, predicted) for x in s for e in Tokens(x, how["scheme"]).entities})
    else:
        each = sq.sequence_labeling.precision_recall_fscore_support(true, predicted, average=None)
        names = sorted({e[0] for s in (true, predicted) for e in get_entities(s)})
    return {n: [float(each[0][i]), float(each[1][i]), float(each[2][i]), int(each[3][i])] for i, n in enumerate(names)}


SCHEMES = {"iob1": IOB1, "iob2": IOB2, "iobes": IOBES, "bilou": BILOU}


def entities(name, true, predicted, schemes):
    case = {"name": name, "true": true, "predicted": predicted, "lenient": scores(true, predicted),
            "per_type": per_type(true, predicted),
            "spans": [[[t, a, b + 1] for t, a, b in get_entities(s)] for s in predicted], "strict": {}}
    for s in schemes:
        try:
            how = {"scheme": SCHEMES[s]}
            case["strict"][s] = {**scores(true, predicted, **how), "per_type": per_type(true, predicted, **how),
                                 "spans": [[[e.tag, e.start, e.end] for e in Tokens(x, SCHEMES[s]).entities] for x in predicted]}
        except ValueError as e:  # seqeval refuses sequences without any entity in strict mode, and foreign prefixes
            case["strict"][s] = {"refused": str(e)}
    return case


def walk(prefixes, n):
    tags = ["O"] * 2 + [f"{p}-{t}" for p in prefixes for t in ["PER", "LOC", "a-b"]]
    return [[tags[i] for i in rng.integers(0, len(tags), rng.integers(1, 14))] for _ in range(n)]


def noisy(sentences):
    pool = sorted({t for s in sentences for t in s})
    return [[t if rng.random() < 0.8 else pool[rng.integers(len(pool))] for t in s] for s in sentences]


worked = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
cases = [entities("worked example of seqeval", worked,
                  [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]], ["iob1", "iob2"])]
for prefixes, schemes in [("BI", ["iob1", "iob2"]), ("I", ["iob1", "iob2"]), ("BIES", ["iobes"]), ("BILU", ["bilou"])]:
    true = walk(prefixes, 24)
    cases.append(entities(f"any {prefixes} sequences", true, noisy(true), schemes))
cases += [
    entities("I after O", [["O", "B-A", "I-A"], ["B-A", "I-B", "O"]], [["O", "I-A", "I-A"], ["B-A", "I-A", "O"]],
             ["iob1", "iob2"]),
    entities("no entity at all", [["O", "O"]], [["O", "O"]], []),
    entities("none predicted", [["B-A", "O"]], [["O", "O"]], ["iob2"]),
    entities("none there", [["O", "O"]], [["B-A", "O"]], ["iob2"]),
    entities("tags without a type", [["B", "I", "O", "B"]], [["B", "I", "I", "B"]], ["iob2"]),
    entities("unicode types", [["B-Ört", "I-Ört", "B-人名"]], [["B-Ört", "I-Ört", "B-Ört"]], ["iob2"]),
    entities("up to the end", [["B-A", "I-A"], ["I-A", "I-A"]], [["B-A", "I-A"], ["B-A", "B-A"]], ["iob2", "iob1"]),
    entities("an empty sentence", [[], ["B-A"]], [[], ["B-A"]], ["iob2"]),
    entities("spans not closed", [["B-A", "E-A", "S-B"], ["B-A", "O", "S-B"]], [["B-A", "I-A", "S-B"], ["E-A", "O", "B-B"]],
             ["iobes"]),
]

# Answers.
source = pathlib.Path(sys.argv[1]).read_text()
source = re.sub(r"^from \.\.\..*$", "", source, flags=re.M).replace("logging.get_logger(__name__)", "None")
squad = types.ModuleType("squad")
exec(source, squad.__dict__)

texts = ["the cat", "a the", "The  Cat!", "cat", "", "  ", "An apple, a day", "apple day", "1,000", "1000", "São Paulo", "são paulo.",
         "der Straße nach", "STRASSE", "x_a_y the", "a", "the the dog dog", "dog the dog dog", "don't a-b", "Ωmega Σ", "ωμέγας", "b\u00a0a\u2003c",
         "tab\tand\x1cfs", "theatre and", "a.n the.", "你好 the 世界", "İstanbul", "e\u0301 an e\u0301"]
questions = []
for i in range(60):
    k = int(rng.integers(0, 4))
    golds = [texts[j] for j in rng.integers(0, len(texts), k)]
    prediction = texts[rng.integers(len(texts))] if rng.random() < 0.6 or not golds else golds[0].upper()
    questions.append({"id": str(i), "golds": golds, "prediction": prediction, "odds": float(np.round(rng.normal() + (0.8 if not golds else -0.8), 1))})


def v2(qs, threshold):
    ex = [types.SimpleNamespace(qas_id=q["id"], answers=[{"text": g} for g in q["golds"]]) for q in qs]
    preds = {q["id"]: q["prediction"] for q in qs}
    e, f = squad.get_raw_scores(ex, preds)
    odds = None if threshold is None else {q["id"]: q["odds"] for q in qs}
    out = squad.squad_evaluate(ex, preds, odds, 1.0 if threshold is None else threshold)
    if threshold is None:
        out = {k: v for k, v in out.items() if not k.startswith("best")}
    out = {k: v / 100 if not k.endswith(("total", "thresh")) else v for k, v in out.items()}
    return {**out, "raw": [[e[q["id"]], f[q["id"]]] for q in qs]}


def v1(qs):
    of = lambda q: ([{"id": q["id"], "prediction_text": q["prediction"]}],
                    [{"id": q["id"], "answers": {"text": q["golds"], "answer_start": [0] * len(q["golds"])}}])
    # The official script of 1.1 has F1 0 wherever no word is shared; torchmetrics took the rule of 2.0 for empty texts.
    empty = lambda q: any(not squad.normalize_answer(x) for x in [q["prediction"], *q["golds"]])
    qs = [q for q in qs if q["golds"] and not empty(q)]
    raw = [squad_v1(*of(q)) for q in qs]
    return {"ids": [q["id"] for q in qs], "raw": [[float(r["exact_match"]) / 100, float(r["f1"]) / 100] for r in raw]}


answered = [q for q in questions if q["golds"]]
unanswerable = [q for q in questions if not q["golds"]]
answers = {"questions": questions, "normalized": [[t, squad.normalize_answer(t)] for t in texts], "v1": v1(questions),
           "v2": v2(questions, None), "v2_odds": {str(t): v2(questions, t) for t in [-0.5, 0.0, 1.0]},
           "v2_answered": v2(answered, 0.0), "v2_unanswerable": v2(unanswerable, 0.0)}


# Labels and curves.
def labels(name, target, probability, thresholds):
    target, probability = np.array(target), np.array(probability)
    predicted = probability > np.array(thresholds)
    each = m.precision_recall_fscore_support(target, predicted, zero_division=0, average=None)
    return {"name": name, "target": target.tolist(), "probability": probability.tolist(), "thresholds": thresholds,
            **{f"f1_{a}": float(m.f1_score(target, predicted, average=a)) for a in ["macro", "micro", "weighted", "samples"]},
            "accuracy": float(m.accuracy_score(target, predicted)), "hamming": float(m.hamming_loss(target, predicted)),
            "precision": each[0].tolist(), "recall": each[1].tolist(), "f1": each[2].tolist(), "support": each[3].tolist(),
            "auroc": [num(m.roc_auc_score(target[:, i], probability[:, i])) for i in range(target.shape[1])],
            "average_precision": [num(m.average_precision_score(target[:, i], probability[:, i])) for i in range(target.shape[1])],
            "auroc_macro": num(m.roc_auc_score(target, probability)),
            "average_precision_macro": num(m.average_precision_score(target, probability)),
            "best_f1": [best_f1(target[:, i], probability[:, i]) for i in range(target.shape[1])]}


def best_f1(target, probability):
    if not target.any():
        return 0.0
    p, r, _ = m.precision_recall_curve(target, probability)
    return float(max(0 if a + b == 0 else 2 * a * b / (a + b) for a, b in zip(p, r)))


multilabel = [
    labels("random", rng.integers(0, 2, (40, 4)), rng.random((40, 4)), [0.5, 0.3, 0.7, 0.01]),
    labels("ties", rng.integers(0, 2, (40, 3)), np.round(rng.random((40, 3)), 1), [0.5, 0.3, 0.6]),
    labels("a label never there, one always", [[0, 1, 0], [0, 1, 1], [0, 1, 1]], [[.2, .9, .3], [.6, .4, .1], [.1, .5, .8]], [.5] * 3),
    labels("all scores equal", [[1, 0], [0, 1], [0, 1]], [[.5, .5]] * 3, [.4, .5]),
    labels("rows with nothing", [[0, 0], [1, 0], [0, 0]], [[.1, .2], [.7, .2], [.9, .3]], [.5, .5]),
]
k = rng.integers(0, 4, 50)
logits = np.round(rng.normal(size=(50, 4)) + 1.5 * np.eye(4)[k], 2).astype(np.float32)
p = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(1, keepdims=True)
classes = {"logits": logits.tolist(), "target": k.tolist(), "auroc": m.roc_auc_score(k, p, multi_class="ovr", average="macro"),
           "average_precision": float(m.average_precision_score(np.eye(4)[k], p, average="macro")),
           "binary_target": (k % 2).tolist(), "binary_auroc": m.roc_auc_score(k % 2, p[:, 1]),
           "binary_average_precision": float(m.average_precision_score(k % 2, p[:, 1]))}

# ROUGE and the stemmer.
SUFFIXES = """s es ies sses ss eed ed ing ied y al ally alli ational tional enci anci izer bli abli entli eli ousli ization ation ator
alism iveness fulness ousness aliti iviti biliti fulli logi icate ative alize iciti ical ful ness ance ence er ic able ible ant ement
ment ent sion tion ion ou ism ate iti ous ive ize e ll le lles ating bling izing hopping filling hissed fizzing""".split()
BASES = ["", "a", "b", "ab", "tr", "ty", "sky", "toy", "hop", "fil", "contr", "rel", "oper", "gener", "syzyg", "yy", "x9", "adopt", "ol", "geo"]
extra = """skies dying lying tying news innings inning outings outing cannings canning howe proceed exceed succeed die dies died ties tied
agreed feed plastered bled motoring sing conflated troubled sized falling failing filing happy enjoy spy flies relational
vietnamization hopefulness callousness triplicate formative replacement adjustment dependent adoption homologous cease controll roll
generally apologi analogy oxen yes 2001st abc123s""".split()
words = sorted({b + x for b in BASES for x in SUFFIXES} | set(extra))
words = [w for w in words if len(w) > 1]
stems = [[w, nltk.stem.PorterStemmer().stem(w)] for w in words]

passages = ["The police killed the gunman.", "Police kill the gunman", "the gunman police killed",
            "Agreed: the committees were dying\nand happily proceeding\nto generalisations", "committees agreed, they die\nhappy generalisation proceeds",
            "", "\n\n", "...", "São Paulo naïve café", "sao paulo na ve caf", "a b c d e f g\na b\nc c c", "c c a b\n\ng f e d c\nb a", "İstanbul K 10,000",
            "the the the the", "the cat the"]


def rouge(stem):
    kinds = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = rouge_score.rouge_scorer.RougeScorer(kinds, use_stemmer=stem)
    flat = lambda r: [[float(x) for x in r[k]] for k in kinds]
    cases = [{"references": [a], "prediction": b, "scores": flat(scorer.score(a, b))} for a in passages for b in passages]
    for _ in range(30):
        text = lambda: " ".join(rng.choice(["a", "b", "cats", "cat", "running", "run", "\n"], rng.integers(0, 14)))
        golds, prediction = [text() for _ in range(rng.integers(1, 4))], text()
        cases.append({"references": golds, "prediction": prediction, "scores": flat(scorer.score_multi(golds, prediction))})
    return cases


rouges = {"plain": rouge(False), "stemmed": rouge(True)}

out = {"nltk": nltk.__version__, "scikit-learn": sklearn.__version__, "torchmetrics": torchmetrics.__version__, "entities": cases, "answers": answers,
       "multilabel": multilabel, "classes": classes, "rouge": rouges, "stems": stems}
path = pathlib.Path(__file__).with_name("task_metrics.json")
path.write_text(json.dumps(out, ensure_ascii=False).replace('{"name"', '\n{"name"') + "\n")
