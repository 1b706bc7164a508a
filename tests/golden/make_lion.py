#!/usr/bin/env python3
"""Writes tests/golden/lion.json: gradient clipping and Lion on the problem of make_adamw.py, in f64 with numpy.

    python3 -m pip install torch==2.15.0 numpy==2.4.6
    python3 tests/golden/make_lion.py

`train` is program 1 of Chen et al. 2023 (arXiv 2302.06675) as it stands in the paper; clipping is clip_grad_norm_'s formula. PyTorch
has no Lion; torch only draws the random numbers of make_adamw.py.

  exact     settings that f32 holds exactly, so that nothing but the order of roundings can differ
  defaults  the paper's betas, a tenth of AdamW's learning rate and ten times its weight decay
"""
import numpy as np
from make_adamw import PARAMS, STEPS, problem, write

SETTINGS = {
    "exact": dict(lr=2**-9, beta1=0.875, beta2=0.96875, weight_decay=0.5, max_grad_norm=1.5),
    "defaults": dict(lr=1e-4, beta1=0.9, beta2=0.99, weight_decay=0.1, max_grad_norm=1.0),
}


def interp(x, y, a):
    return (1 - a) * x + a * y


def train(weight, gradient, momentum, lr, weight_decay, beta1, beta2):
    update = interp(gradient, momentum, beta1)
    update = np.sign(update)
    momentum = interp(gradient, momentum, beta2)
    weight_decay = weight * weight_decay
    update = update + weight_decay
    update = update * lr
    return update, momentum


def run(lr, beta1, beta2, weight_decay, max_grad_norm):
    start, grads, lrs = problem(lr)
    start = {n: v.numpy() for n, v in start.items()}
    values = {n: v.copy() for n, v in start.items()}
    trained = [n for n, (*_, frozen) in PARAMS.items() if not frozen]
    momentum = {n: np.zeros_like(values[n]) for n in trained}
    steps = []
    for now, rate in zip(grads, lrs):
        now = {n: g.numpy() for n, g in now.items()}
        norm = np.sqrt(sum(np.sum(now[n] ** 2) for n in trained))
        clip = min(1.0, max_grad_norm / (norm + 1e-6))
        for n in trained:
            _, decays, factor, _ = PARAMS[n]
            decay = weight_decay if decays else 0.0
            update, momentum[n] = train(values[n], now[n] * clip, momentum[n], rate * factor, decay, beta1, beta2)
            values[n] = values[n] - update
        steps.append({
            "lr": rate,
            "norm": float(norm),
            "grads": {n: now[n].flatten().tolist() for n in PARAMS},
            "values": {n: v.flatten().tolist() for n, v in values.items()},
        })
    clipped = sum(s["norm"] > max_grad_norm for s in steps)
    assert 2 < clipped < STEPS - 2, f"clipping bites in {clipped} steps"
    return {
        "start": {n: v.flatten().tolist() for n, v in start.items()},
        "steps": steps,
        "states": {"exp_avg": {n: v.flatten().tolist() for n, v in momentum.items()}},
    }


if __name__ == "__main__":
    cases = [{"name": n, "rule": "lion", "settings": s, **run(**s)} for n, s in SETTINGS.items()]
    write("lion.json", {"numpy": np.__version__}, cases)
