"""Writes epochs.json: the epochs that transformers' Trainer gives its log lines, and what its state says at the end.

    python tests/golden/make_epochs.py

transformers 5.23, torch 2.15. Accumulation is 1: a batch is an optimizer step.
"""
import json
import pathlib
import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

# rows, batch, epochs, max_steps
CASES = [
    (20, 10, 3.0, 9),
    (20, 10, 3.0, 10),
    (21, 4, 3.0, None),
    (21, 4, 1.5, None),
    (24, 4, 2.1, None),
    (20, 2, 2.1, None),
    (24, 5, 1.0, 3),
    (8, 8, 3.0, 4),
    (30, 4, 0.3, None),
]


class Rows(torch.utils.data.Dataset):
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return {"input_ids": torch.tensor([1, 2 + i % 5, 3]), "labels": torch.tensor(i % 2)}


config = BertConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
found = []
for rows, batch, epochs, max_steps in CASES:
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            per_device_train_batch_size=batch,
            num_train_epochs=epochs,
            max_steps=max_steps or -1,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(BertForSequenceClassification(config), args, train_dataset=Rows(rows))
        trainer.train()
        state = trainer.state
        lines = [line["epoch"] for line in state.log_history if "loss" in line]
        found.append(
            {
                "rows": rows,
                "batch_size": batch,
                "epochs": epochs,
                "max_steps": max_steps,
                "log_epochs": lines,
                "state": {k: getattr(state, k) for k in ("epoch", "global_step", "max_steps", "num_train_epochs")},
            }
        )
path = pathlib.Path(__file__).with_name("epochs.json")
path.write_text(json.dumps(found, indent=1) + "\n")
