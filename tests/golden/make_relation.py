"""What PyTorch says of MiniLM-v2's loss: value and gradient of the student, written to relation.json. Needs torch.

    python tests/golden/make_relation.py

The formula is that of Wang et al. 2021 (MiniLMv2), section 3.1: queries, keys and values are cut into relation heads, a relation is
softmax(x x^T / sqrt(d)), and the loss is the sum over q, k and v of KL(teacher || student), divided by relation heads and length, here the
mean over sequences. Every sequence is computed by itself, with full matrices.
"""

import json
import math
import pathlib

import torch
import torch.nn.functional as F

torch.manual_seed(11)


def relations(x, heads):
    """log softmax of the relations of one sequence: x (length, width) -> (heads, length, length)."""
    x = x.view(len(x), heads, -1).transpose(0, 1)
    return F.log_softmax(x @ x.transpose(1, 2) / math.sqrt(x.shape[-1]), -1)


def case(lengths, heads, teacher_width, student_width, spread):
    tokens = sum(lengths)
    teacher = torch.randn(tokens, 3, teacher_width, dtype=torch.float64) * spread
    student = torch.randn(tokens, 3, student_width, dtype=torch.float64) * spread
    # What f32 and f16 hold exactly.
    teacher, student = ((x * 64).round() / 64 for x in (teacher, student))
    student.requires_grad_(True)
    loss = 0.0
    for t, s in zip(teacher.split(lengths), student.split(lengths)):
        for pair in range(3):
            a, b = relations(t[:, pair], heads), relations(s[:, pair], heads)
            # kl_div(input, target) is KL(target || exp(input)).
            loss = loss + F.kl_div(b, a, reduction="sum", log_target=True) / (heads * len(t))
    loss = loss / len(lengths)
    loss.backward()
    return {
        "lengths": lengths,
        "heads": heads,
        "teacher": teacher.flatten().tolist(),
        "student": student.flatten().tolist(),
        "loss": loss.item(),
        "dstudent": student.grad.flatten().tolist(),
    }


cases = [case([5, 1, 9], 3, 12, 6, 1.0), case([17, 4], 4, 16, 16, 1.5), case([2, 7], 1, 3, 8, 1.0)]
found = {"versions": {"torch": torch.__version__}, "cases": cases}
pathlib.Path(__file__).with_name("relation.json").write_text(json.dumps(found) + "\n")
