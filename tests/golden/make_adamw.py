#!/usr/bin/env python3
"""Writes tests/golden/adamw.json: torch.nn.utils.clip_grad_norm_ and torch.optim.AdamW on a small problem, in f64.

    python3 -m pip install torch==2.15.0
    python3 tests/golden/make_adamw.py

Eight parameters that differ in weight decay and learning rate, one of them frozen (it has no gradient), ten steps with a
gradient and a learning rate each. Gradients vary in size, so that clipping bites in some steps and not in others; those
of `late.weight` are 0 in most steps, as of a word that is seldom seen. Parameters and gradients are multiples of 2^-12,
which f32 holds exactly.

  exact     settings that f32 holds exactly too, so that nothing but the order of roundings can differ
  defaults  PyTorch's and the HF Trainer's settings
"""
import json
from pathlib import Path

import torch

STEPS = 10
PARAMS = {  # name: shape, whether it decays, factor on the learning rate, frozen
    "embeddings.weight": ((5, 3), True, 0.25, False),
    "embeddings.LayerNorm.weight": ((3,), False, 0.25, False),
    "layer.weight": ((4, 3), True, 0.5, False),
    "layer.bias": ((4,), False, 0.5, False),
    "pooler.weight": ((3, 3), True, 1.0, True),
    "late.weight": ((2, 3), True, 0.125, False),
    "classifier.weight": ((2, 3), True, 1.0, False),
    "classifier.bias": ((2,), False, 1.0, False),
}
SETTINGS = {
    "exact": dict(lr=2**-6, beta1=0.875, beta2=0.96875, eps=2**-20, weight_decay=0.0625, max_grad_norm=1.5),
    "defaults": dict(lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01, max_grad_norm=1.0),
}


def draw(shape, rng, size=1.0):
    return torch.round(torch.randn(shape, generator=rng, dtype=torch.float64) * size * 4096) / 4096


def problem(lr):
    """The values at the start, and the gradients and the learning rate of each step; sgd and lion have the same."""
    rng = torch.Generator().manual_seed(0)
    values = {n: draw(shape, rng) for n, (shape, *_) in PARAMS.items()}
    sizes = [0.05, 1.0, 3.0, 0.1, 0.0, 10.0, 0.2, 0.01, 2.0, 0.3]
    grads = [{n: draw(shape, rng, size) for n, (shape, *_) in PARAMS.items()} for size in sizes]
    for i in (0, 1, 2, 4, 5, 6, 8, 9):
        grads[i]["late.weight"].zero_()
    return values, grads, [lr * f for f in (0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)]


def run(make, states, lr, weight_decay, max_grad_norm):
    """Ten steps of the optimizer that `make` makes of parameter groups."""
    values, grads, lrs = problem(lr)
    params = {n: v.clone().requires_grad_(not PARAMS[n][3]) for n, v in values.items()}
    groups = [
        {"params": [params[n]], "weight_decay": weight_decay if decays else 0.0, "lr": 0.0, "factor": factor}
        for n, (_, decays, factor, frozen) in PARAMS.items()
        if not frozen
    ]
    optim = make(groups)
    steps = []
    for now, rate in zip(grads, lrs):
        trained = [(n, p) for n, p in params.items() if p.requires_grad]
        for n, p in trained:
            p.grad = now[n].clone()
        norm = torch.nn.utils.clip_grad_norm_([p for _, p in trained], max_grad_norm)
        for group in optim.param_groups:
            group["lr"] = rate * group["factor"]
        optim.step()
        steps.append({
            "lr": rate,
            "norm": norm.item(),
            "grads": {n: now[n].flatten().tolist() for n in PARAMS},
            "values": {n: p.detach().flatten().tolist() for n, p in params.items()},
        })
    state = {n: optim.state[p] for n, p in params.items() if p.requires_grad}
    clipped = sum(s["norm"] > max_grad_norm for s in steps)
    assert 2 < clipped < STEPS - 2, f"clipping bites in {clipped} steps"
    return {
        "start": {n: v.flatten().tolist() for n, v in values.items()},
        "steps": steps,
        "states": {k: {n: s[k].flatten().tolist() for n, s in state.items()} for k in states},
    }


def adamw(beta1, beta2, eps, **settings):
    make = lambda groups: torch.optim.AdamW(groups, betas=(beta1, beta2), eps=eps, foreach=False)
    return run(make, ("exp_avg", "exp_avg_sq"), **settings)


def write(name, versions, cases):
    out = {
        "versions": versions,
        "params": [dict(name=n, shape=s, decays=d, factor=f, frozen=z) for n, (s, d, f, z) in PARAMS.items()],
        "cases": cases,
    }
    compact = lambda v: json.dumps(v, separators=(",", ":"))
    lines = [f' "{k}": {compact(out[k])}' for k in ("versions", "params")]
    cases = []
    for case in out["cases"]:
        fields = [f'   "{k}": {compact(v)}' for k, v in case.items() if k != "steps"]
        fields.append('   "steps": [\n' + ",\n".join("    " + compact(s) for s in case["steps"]) + "\n   ]")
        cases.append("  {\n" + ",\n".join(fields) + "\n  }")
    lines.append(' "cases": [\n' + ",\n".join(cases) + "\n ]")
    path = Path(__file__).resolve().parent / name
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def torch_version():
    return {"torch": torch.__version__.split("+")[0]}


def main():
    write("adamw.json", torch_version(), [{"name": n, "settings": s, **adamw(**s)} for n, s in SETTINGS.items()])


if __name__ == "__main__":
    main()
