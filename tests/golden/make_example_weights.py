"""What PyTorch says of losses with a weight for each example: value and gradient, written to example_weights.json. Needs torch.

    python tests/golden/make_example_weights.py

With losses l_i of `reduction="none"` and weights s_i the loss is sum(s_i l_i) / sum(s_i). With class weights w the losses of PyTorch hold
w already, and its own mean divides by the sum of w over the labels: the loss is sum(s_i l_i) / sum(s_i w_{y_i}). R-Drop is that of
make_r_drop.py with these weights. All inputs but the outputs of the model are exact in f32.
"""

import json
import pathlib

import torch
import torch.nn.functional as F

torch.manual_seed(11)
REAL = torch.float64


def eighths(*shape, least=0):
    return torch.randint(least, 25, shape).to(REAL) / 8


def outputs(rows, columns):
    z = torch.randn(rows, columns, dtype=REAL) * 2
    return z.requires_grad_()


def weights(rows):
    """The last is 0, the one before it is not."""
    s = eighths(rows)
    s[-2:] = torch.tensor([0.5, 0.0], dtype=REAL)
    return s


def done(name, s, z, targets, loss, **more):
    loss.backward()
    settings = {"smoothing": 0.0, "class_weights": [], **more}
    return {"task": name, "weights": s.tolist(), "z": z.tolist(), "targets": targets.tolist(), **settings,
            "loss": loss.item(), "dz": z.grad.tolist()}


def classify(rows, classes, weighted=False, smoothing=0.0):
    z, s, labels = outputs(rows, classes), weights(rows), torch.randint(classes, (rows,))
    w = eighths(classes, least=1) if weighted else torch.ones(classes, dtype=REAL)
    each = F.cross_entropy(z, labels, w, reduction="none", label_smoothing=smoothing)
    loss = (s * each).sum() / (s * w[labels]).sum()
    return done("classify", s, z, labels, loss, smoothing=smoothing, class_weights=w.tolist() if weighted else [])


def r_drop(rows, classes, weighted):
    """`z` has the outputs of both passes, one below the other."""
    z, s, labels, alpha = outputs(2 * rows, classes), weights(rows), torch.randint(classes, (rows,)), 0.75
    w = eighths(classes, least=1) if weighted else torch.ones(classes, dtype=REAL)
    a, b = z[:rows], z[rows:]
    cross = 0.5 * (F.cross_entropy(a, labels, w, reduction="none") + F.cross_entropy(b, labels, w, reduction="none"))
    p, q = F.log_softmax(a, -1), F.log_softmax(b, -1)
    apart = F.kl_div(q, p, reduction="none", log_target=True) + F.kl_div(p, q, reduction="none", log_target=True)
    each = s * w[labels]
    loss = ((s * cross).sum() + alpha * (each * 0.5 * apart.sum(-1)).sum()) / each.sum()
    return done("r_drop", s, z, labels, loss, class_weights=w.tolist() if weighted else [], alpha=alpha)


def multilabel(rows, classes, weighted=False, smoothing=0.0):
    z, s, hot = outputs(rows, classes), weights(rows), torch.randint(2, (rows, classes))
    w = eighths(classes, least=1) if weighted else torch.ones(classes, dtype=REAL)
    t = hot.to(REAL) * (1 - smoothing) + smoothing / 2
    each = F.binary_cross_entropy_with_logits(z, t, w, reduction="none").mean(-1)
    loss = (s * each).sum() / s.sum()
    return done("multilabel", s, z, hot, loss, smoothing=smoothing, class_weights=w.tolist() if weighted else [])


def regress(rows):
    z, s, targets = outputs(rows, 1), weights(rows), eighths(rows) - 1
    each = F.mse_loss(z[:, 0], targets, reduction="none")
    return done("regress", s, z, targets, (s * each).sum() / s.sum())


cases = [
    classify(7, 3), classify(6, 4, weighted=True), classify(5, 3, smoothing=0.125),
    classify(6, 5, weighted=True, smoothing=0.25), r_drop(5, 3, False), r_drop(6, 4, True),
    multilabel(6, 4), multilabel(5, 3, weighted=True, smoothing=0.25), regress(7),
]
found = {"versions": {"torch": torch.__version__}, "cases": cases}
path = pathlib.Path(__file__).with_name("example_weights.json")
path.write_text(json.dumps(found).replace('{"task"', '\n{"task"') + "\n")
