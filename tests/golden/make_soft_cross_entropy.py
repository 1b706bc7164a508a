"""What PyTorch says of the loss of distillation on given logits: value and gradient, written to soft_cross_entropy.json. Needs torch.

    python tests/golden/make_soft_cross_entropy.py

T^2 kl_div(log_softmax(s / T), softmax(t / T)), as in the DistilBERT distiller, a mean over the rows weighted by `weights`.
"""

import json
import pathlib

import torch
import torch.nn.functional as F

torch.manual_seed(11)


def case(rows, classes, temperature, size, weighted):
    # Numbers that f32 holds exactly.
    real = lambda *shape: (size * torch.randn(*shape)).double()
    s, t = real(rows, classes).requires_grad_(), real(rows, classes)
    w = (torch.rand(rows) + 0.25).double() if weighted else torch.ones(rows, dtype=torch.float64)
    each = F.kl_div(F.log_softmax(s / temperature, -1), F.softmax(t / temperature, -1), reduction="none").sum(-1)
    loss = temperature**2 * (w * each).sum() / w.sum()
    if not weighted:
        mean = F.kl_div(F.log_softmax(s / temperature, -1), F.softmax(t / temperature, -1), reduction="batchmean")
        assert torch.allclose(loss, temperature**2 * mean)
    loss.backward()
    return {
        "temperature": temperature,
        "classes": classes,
        "student": s.flatten().tolist(),
        "teacher": t.flatten().tolist(),
        "weights": w.tolist(),
        "loss": loss.item(),
        "gradient": s.grad.flatten().tolist(),
    }


cases = [
    case(5, 3, 2.0, 2.0, False),
    case(4, 2, 1.0, 1.0, True),
    case(3, 7, 4.0, 3.0, True),
    case(1, 4, 10.0, 2.0, False),
    case(2, 5, 0.5, 8.0, False),
    case(6, 1, 2.0, 1.0, False),
]
found = {"versions": {"torch": torch.__version__}, "cases": cases}
pathlib.Path(__file__).with_name("soft_cross_entropy.json").write_text(json.dumps(found, indent=1) + "\n")
