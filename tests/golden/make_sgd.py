#!/usr/bin/env python3
"""Writes tests/golden/sgd.json: torch.nn.utils.clip_grad_norm_ and torch.optim.SGD on the problem of make_adamw.py, in f64.

    python3 -m pip install torch==2.15.0
    python3 tests/golden/make_sgd.py

Without momentum, with momentum, and with Nesterov's momentum; dampening is 0, as it must be for Nesterov's.

  exact     settings that f32 holds exactly, so that nothing but the order of roundings can differ
  usual     momentum 0.9, which f32 does not hold exactly
"""
import torch
from make_adamw import run, torch_version, write

EXACT = dict(lr=2**-6, weight_decay=0.0625, max_grad_norm=1.5)
USUAL = dict(lr=1e-2, weight_decay=0.01, max_grad_norm=1.0)
SETTINGS = {
    "exact, plain": dict(momentum=0.0, nesterov=False, **EXACT),
    "exact, momentum": dict(momentum=0.875, nesterov=False, **EXACT),
    "exact, Nesterov": dict(momentum=0.875, nesterov=True, **EXACT),
    "usual, Nesterov": dict(momentum=0.9, nesterov=True, **USUAL),
}


def sgd(momentum, nesterov, **settings):
    make = lambda groups: torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=nesterov, foreach=False)
    return run(make, ("momentum_buffer",) if momentum else (), **settings)


if __name__ == "__main__":
    cases = [{"name": n, "rule": "sgd", "settings": s, **sgd(**s)} for n, s in SETTINGS.items()]
    write("sgd.json", torch_version(), cases)
