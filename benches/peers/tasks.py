#!/usr/bin/env python3
"""Compares the scores of tempra and of the Hugging Face Trainer on real tasks, with the same data, settings and seeds.

    python3 benches/peers/tasks.py prepare --ner DIR --sts DIR --squad FILE --novel FILE --out DATA
    python3 benches/peers/tasks.py run   --data DATA --model FOLDER [--tempra target/release/tempra] [--seeds 0 1 2] [--only ner] [--sides tempra]
    python3 benches/peers/tasks.py table [--results target/peers/tasks]

prepare   writes the files that tasks/*.toml name. --ner: wnut17.{train,test}.conll (WNUT-17); --sts: stsb-{train,test}.csv, no header
          (STS-B); --squad: a SQuAD file, of whose articles every fifth is kept for the test (XQuAD's English part); --novel: a text, its
          last tenth is kept for the test (Persuasion by Jane Austen)
run       seed by seed, task by task, what is not in the results yet: it can be stopped and started again
table     means and standard deviations over the seeds, in Markdown

Both sides: the recipe's epochs, batch, learning rate, decay, warm-up and lengths; linear schedule, clip 1.0, AdamW, dropout 0.1, f32, CPU. The
Trainer's side follows transformers' own examples: labels on first sub-tokens and seqeval; windows with stride, 20 best starts and ends and
the SQuAD script; 15 % masked, 80/10/10; sentence vectors by mean pooling, mean squared error of their cosine (sentence-transformers).
Perplexity is of randomly masked tokens on both sides: not the same ones. "both" trains sentiment and entities on one encoder, which the
Trainer has no counterpart for: it stands beside each alone.
"""
import common

import argparse
import csv
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The scores of each: what they are called by tempra and by this script, the first that is there.
SCORES = [("sentiment", "accuracy", ("accuracy",)), ("ner", "entity F1", ("f1",)), ("sts", "Spearman", ("spearman",)), ("qa", "F1", ("f1",)),
          ("qa", "exact match", ("exact_match", "exact")), ("text", "perplexity", ("perplexity",)),
          ("both", "accuracy of sentiment", ("sentiment_accuracy",)), ("both", "entity F1", ("ner_f1",))]
TASKS = ("sentiment", "ner", "sts", "qa", "text", "both")


def prepare(args):
    out = args.out
    for name in ("ner", "sts", "qa", "text"):
        (out / name).mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        (out / "ner" / f"{part}.conll").write_bytes((args.ner / f"wnut17.{part}.conll").read_bytes())
        rows = (args.sts / f"stsb-{part}.csv").read_text(encoding="utf-8")
        (out / "sts" / f"{part}.csv").write_text("a,b,score\n" + rows, encoding="utf-8")
    squad = json.loads(args.squad.read_text(encoding="utf-8"))
    for part, keep in (("train", lambda i: i % 5), ("test", lambda i: i % 5 == 0)):
        kept = {**squad, "data": [a for i, a in enumerate(squad["data"]) if keep(i)]}
        (out / "qa" / f"{part}.json").write_text(json.dumps(kept), encoding="utf-8")
    lines = args.novel.read_text(encoding="utf-8").splitlines(keepends=True)
    cut = len(lines) * 9 // 10
    (out / "text" / "train.txt").write_text("".join(lines[:cut]), encoding="utf-8")
    (out / "text" / "test.txt").write_text("".join(lines[cut:]), encoding="utf-8")


def by_tempra(args, task, seed):
    with tempfile.TemporaryDirectory() as scratch:
        sets = [f"model.path={args.model}", f"seed={seed}", f"output={scratch}/run", "data.cache=false"]
        command = [str(args.tempra.resolve()), "train", str(HERE / "tasks" / f"{task}.toml"), *(w for s in sets for w in ("--set", s))]
        env = {**os.environ, "TEMPRA_TASKS": str(args.data.resolve()), "TEMPRA_MODEL": str(args.model)}
        subprocess.run(command, stdout=sys.stderr, env=env, check=True)
        return json.loads(Path(scratch, "run", "metrics.json").read_text(encoding="utf-8"))


def conll(path):
    """[(words, tags)] of a file of columns."""
    sentences, words, tags = [], [], []
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line.strip():
            word, tag = line.split()
            words.append(word), tags.append(tag)
        elif words:
            sentences.append((words, tags))
            words, tags = [], []
    return sentences


class Peer:
    """What each task is on the Trainer's side: a model, encoded sets, a collator, and the scores of a trained model."""

    def __init__(self, args, task):
        import torch
        import transformers

        self.torch, self.hf, self.args = torch, transformers, args
        self.recipe = tomllib.loads((HERE / "tasks" / f"{task}.toml").read_text(encoding="utf-8"))
        self.tok = common.tokenizer(args.model)
        self.tok.backend_tokenizer.no_padding()
        self.longest = self.recipe["data"]["max_length"]
        getattr(self, task)()

    def pretrained(self, name, **config):
        return lambda: getattr(self.hf, name).from_pretrained(self.args.model, **config)

    def sentiment(self):
        def encode(name):
            texts, labels = zip(*common.sentences(common.SENTIMENT / f"{name}.csv"))
            ids = self.tok(list(texts), truncation=True, max_length=self.longest)
            return [{"input_ids": i, "token_type_ids": t, "labels": y} for i, t, y in zip(ids["input_ids"], ids["token_type_ids"], labels)]

        self.model, self.collate = self.pretrained("AutoModelForSequenceClassification", num_labels=2), self.hf.DataCollatorWithPadding(self.tok)
        self.train, self.test = encode("train"), encode("test")

        def scores(trainer):
            p = trainer.predict(self.test)
            return {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())}

        self.scores = scores

    def ner(self):
        from seqeval.metrics import f1_score

        parts = {name: conll(self.args.data / "ner" / f"{name}.conll") for name in ("train", "test")}
        names = sorted({t for _, tags in parts["train"] for t in tags})

        def encode(sentences):
            made = []
            for words, tags in sentences:
                ids = self.tok(words, is_split_into_words=True, truncation=True, max_length=self.longest)
                of, labels = ids.word_ids(), []
                for i, w in enumerate(of):
                    labels.append(names.index(tags[w]) if w is not None and w != of[i - 1] else -100)
                made.append({"input_ids": ids["input_ids"], "token_type_ids": ids["token_type_ids"], "labels": labels})
            return made

        self.model = self.pretrained("AutoModelForTokenClassification", num_labels=len(names))
        self.collate, self.train, self.test = self.hf.DataCollatorForTokenClassification(self.tok), encode(parts["train"]), encode(parts["test"])

        def scores(trainer):
            p = trainer.predict(self.test)
            found, wanted = [], []
            for given, labels, (_, tags) in zip(p.predictions.argmax(-1), p.label_ids, parts["test"]):
                tagged = [names[g] for g, y in zip(given, labels) if y != -100]
                # Words behind the length limit: none was cut in this data; they would count as no entity.
                found.append(tagged + ["O"] * (len(tags) - len(tagged))), wanted.append(tags)
            return {"f1": float(f1_score(wanted, found))}

        self.scores = scores

    def sts(self):
        torch, hf = self.torch, self.hf
        scale = self.recipe["similar"]["label_scale"]

        class Similar(torch.nn.Module):
            def __init__(self, encoder):
                super().__init__()
                self.encoder = encoder

            def vector(self, ids, mask):
                hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
                return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

            def forward(self, ids_a, mask_a, ids_b, mask_b, labels=None):
                cosine = torch.cosine_similarity(self.vector(ids_a, mask_a), self.vector(ids_b, mask_b))
                return {"loss": torch.nn.functional.mse_loss(cosine, labels / scale), "logits": cosine}

        def encode(name):
            with open(self.args.data / "sts" / f"{name}.csv", encoding="utf-8", newline="") as f:
                rows = list(csv.DictReader(f))
            ids = {c: self.tok([r[c] for r in rows], truncation=True, max_length=self.longest)["input_ids"] for c in "ab"}
            return [{"a": a, "b": b, "labels": float(r["score"])} for a, b, r in zip(ids["a"], ids["b"], rows)]

        def collate(rows):
            batch = {"labels": torch.tensor([r["labels"] for r in rows])}
            for c in "ab":
                padded = self.tok.pad({"input_ids": [r[c] for r in rows]}, return_tensors="pt")
                batch[f"ids_{c}"], batch[f"mask_{c}"] = padded["input_ids"], padded["attention_mask"]
            return batch

        self.model = lambda: Similar(hf.AutoModel.from_pretrained(self.args.model))
        self.collate, self.train, self.test = collate, encode("train"), encode("test")

        def scores(trainer):
            from scipy.stats import spearmanr

            p = trainer.predict(self.test)
            return {"spearman": float(spearmanr(p.predictions, p.label_ids).statistic)}

        self.scores = scores

    def qa(self):
        settings = {"truncation": "only_second", "max_length": self.longest, "stride": self.recipe["data"]["stride"],
                    "return_overflowing_tokens": True, "return_offsets_mapping": True}

        def questions(name):
            squad = json.loads((self.args.data / "qa" / f"{name}.json").read_text(encoding="utf-8"))
            return [(q["question"], p["context"], q["answers"]) for a in squad["data"] for p in a["paragraphs"] for q in p["qas"]]

        def encode(asked):
            ids = self.tok([q for q, _, _ in asked], [c for _, c, _ in asked], **settings)
            made, where = [], []
            for w, sample in enumerate(ids["overflow_to_sample_mapping"]):
                of, offsets = ids.sequence_ids(w), ids["offset_mapping"][w]
                answer = asked[sample][2][0]
                start, end = answer["answer_start"], answer["answer_start"] + len(answer["text"])
                inside = [i for i, s in enumerate(of) if s == 1]
                first = last = 0
                if offsets[inside[0]][0] <= start and offsets[inside[-1]][1] >= end:
                    first = max(i for i in inside if offsets[i][0] <= start)
                    last = min(i for i in inside if offsets[i][1] >= end)
                made.append({"input_ids": ids["input_ids"][w], "token_type_ids": ids["token_type_ids"][w],
                             "start_positions": first, "end_positions": last})
                where.append((sample, [o if s == 1 else None for o, s in zip(offsets, of)]))
            return made, where

        asked = {name: questions(name) for name in ("train", "test")}
        self.model, self.collate = self.pretrained("AutoModelForQuestionAnswering"), self.hf.DataCollatorWithPadding(self.tok)
        self.train, _ = encode(asked["train"])
        self.test, where = encode(asked["test"])

        def scores(trainer):
            starts, ends = trainer.predict(self.test).predictions[:2]
            best = {}
            for (sample, offsets), start, end in zip(where, starts, ends):
                for s in start.argsort()[: -21:-1]:
                    for e in end.argsort()[: -21:-1]:
                        if max(s, e) < len(offsets) and offsets[s] and offsets[e] and s <= e < s + 30:
                            score = float(start[s] + end[e])
                            if sample not in best or score > best[sample][0]:
                                best[sample] = score, asked["test"][sample][1][offsets[s][0] : offsets[e][1]]
            gold = [[a["text"] for a in answers] for _, _, answers in asked["test"]]
            found = [best.get(i, (0.0, ""))[1] for i in range(len(gold))]
            pairs = [max((exact(f, g), overlap(f, g)) for g in answers) for f, answers in zip(found, gold)]
            return {"exact_match": statistics.mean(max(exact(f, g) for g in a) for f, a in zip(found, gold)),
                    "f1": statistics.mean(max(overlap(f, g) for g in a) for f, a in zip(found, gold)), "questions": len(pairs)}

        self.scores = scores

    def text(self):
        def encode(name):
            # A paragraph is a document on both sides: pieces do not go beyond it.
            paragraphs = re.split(r"\n\s*\n", (self.args.data / "text" / f"{name}.txt").read_text(encoding="utf-8"))
            size, made = self.longest - 2, []
            for paragraph in filter(str.strip, paragraphs):
                ids = self.tok(paragraph, add_special_tokens=False)["input_ids"]
                made += [{"input_ids": [self.tok.cls_token_id, *ids[i : i + size], self.tok.sep_token_id]} for i in range(0, len(ids), size)]
            return made

        self.model, self.collate = self.pretrained("AutoModelForMaskedLM"), self.hf.DataCollatorForLanguageModeling(self.tok)
        self.train, self.test = encode("train"), encode("test")

        def scores(trainer):
            self.hf.set_seed(0)
            losses = [trainer.evaluate(self.test)["eval_loss"] for _ in range(3)]
            return {"perplexity": math.exp(statistics.mean(losses))}

        self.scores = scores

    def run(self, seed):
        r = self.recipe
        with tempfile.TemporaryDirectory() as out:
            self.hf.set_seed(seed)
            trainer = self.hf.Trainer(
                model=self.model(), train_dataset=self.train, data_collator=self.collate,
                args=self.hf.TrainingArguments(
                    output_dir=out, seed=seed, use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no",
                    num_train_epochs=r["train"]["epochs"], per_device_train_batch_size=r["train"]["batch_size"],
                    per_device_eval_batch_size=16, learning_rate=r["optim"]["lr"], weight_decay=r["optim"]["weight_decay"],
                    warmup_steps=r["optim"]["warmup_ratio"], lr_scheduler_type="linear", max_grad_norm=1.0, logging_strategy="epoch",
                    dataloader_pin_memory=False, remove_unused_columns=False,
                ),
            )
            trainer.remove_callback(self.hf.PrinterCallback)
            took = trainer.train().metrics["train_runtime"]
            trainer.model.eval()
            return {**self.scores(trainer), "train_seconds": took}


def words(text):
    """As the SQuAD script: lower case, no ASCII punctuation, no articles."""
    import string

    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def exact(found, gold):
    return float(words(found) == words(gold))


def overlap(found, gold):
    from collections import Counter

    f, g = words(found), words(gold)
    same = sum((Counter(f) & Counter(g)).values())
    return float(f == g) if not f or not g else 2 * same / (len(f) + len(g))


def run(args):
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    args.results.mkdir(parents=True, exist_ok=True)
    failed = 0
    for seed in args.seeds:
        for task in args.only or TASKS:
            for side in args.sides:
                file = args.results / f"{task}-{side}-{seed}.json"
                if file.exists() or (side, task) == ("trainer", "both"):
                    continue
                print(f"== {task}, {side}, seed {seed}", file=sys.stderr, flush=True)
                try:
                    found = by_tempra(args, task, seed) if side == "tempra" else Peer(args, task).run(seed)
                except Exception as e:  # the other tasks are worth having
                    print(f"failed: {e!r}", file=sys.stderr, flush=True)
                    failed += 1
                    continue
                whole = file.with_suffix(".part")
                whole.write_text(json.dumps({"machine": common.machine(args.threads), **found}, indent=1))
                whole.rename(file)
    sys.exit(failed > 0)


def table(args):
    found = {}
    for file in sorted(args.results.glob("*.json")):
        task, side, _ = file.stem.rsplit("-", 2)
        found.setdefault((task, side), []).append(json.loads(file.read_text(encoding="utf-8")))

    def cell(task, side, keys, scale=1):
        for key in keys:
            values = [scale * r[key] for r in found.get((task, side), []) if key in r]
            if values:
                spread = f" ± {statistics.stdev(values):.4g}" if len(values) > 1 else ""
                return f"{statistics.mean(values):.4g}{spread} ({len(values)})"
        return "-"

    print("| task | score | tempra | Trainer |\n|---|---|---|---|")
    for task, name, keys in SCORES:
        print(f"| {task} | {name} | {cell(task, 'tempra', keys)} | {cell(task, 'trainer', keys)} |")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sub = p.add_subparsers(dest="command", required=True)
    c = sub.add_parser("prepare")
    for name in ("ner", "sts", "squad", "novel", "out"):
        c.add_argument(f"--{name}", required=True, type=Path)
    c = sub.add_parser("run")
    c.add_argument("--data", required=True, type=Path)
    c.add_argument("--model", required=True)
    c.add_argument("--tempra", type=Path, default=Path("target/release/tempra"))
    c.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    c.add_argument("--only", nargs="+", choices=TASKS)
    c.add_argument("--sides", nargs="+", choices=("tempra", "trainer"), default=("tempra", "trainer"))
    c.add_argument("--threads", type=int, default=2)
    c.add_argument("--results", type=Path, default=Path("target/peers/tasks"))
    c = sub.add_parser("table")
    c.add_argument("--results", type=Path, default=Path("target/peers/tasks"))
    args = p.parse_args()
    {"prepare": prepare, "run": run, "table": table}[args.command](args)


if __name__ == "__main__":
    main()
