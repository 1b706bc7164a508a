"""Writes schedules.json: the LambdaLR multiplier of transformers' schedules at every step.

    python tests/golden/make_schedules.py        (transformers 5.23, torch)

Each case: the fields of `Schedule` that differ from its default, the warm-up ratio if steps are left to it, and the
multiplier at steps 0 to total + 3.
"""
import json
import pathlib

import torch
import transformers
from transformers import TrainingArguments
from transformers.optimization import get_scheduler

LR = 2e-5


def multipliers(name, warmup, total, **kw):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    kw = kw or None
    lam = get_scheduler(name, optimizer, warmup, total, scheduler_specific_kwargs=kw).lr_lambdas[0]
    return [float(lam(step)) for step in range(total + 4)]


cases = []


def case(kind, warmup, total, hf=None, ours=None, **kw):
    """`kw` goes to transformers; `ours` is the same thing in our names where they differ."""
    fields = {"kind": kind, "warmup_steps": warmup, "total_steps": total, **(kw if ours is None else ours)}
    cases.append({**fields, "factors": multipliers(hf or kind, warmup, total, **kw)})


for warmup, total in [(0, 1), (0, 20), (3, 20), (7, 50), (20, 20), (25, 20), (1, 2)]:
    case("linear", warmup, total)
    case("cosine", warmup, total)
    case("cosine_with_restarts", warmup, total)
    case("inverse_sqrt", warmup, total)
    case("constant", warmup, total, hf="constant_with_warmup")
    if warmup < total:
        case("polynomial", warmup, total, ours={"lr_end_ratio": 1e-7 / LR})
    case("warmup_stable_decay", warmup, total, num_decay_steps=5, ours={"decay_steps": 5})
case("constant", 0, 10)
case("cosine", 4, 30, num_cycles=1.5)
case("cosine", 4, 30, hf="cosine_with_min_lr", min_lr_rate=0.1, ours={"min_lr_ratio": 0.1})
case("cosine_with_restarts", 4, 31, num_cycles=3)
case("cosine_with_restarts", 0, 30, num_cycles=4)
case("polynomial", 4, 30, lr_end=1e-6, power=2.0, ours={"lr_end_ratio": 1e-6 / LR, "power": 2.0})
case("polynomial", 4, 30, lr_end=0.0, power=0.5, ours={"lr_end_ratio": 0.0, "power": 0.5})
case("inverse_sqrt", 4, 30, timescale=2)
case("inverse_sqrt", 0, 30, timescale=100)
for curve in ["linear", "cosine", "1-sqrt"]:
    case("warmup_stable_decay", 5, 40, num_decay_steps=15, min_lr_ratio=0.05, warmup_type=curve, decay_type=curve,
         ours={"decay_steps": 15, "min_lr_ratio": 0.05, "warmup_type": curve, "decay_type": curve})
case("warmup_stable_decay", 10, 30, num_decay_steps=25, ours={"decay_steps": 25})
case("warmup_stable_decay", 2, 30, num_decay_steps=20, num_cycles=1.5, ours={"decay_steps": 20, "num_cycles": 1.5})

warmups = []
for total in [1, 9, 10, 33, 60, 1234567]:
    for ratio in [0.0, 0.06, 0.1, 0.25, 0.3, 0.999]:
        args = TrainingArguments(output_dir="unused", warmup_steps=ratio, report_to="none", use_cpu=True)
        warmups.append([total, ratio, args.get_warmup_steps(total)])

out = {"transformers": transformers.__version__, "cases": cases, "warmups": warmups}
path = pathlib.Path(__file__).with_name("schedules.json")
text = json.dumps(out).replace('}, {"kind"', '},\n{"kind"')
path.write_text(text + "\n")
