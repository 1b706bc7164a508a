"""Writes metrics.json: awkward inputs and what scikit-learn and SciPy say of them.

    python tests/golden/make_metrics.py        (scikit-learn 1.9, SciPy 1.17)

NaN is written as null. Classes: F1 with scikit-learn's defaults (classes that occur), per class with `labels=`.
"""
import json
import math
import pathlib
import warnings

import numpy as np
import scipy
import sklearn
from scipy.special import log_softmax
from scipy.stats import pearsonr, spearmanr
from sklearn import metrics as m

warnings.simplefilter("ignore")
rng = np.random.default_rng(7)


def num(x):
    x = float(x)
    return None if math.isnan(x) else x


def classes(name, n, target, prediction):
    target, prediction = np.array(target), np.array(prediction)
    each = m.precision_recall_fscore_support(target, prediction, labels=range(n), zero_division=0)
    return {
        "name": name, "classes": n, "target": target.tolist(), "prediction": prediction.tolist(),
        "accuracy": m.accuracy_score(target, prediction),
        **{f"f1_{a}": float(m.f1_score(target, prediction, average=a)) for a in ["macro", "micro", "weighted"]},
        "mcc": float(m.matthews_corrcoef(target, prediction)),
        "confusion": m.confusion_matrix(target, prediction, labels=range(n)).tolist(),
        "precision": each[0].tolist(), "recall": each[1].tolist(), "f1": each[2].tolist(), "support": each[3].tolist(),
    }


t, p = rng.integers(0, 5, 200), rng.integers(0, 5, 200)
p[:120] = t[:120]
classification = [
    classes("five classes", 5, t, p),
    classes("two classes", 2, [0, 1, 1, 0, 1, 1], [0, 1, 0, 0, 1, 1]),
    classes("a class in neither", 4, [0, 1, 1, 3], [0, 1, 3, 3]),
    classes("a class never predicted", 3, [0, 1, 2, 2], [0, 1, 1, 0]),
    classes("a class never a target", 3, [0, 1, 1, 0], [0, 1, 2, 2]),
    classes("one class only", 1, [0, 0, 0], [0, 0, 0]),
    classes("one class of three", 3, [1, 1, 1], [1, 1, 1]),
    classes("constant predictions", 3, [0, 1, 2, 1, 1], [1] * 5),
    classes("constant targets", 3, [1] * 5, [0, 1, 2, 1, 1]),
    classes("all wrong", 2, [0, 1, 0, 1], [1, 0, 1, 0]),
    classes("one example", 2, [1], [1]),
]

logits = (rng.normal(size=(20, 4)) * 8).astype(np.float32)
logits[3] = [1, 2, 2, 0]  # a tie: the first wins
logits[4] = [300, -300, 0, 0]
targets = rng.integers(0, 4, 20)
targets[4] = 1
loss = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(20), targets]
from_logits = {"logits": logits.tolist(), "target": targets.tolist(), "loss": loss.mean(),
               "accuracy": m.accuracy_score(targets, logits.argmax(1))}


def labels(name, target, logit):
    target, logit = np.array(target), np.array(logit, dtype=np.float32)
    prediction = 1 / (1 + np.exp(-logit.astype(np.float64))) > 0.5
    z = logit.astype(np.float64)
    return {
        "name": name, "target": target.tolist(), "logits": logit.tolist(),
        "accuracy": float(m.accuracy_score(target, prediction)),
        **{f"f1_{a}": float(m.f1_score(target, prediction, average=a)) for a in ["macro", "micro", "weighted"]},
        "loss": float((np.logaddexp(0, z) - z * target).mean()),
    }


multilabel = [
    labels("random", rng.integers(0, 2, (30, 4)), rng.normal(size=(30, 4))),
    labels("a label never there", [[1, 0, 0], [0, 1, 0], [1, 1, 0]], [[2, -1, -1], [1, 1, -3], [2, 0.5, -1]]),
    labels("nothing there", [[0, 0], [0, 0]], [[-1, -2], [-3, -4]]),
    labels("a logit of 0 is no", [[1, 0], [0, 1]], [[0, -1], [0, 60]]),
]


def regression(name, target, prediction):
    target, prediction = np.array(target, dtype=float), np.array(prediction, dtype=float)
    return {
        "name": name, "target": target.tolist(), "prediction": prediction.tolist(),
        "mse": m.mean_squared_error(target, prediction), "mae": m.mean_absolute_error(target, prediction),
        "pearson": num(pearsonr(prediction, target).statistic), "spearman": num(spearmanr(prediction, target).statistic),
    }


x = rng.normal(size=60)
regressions = [
    regression("noisy", x, x + rng.normal(size=60)),
    regression("ties", rng.integers(0, 5, 60), rng.integers(0, 4, 60)),
    regression("ties and zeros of both signs", [0, 1, 2, 2, 3], [0.0, -0.0, 1, 1, 0.5]),
    regression("constant predictions", [1, 2, 3], [0.1, 0.1, 0.1]),
    regression("constant targets", [0.1, 0.1, 0.1, 0.1], [1, 2, 3, 4]),
    regression("far from zero", 1e8 + np.arange(30) * 0.5, 1e8 + rng.integers(0, 99, 30) / 8),
    regression("two", [1, 2], [4, 3]),
    regression("monotone, not linear", np.arange(20), np.exp(np.arange(20) / 2)),
]

out = {"scikit-learn": sklearn.__version__, "scipy": scipy.__version__, "classification": classification,
       "from_logits": from_logits, "multilabel": multilabel, "regression": regressions}
path = pathlib.Path(__file__).with_name("metrics.json")
path.write_text(json.dumps(out).replace('{"name"', '\n{"name"') + "\n")
