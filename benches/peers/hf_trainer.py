#!/usr/bin/env python3
"""Runs the quickstart's job with the Hugging Face Trainer, to compare with `tempra train examples/sentiment/recipe.toml`.

    python3 hf_trainer.py --model FOLDER [--threads 2] [SEED ...]

Trains on examples/sentiment/train.csv and tests on test.csv: 3 epochs, batch 16 in random order, AdamW lr 5e-5, weight
decay 0.01, linear schedule with 10 % warm-up, clip 1.0, maximum length 64, dynamic padding, f32, CPU; once for each seed
(default 0). Prints one JSON object on standard output:

  seeds               [{seed, accuracy, train_seconds, eval_seconds, first_step_seconds, real_tokens_per_s}]
                      train_seconds: from entering train() to leaving it; first_step_seconds: from entering train() to the end of
                      the first update; real_tokens_per_s: tokens that are not padding, over train_seconds
  process_seconds     from the start of the process to the end of the first seed's evaluation: imports, loading,
                      tokenising, training, testing
  time_to_first_step  from the start of the process to the end of the first seed's first update
  peak_rss_mib        of the whole process
"""
import common  # first: it notes when the process began

import argparse
import json
import tempfile
import time


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("seeds", nargs="*", type=int, default=[0])
    p.add_argument("--model", required=True, help="folder of all-MiniLM-L6-v2")
    p.add_argument("--train", default=common.SENTIMENT / "train.csv")
    p.add_argument("--test", default=common.SENTIMENT / "test.csv")
    p.add_argument("--epochs", type=float, default=3)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--lr", type=float, default=5e-5)
    p.add_argument("--max-length", type=int, default=64)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--limit", type=int, help="use only the first N rows of each file, to check that it works")
    return p.parse_args()


def main():
    args = arguments()
    import torch
    import transformers
    from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    tok = common.tokenizer(args.model)

    def encode(path):
        texts, labels = zip(*common.sentences(path, args.limit))
        # padding=False: this tokenizer's file asks for 128 fixed positions, which is not dynamic padding.
        ids = tok(list(texts), truncation=True, max_length=args.max_length, padding=False)
        return [{"input_ids": i, "token_type_ids": t, "attention_mask": m, "labels": y}
                for i, t, m, y in zip(ids["input_ids"], ids["token_type_ids"], ids["attention_mask"], labels)]

    train, test = encode(args.train), encode(args.test)
    real_tokens = sum(len(x["input_ids"]) for x in train)

    class FirstStep(TrainerCallback):
        at = None

        def on_step_end(self, _args, state, _control, **_):
            if self.at is None:
                self.at = time.time()

    def accuracy(p):
        return {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())}

    runs, process_seconds, time_to_first_step = [], None, None
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as out:
            transformers.set_seed(seed)
            model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=2)
            first = FirstStep()
            trainer = Trainer(
                model=model,
                args=TrainingArguments(
                    output_dir=out, seed=seed, use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no",
                    num_train_epochs=args.epochs, per_device_train_batch_size=args.batch, per_device_eval_batch_size=args.batch,
                    learning_rate=args.lr, weight_decay=0.01, warmup_steps=0.1, lr_scheduler_type="linear", max_grad_norm=1.0,
                    logging_strategy="epoch", dataloader_pin_memory=False,
                ),
                train_dataset=train, eval_dataset=test, data_collator=DataCollatorWithPadding(tok),
                compute_metrics=accuracy, callbacks=[first],
            )
            trainer.remove_callback(transformers.PrinterCallback)  # standard output is for the JSON
            began = time.time()
            trainer.train()
            trained = time.time()
            metrics = trainer.evaluate()
            runs.append({
                "seed": seed,
                "accuracy": round(metrics["eval_accuracy"], 4),
                "train_seconds": round(trained - began, 2),
                "eval_seconds": round(time.time() - trained, 2),
                "first_step_seconds": round(first.at - began, 3),
                "real_tokens_per_s": round(args.epochs * real_tokens / (trained - began), 1),
            })
            if process_seconds is None:
                process_seconds = common.since_start()
                time_to_first_step = first.at - common.PROCESS_START
    print(json.dumps({
        "peer": "hf_trainer", "machine": common.machine(args.threads), "epochs": args.epochs, "train_rows": len(train), "test_rows": len(test),
        "train_real_tokens": real_tokens, "seeds": runs, "process_seconds": round(process_seconds, 2),
        "time_to_first_step": round(time_to_first_step, 2), "peak_rss_mib": common.peak_rss_mib(),
    }, indent=1))


if __name__ == "__main__":
    main()
