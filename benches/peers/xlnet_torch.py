#!/usr/bin/env python3
"""Training passes (forward and backward, dropout on) of an XLNet-base of six layers in PyTorch on the CPU, two threads: beside
`cargo test --test all -- --ignored xlnet_passes --nocapture`."""
import time

import torch
from transformers import XLNetConfig, XLNetForSequenceClassification

torch.set_num_threads(2)
torch.manual_seed(1)
config = XLNetConfig(d_model=768, n_layer=6, n_head=12, d_inner=3072, num_labels=1)
model = XLNetForSequenceClassification(config).train()
for sequences, length in ((16, 32), (8, 128), (2, 512)):
    ids = torch.randint(0, 32000, (sequences, length))
    types = torch.zeros_like(ids)
    types[:, -1] = 2
    best = float("inf")
    for _ in range(4):
        begun = time.perf_counter()
        model.zero_grad(set_to_none=True)
        model(input_ids=ids, token_type_ids=types, labels=torch.full((sequences,), 0.5)).loss.backward()
        best = min(best, time.perf_counter() - begun)
    print(f"{sequences} x {length}: {sequences * length / best:.0f} tokens/s")
