#!/usr/bin/env python3
"""Measures the ops and steps of `tempra bench` with PyTorch: same shapes, same method, same JSON format.

    python3 ops_torch.py [--device cpu|cuda] [--dtype f32|bf16|f16] [--variants eager,compiled] [--tokens 256,1024]
                         [--shape-of minilm-l6] [--seconds 0.3] [--only ops,steps] > torch.json

Compare with `tempra bench compare tempra.json torch.json`. As in tempra, operands are random, and several sets of them, together larger
than the cache, are used in turn. A warm-up on all sets is not counted. Times are medians of measurements that are long enough for the
clock, with CUDA events on a GPU. Bytes and FLOPs are counted as in src/ops. Ops that PyTorch does not have as one function are written as
its users write them: dropout, residual and layer norm in sequence; clip_grad_norm_, then AdamW. A backward pass is timed separately, on
a retained graph. A step is transformers' BertForSequenceClassification with SDPA, clipped at 1, AdamW with PyTorch's default (fused on a
GPU).
"""
import argparse
import json
import os
import platform
import re
import statistics
import sys
import time
from pathlib import Path

MODELS = {"minilm-l6": (384, 6, 12, 1536), "bert-base": (768, 12, 12, 3072), "bert-large": (1024, 24, 16, 4096)}
VOCAB, POSITIONS, LENGTH, SETS, LONG_ENOUGH, RUNS = 30522, 512, 128, 64, 2e-3, 64


def first(path, key):
    try:
        return next(line.split(":", 1)[1].strip() for line in Path(path).read_text().splitlines() if line.startswith(key))
    except (OSError, StopIteration):
        return None


def machine():
    kib = first("/proc/meminfo", "MemTotal")
    return {"cpu": first("/proc/cpuinfo", "model name") or platform.machine(), "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_bytes": int(kib.split()[0]) << 10 if kib else None, "os": f"{platform.system().lower()} {platform.machine()}",
            "load_before": load(), "load_after": None}


def load():
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def cache_bytes(on_card):
    if on_card:
        return 128 << 20
    sizes = [int(re.sub(r"\D", "", p.read_text())) << 10 for p in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max(sizes, default=32 << 20)


def quartiles(v):
    v = sorted(v)

    def at(q):
        place = q * (len(v) - 1)
        low = int(place)
        return v[low] + (place - low) * (v[min(low + 1, len(v) - 1)] - v[low])

    return {"q1": at(0.25), "median": at(0.5), "q3": at(0.75)}


class Bench:
    def __init__(self, args):
        import torch

        self.torch, self.args = torch, args
        self.device = torch.device(args.device)
        self.on_card = self.device.type == "cuda"
        self.dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[args.dtype]
        self.cache = cache_bytes(self.on_card)
        self.report = {"schema": 2, "begun": int(time.time()), "complete": True, "stopped": None, "devices": [], "ops": [], "steps": [], "skipped": []}

    def clock(self, work):
        torch = self.torch
        if self.on_card:
            a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            a.record()
            work()
            b.record()
            torch.cuda.synchronize()
            return a.elapsed_time(b) * 1e-3
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun

    def time(self, run, sets):
        """Seconds of run(i), i the set of operands: all measurements, and the runs of each."""
        for i in range(sets):
            run(i)
        place = [0]

        def measure(n):
            def work():
                for _ in range(n):
                    run(place[0] % sets)
                    place[0] += 1

            return self.clock(work) / n

        one = min(measure(1), measure(1))
        repeats = max(1, min(RUNS, -int(-LONG_ENOUGH // max(one, 1e-9))))
        least, begun, seconds = 3 if one > self.args.seconds else 5, time.time(), []
        while len(seconds) < least or time.time() - begun < self.args.seconds:
            seconds.append(measure(repeats))
        return seconds, repeats

    def rand(self, *shape, dtype=None, grad=False):
        t = self.torch.empty(shape, device=self.device, dtype=self.torch.float32).uniform_(-1, 1).to(dtype or self.dtype)
        return t.requires_grad_(grad)

    def ceilings(self):
        torch = self.torch
        n = 4 * self.cache // 4
        a, b = self.rand(n, dtype=torch.float32), self.rand(n, dtype=torch.float32)
        copies = [min(self.time(run, 1)[0]) for run in (lambda i: b.copy_(a), lambda i: b.neg_())]
        best, side = 0.0, 256
        while side <= 8192:
            x, w = self.rand(side, side), self.rand(side, side)
            s = min(self.time(lambda i: torch.nn.functional.linear(x, w), 1)[0])
            if 2 * side**3 / s > best:
                best, at = 2 * side**3 / s, side
            if 8 * s > self.args.seconds:
                break
            side *= 2
        return {"copy_bytes_per_s": 8.0 * n / min(copies), "product_flops_per_s": best,
                "how": f"copy: copy_ or neg_, whichever is faster; product: {at} x {at} x {at}", "drift": None}

    def begin(self, variant):
        torch, a = self.torch, self.args
        self.id = f"torch {variant} {a.device}" + ("" if a.dtype == "f32" else f" {a.dtype}")
        self.variant, self.before = variant, self.ceilings()
        name = torch.cuda.get_device_name() if self.on_card else f"cpu ({torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()})"
        self.report["devices"].append({
            "id": self.id, "tool": f"torch {torch.__version__} {variant}", "description": name, "dtype": a.dtype,
            "memory_bytes": torch.cuda.get_device_properties(0).total_memory if self.on_card else None,
            "timer": "CUDA events" if self.on_card else "host clock", "cache_bytes": self.cache, "ceilings": self.before,
            "machine": machine(), "uuid": str(getattr(torch.cuda.get_device_properties(0), "uuid", "")).removeprefix("GPU-") or None if self.on_card else None})

    def end(self):
        after, before = self.ceilings(), self.before
        keys = ("copy_bytes_per_s", "product_flops_per_s")
        best = {**before, **{k: max(before[k], after[k]) for k in keys}, "drift": [after[k] / before[k] for k in keys]}
        self.report["devices"][-1]["ceilings"] = best
        self.report["devices"][-1]["machine"]["load_after"] = load()
        for row in (r for r in self.report["ops"] if r["device"] == self.id and r["beyond_cache"]):
            copy, product = row["bytes"] / best[keys[0]], row["flops"] / best[keys[1]]
            if max(copy, product) > 0:
                row["percent"] = 100 * max(copy, product) / row["seconds"]["median"]
                row["bound"] = "product" if product > copy else "copy"
        for row in (r for r in self.report["steps"] if r["device"] == self.id and r["flops"]):
            row["share_of_peak"] = row["flops"] / row["seconds"]["median"] / best[keys[1]]

    def compiled(self, f):
        return self.torch.compile(f) if self.variant == "compiled" else f

    def note(self, op, role, model, tokens, shapes, make, cost, step=False):
        """make() gives one set: (function of its operands, operands, output gradient). cost: flops, bytes by pass."""
        bytes_ = cost[1]
        sets = max(2, min(SETS, -(-2 * self.cache // int(max(bytes_, 1)))))
        # In eager mode a graph is kept for each set, so that a backward pass runs by itself.
        sets = max(1, min(sets, int((1 << 30) // max(1, 3 * bytes_))))

        def row(kind, run, flops, moved):
            seconds, repeats = self.time(run, sets)
            self.report["ops"].append({
                "device": self.id, "op": op, "role": role, "model": model, "tokens": tokens, "pass": kind, "shapes": shapes,
                "seconds": quartiles(seconds), "samples": len(seconds), "repeats": repeats, "sets": sets,
                "beyond_cache": bytes_ * sets > self.cache, "flops": float(flops), "bytes": float(moved), "launches": None, "percent": None,
                "bound": None})

        try:
            f, all_ = None, []
            for _ in range(sets):
                made, operands, up = make()
                f = f or (made if step else self.compiled(made))
                all_.append((operands, up))
            print(f"{self.id}: {op} {role} {model} {tokens}", file=sys.stderr)
            if step:
                return row("step", lambda i: f(*all_[i][0]), cost[0], cost[1])
            with self.torch.no_grad():
                pass
            row("forward", lambda i: f(*all_[i][0]), cost[0], cost[1])
            kept = [f(*operands) for operands, _ in all_]
            leaves = [[t for t in operands if getattr(t, "requires_grad", False)] for operands, _ in all_]
            ups = [up if up is not None else self.torch.ones_like(y) for (_, up), y in zip(all_, kept)]
            row("backward", lambda i: self.torch.autograd.grad(kept[i], leaves[i], ups[i], retain_graph=True), cost[2], cost[3])
        except Exception as e:  # what is refused is a result, too
            self.report["skipped"].append({"device": self.id, "what": f"{op} {role} of {model}, {tokens} tokens", "why": str(e).splitlines()[0]})

    def ops(self, model, tokens, once):
        torch, F, r = self.torch, self.torch.nn.functional, self.rand
        h, layers, heads, f = MODELS[model]
        e = torch.empty(0, dtype=self.dtype).element_size()
        length = min(LENGTH, tokens)
        sequences, T = max(1, tokens // length), tokens // length * length

        def ints(n, bound):
            return torch.randint(0, bound, (n,), device=self.device)

        tables = [r(n, h, grad=True) for n in (VOCAB, POSITIONS, 2)]
        positions = torch.arange(T, device=self.device) % length

        def embed(i, p, t, word, position, kind):
            return F.embedding(i, word) + F.embedding(p, position) + F.embedding(t, kind)

        # The counts are those of tempra (src/ops/cost.rs): what the op needs. PyTorch's gradients of weights have the compute type.
        y, words = T * h * e, ints(T, VOCAB)
        rows = words.unique().numel() + min(length, T) + 2
        self.note("embed", "tables", model, T, [[T]] * 3 + [list(t.shape) for t in tables],
                  lambda: (embed, ((words + 7919 * int(torch.randint(VOCAB, ()))) % VOCAB, positions, ints(T, 2), *tables), r(T, h)),
                  (2 * T * h, 12 * T + rows * h * e + y, 3 * T * h, 12 * T + y + sum(t.numel() for t in tables) * e))
        for role, k, n, gelu in (("qkv", h, 3 * h, 0), ("attention output", h, h, 0), ("up, gelu", h, f, 1), ("down", f, h, 0)):
            def linear(x, w, b, gelu=gelu):
                y = F.linear(x, w, b)
                return F.gelu(y) if gelu else y

            flops, own = 2 * T * k * n, (T * k + n * k) * e
            self.note("linear", role, model, T, [[T, k], [n, k], [n]],
                      lambda: (linear, (r(T, k, grad=True), r(n, k, grad=True), r(n, grad=True)), r(T, n)),
                      (flops, own + n * e + (1 + gelu) * T * n * e, 2 * flops, 2 * own + n * e + (1 + gelu) * T * n * e))

        def block(x, g, b, res):
            return F.layer_norm(F.dropout(x, 0.1) + res, (h,), g, b, 1e-12)

        def embeddings(x, g, b):
            return F.dropout(F.layer_norm(x, (h,), g, b, 1e-12), 0.1)

        self.note("add_norm", "block", model, T, [[T, h], [h], [h], [T, h]],
                  lambda: (block, (r(T, h, grad=True), r(h, grad=True), r(h, grad=True), r(T, h, grad=True)), r(T, h)),
                  (9 * T * h + 5 * T, 4 * y + 2 * h * e + 4 * T + 20, 12 * T * h + 2 * T, 4 * y + 3 * h * e + 4 * T + 20))
        self.note("add_norm", "embeddings", model, T, [[T, h], [h], [h]],
                  lambda: (embeddings, (r(T, h, grad=True), r(h, grad=True), r(h, grad=True)), r(T, h)),
                  (8 * T * h + 5 * T, 3 * y + 2 * h * e + 4 * T + 20, 12 * T * h + 2 * T, 3 * y + 3 * h * e + 4 * T + 20))
        roles = [("length 64", 64, 0), ("length 256", 256, 0), ("length 512", 512, 0), ("length 512, window 64", 512, 64)]
        for role, n, window in [("length 128", length, 0)] + [r for r in roles if T % r[1] == 0]:
            at = self.torch.arange(n, device=self.device)
            mask = (at[:, None] - at[None, :]).abs() <= window if window else None

            def attention(qkv, n=n, mask=mask):
                q, k, v = qkv.view(T // n, n, 3, heads, h // heads).permute(2, 0, 3, 1, 4)
                return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=0.1).transpose(1, 2).reshape(T, h)

            pairs = n * (2 * window + 1) - window * (window + 1) if window and window + 1 < n else n * n
            flops, lse = 4 * (T // n) * pairs * h, 4 * T * heads
            self.note("attention", role, model, T, [[T, 3 * h]], lambda: (attention, (r(T, 3 * h, grad=True),), r(T, h)),
                      (flops, 4 * y + lse, 2.5 * flops, 8 * y + lse))
        self.note("pool", "mean", model, T, [[T, h]], lambda: (lambda x: x.view(sequences, length, h).mean(1), (r(T, h, grad=True),), r(sequences, h)),
                  (T * h + sequences * h, y + sequences * h * e, sequences * h, y + sequences * h * e))
        for role, rows, classes in (("2 classes", sequences, 2), ("vocabulary", max(1, T // 8), VOCAB)):
            n = rows * classes
            self.note("cross_entropy", role, model, T, [[rows, classes], [rows]],
                      lambda: (lambda z, t: F.cross_entropy(z.float(), t), (r(rows, classes, grad=True), ints(rows, classes)), None),
                      (4 * n + 4 * rows + 1, n * e + 8 * rows + 8, 3 * n + rows + 1, 2 * n * e + 8 * rows + 8))
        if once:
            count = (VOCAB + POSITIONS + 2) * h + 2 * h + layers * (4 * h * h + 4 * h + 2 * h * f + f + h + 4 * h)
            p = [torch.nn.Parameter(r(count, dtype=torch.float32))]
            p[0].grad = r(count, dtype=torch.float32)
            adamw = torch.optim.AdamW(p, lr=1e-5, weight_decay=0.01, fused=self.on_card or None)
            self.note("adamw", "all parameters", model, 0, [[count]], lambda: (adamw.step, (), None), (15 * count, 28 * count), step=True)
            self.note("global_norm", "all gradients", model, 0, [[count]],
                      lambda: (lambda: torch.nn.utils.get_total_norm([p[0].grad]), (), None), (2 * count + 1, 4 * count + 4), step=True)

    def steps(self, model, sequences, length):
        import transformers

        torch = self.torch
        transformers.logging.set_verbosity_error()
        h, layers, heads, f = MODELS[model]
        config = transformers.BertConfig(vocab_size=VOCAB, hidden_size=h, num_hidden_layers=layers, num_attention_heads=heads,
                                         intermediate_size=f, num_labels=2, attn_implementation="sdpa",
                                         problem_type="single_label_classification")
        net = transformers.BertForSequenceClassification(config).to(self.device).train()
        adamw = torch.optim.AdamW(net.parameters(), lr=1e-5, weight_decay=0.01, fused=self.on_card or None)
        run = self.compiled(net)
        settings = [("base", sequences, length)]
        if not self.args.no_sweep:
            settings += [("batch", n, length) for n in (1, 4, 16) if n * length <= 1024]
            settings += [("length", sequences, l) for l in (16, 64, 256) if sequences * l <= 2048 and l <= POSITIONS]
        for part, n, l in settings:
            ids = [torch.randint(0, VOCAB, (n, l), device=self.device) for _ in range(4)]
            labels = torch.arange(n, device=self.device) % 2
            mask = torch.ones(n, l, dtype=torch.long, device=self.device)
            marks = []

            def mark():
                if self.on_card:
                    torch.cuda.synchronize()
                marks.append(time.perf_counter())

            def step(i):
                marks.clear()
                mark()
                with torch.autocast(self.device.type, self.dtype, enabled=self.args.dtype != "f32"):
                    loss = run(input_ids=ids[i % 4], attention_mask=mask, labels=labels).loss
                mark()
                loss.backward()
                mark()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                adamw.step()
                adamw.zero_grad(set_to_none=True)
                mark()
                return [b - a for a, b in zip(marks, marks[1:])]

            if self.on_card:
                torch.cuda.reset_peak_memory_stats()
            print(f"{self.id}: step {model} {part} {n} x {l}", file=sys.stderr)
            begun, phases, seconds = time.time(), [], []
            step(0), step(1)
            begun = time.time()
            while len(seconds) < 3 or time.time() - begun < self.args.seconds:
                phases.append(step(len(seconds)))
                seconds.append(sum(phases[-1]))
            forward, backward, optimizer = (statistics.median(p) for p in zip(*phases))
            q = quartiles(seconds)
            peak = torch.cuda.max_memory_allocated() if self.on_card else None
            self.report["steps"].append({
                "device": self.id, "model": model, "part": part, "sequences": n, "length": l, "tokens": n * l, "computed_tokens": n * l,
                "seconds": q, "samples": len(seconds), "tokens_per_s": n * l / q["median"], "samples_per_s": n / q["median"], "flops": 0.0,
                "share_of_peak": None, "peak_bytes": peak, "work": [], "warm": None,
                "phases": {"data": 0.0, "forward": forward, "backward": backward, "optimizer": optimizer, "idle": 0.0}})


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--device", default="cpu")
    p.add_argument("--dtype", default="f32", choices=["f32", "bf16", "f16"])
    p.add_argument("--variants", default="eager")
    p.add_argument("--tokens", default="256,1024")
    p.add_argument("--shape-of", default="minilm-l6")
    p.add_argument("--seconds", type=float, default=0.3)
    p.add_argument("--sequences", type=int, default=8)
    p.add_argument("--length", type=int, default=64)
    p.add_argument("--no-sweep", action="store_true")
    p.add_argument("--only", default="ops,steps")
    p.add_argument("--threads", type=int, default=0)
    args = p.parse_args()
    if unknown := set(args.shape_of.split(",")) - set(MODELS):
        sys.exit(f"ops_torch.py: {', '.join(unknown)} is not one of {', '.join(MODELS)}")
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    bench = Bench(args)
    try:
        for variant in args.variants.split(","):
            bench.begin(variant)
            for model in args.shape_of.split(","):
                if "ops" in args.only:
                    for i, tokens in enumerate(args.tokens.split(",")):
                        bench.ops(model, int(tokens), i == 0)
                if "steps" in args.only:
                    bench.steps(model, args.sequences, args.length)
            bench.end()
    except KeyboardInterrupt:
        bench.report.update(complete=False, stopped="interrupted")
    json.dump(bench.report, sys.stdout)
    print()


if __name__ == "__main__":
    main()
