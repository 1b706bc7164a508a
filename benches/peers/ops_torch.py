#!/usr/bin/env python3
"""Measures the ops and steps of `tempra bench` with PyTorch: same shapes, same method, same JSON format.

    python3 ops_torch.py [--device cpu|cuda] [--dtype f32,bf16,f16] [--variants eager,compiled] [--tokens 256,1024]
                         [--shape-of minilm-l6] [--op 'attention*'] [--shape 512,4096,1024] [--lengths 12,40,128]
                         [--seconds 0.3] [--only ops,steps] > torch.json

Show the result beside tempra's with `tempra bench --with torch.json`, or compare with `tempra bench compare tempra.json torch.json`.
--shape, --lengths, --op and --dtype mean what they mean in `tempra bench`, so that the rows match; see shapes.py.

As in tempra, operands are random, and several sets of them, together larger than the cache, are used in turn. A warm-up on all sets is
not counted. Times are medians of measurements that are long enough for the clock, with CUDA events on a GPU. Bytes and FLOPs are counted
as in src/ops. Ops that PyTorch does not have as one function are written as its users write them: dropout, residual and layer norm in
sequence; clip_grad_norm_, then AdamW. A backward pass is timed separately, on a retained graph. A step is transformers'
BertForSequenceClassification with SDPA, clipped at 1, AdamW with PyTorch's default (fused on a GPU).
"""
import argparse
import fnmatch
import json
import os
import platform
import re
import statistics
import sys
import time
from pathlib import Path

import shapes

MODELS = {"minilm-l6": (384, 6, 12, 1536), "bert-base": (768, 12, 12, 3072), "bert-large": (1024, 24, 16, 4096)}
VOCAB, POSITIONS, SETS, LONG_ENOUGH, RUNS = 30522, 512, 64, 2e-3, 64


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
    """The size of the last-level cache, or of all of them in a CPU with several, and where it is from (as src/bench/cache.rs)."""
    if on_card:
        import torch

        return torch.cuda.get_device_properties(0).L2_cache_size, "L2 cache size from the CUDA driver"
    levels = {}
    for cpu in os.sched_getaffinity(0):
        for index in Path(f"/sys/devices/system/cpu/cpu{cpu}/cache").glob("index*"):
            level, shared, size = ((index / name).read_text().strip() for name in ("level", "shared_cpu_list", "size"))
            levels.setdefault(int(level), {})[shared] = int(re.sub(r"\D", "", size)) << 10
    if not levels:
        return 32 << 20, "assumed: the system does not tell the size of the CPU's caches"
    return sum(levels[max(levels)].values()), "last-level caches of all CPUs, from the system"


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
        self.cache, self.cache_source = cache_bytes(self.on_card)
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

    def time(self, run, sets, samples=None):
        """Seconds of run(i), i the set of operands: all samples, and the runs of each. With `samples`: that many, whatever --seconds says."""
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
        limit = self.args.seconds if samples is None else 0
        least = samples or (3 if one > limit else 5)
        begun, seconds = time.time(), []
        while len(seconds) < least or time.time() - begun < limit:
            seconds.append(measure(repeats))
        return seconds, repeats

    def rand(self, *shape, dtype=None, grad=False):
        t = self.torch.empty(shape, device=self.device, dtype=self.torch.float32).uniform_(-1, 1).to(dtype or self.dtype)
        return t.requires_grad_(grad)

    def ceilings(self, before=None):
        """Medians of a fixed number of samples, as tempra's (src/bench/ceilings). `before`: by the same copy and the same side again."""
        torch = self.torch
        samples, largest = (15, 8192) if self.on_card else (9, 2048)
        n = 4 * self.cache // 4
        a, b = self.rand(n, dtype=torch.float32), self.rand(n, dtype=torch.float32)
        ways = {"copy_": lambda i: b.copy_(a), "neg_": lambda i: b.neg_()}
        ways = {name: run for name, run in ways.items() if before is None or before["copy_by"] == name}
        copies = {name: [8.0 * n / s for s in self.time(run, 1, samples)[0]] for name, run in ways.items()}
        way = max(copies, key=lambda name: statistics.median(copies[name]))
        matmuls, side = {}, before["matmul_side"] if before else 256
        while True:
            x, w = self.rand(side, side), self.rand(side, side)
            seconds = self.time(lambda i: torch.nn.functional.linear(x, w), 1, samples)[0]
            matmuls[side] = [2 * side**3 / s for s in seconds]
            # All samples of the next side are expected to take at most a second.
            if before or 2 * side > largest or 8 * statistics.median(seconds) * (samples + 3) > 1:
                break
            side *= 2
        at = max(matmuls, key=lambda side: statistics.median(matmuls[side]))
        return {"copy_bytes_per_s": statistics.median(copies[way]), "matmul_flops_per_s": statistics.median(matmuls[at]),
                "how": f"medians of {samples} samples; copy: {way}, {4 * n >> 20} MiB; matmul: {at} x {at} x {at}", "drift": None,
                "copy_by": way, "matmul_side": at, "copy_samples_bytes_per_s": copies[way], "matmul_samples_flops_per_s": matmuls[at]}

    def begin(self, variant, dtype):
        torch, a = self.torch, self.args
        self.dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[dtype]
        self.id = f"torch {variant} {a.device}" + ("" if dtype == "f32" else f" {dtype}")
        self.variant, self.before = variant, self.ceilings()
        name = torch.cuda.get_device_name() if self.on_card else f"cpu ({torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()})"
        self.report["devices"].append({
            "id": self.id, "tool": f"torch {torch.__version__} {variant}", "description": name, "dtype": dtype,
            "memory_bytes": torch.cuda.get_device_properties(0).total_memory if self.on_card else None,
            "timer": "CUDA events" if self.on_card else "host clock", "cache_bytes": self.cache,
            "cache_source": self.cache_source, "ceilings": self.before,
            "machine": machine(), "uuid": str(getattr(torch.cuda.get_device_properties(0), "uuid", "")).removeprefix("GPU-") or None if self.on_card else None})

    def end(self):
        before = self.before
        after = self.ceilings(before)
        keys, all_ = ("copy_bytes_per_s", "matmul_flops_per_s"), ("copy_samples_bytes_per_s", "matmul_samples_flops_per_s")
        best = {**before, **{k: before[k] + after[k] for k in all_}, "drift": [after[k] / before[k] for k in keys]}
        best.update((k, statistics.median(best[a])) for k, a in zip(keys, all_))
        self.report["devices"][-1]["ceilings"] = best
        self.report["devices"][-1]["machine"]["load_after"] = load()
        for row in (r for r in self.report["ops"] if r["device"] == self.id and r["beyond_cache"]):
            copy, matmul = row["bytes"] / best[keys[0]], row["flops"] / best[keys[1]]
            if max(copy, matmul) > 0:
                row["percent"] = 100 * max(copy, matmul) / row["seconds"]["median"]
                row["bound"] = "matmul" if matmul > copy else "copy"
        for row in (r for r in self.report["steps"] if r["device"] == self.id and r["flops"]):
            row["share_of_peak"] = row["flops"] / row["seconds"]["median"] / best[keys[1]]

    def compiled(self, f):
        return self.torch.compile(f) if self.variant == "compiled" else f

    def note(self, op, role, model, tokens, job):
        """Measures job(): shapes, make, cost, lengths. make() gives one set: (function of its operands, operands, output gradient). cost:
        FLOPs and bytes of each pass; two numbers for a step, which has one pass."""
        try:
            self.measure(op, role, model, tokens, *job())
        except Exception as e:  # what is refused is a result, too
            why = (str(e).splitlines() or [type(e).__name__])[0]
            self.report["skipped"].append({"device": self.id, "what": f"{op} {role} of {model}, {tokens} tokens", "why": why})

    def measure(self, op, role, model, tokens, shapes_, make, cost, lengths):
        step, bytes_ = len(cost) == 2, cost[1]
        sets = max(2, min(SETS, -(-2 * self.cache // int(max(bytes_, 1)))))
        # In eager mode a graph is kept for each set, so that a backward pass runs alone.
        sets = max(1, min(sets, int((1 << 30) // max(1, 3 * bytes_))))

        def row(kind, run, flops, moved):
            seconds, repeats = self.time(run, sets)
            self.report["ops"].append({
                "device": self.id, "op": op, "role": role, "model": model, "tokens": tokens, "pass": kind, "shapes": shapes_,
                "lengths": shapes.summary(lengths) if lengths else None,
                "seconds": quartiles(seconds), "samples": len(seconds), "samples_s": seconds, "repeats": repeats,
                "timing": "kernel launches, CUDA events" if self.on_card else "host clock", "sets": sets,
                "beyond_cache": bytes_ * sets > self.cache, "flops": float(flops), "bytes": float(moved), "launches": None, "percent": None,
                "bound": None})

        f, all_ = None, []
        for _ in range(sets):
            made, operands, up = make()
            f = f or (made if step else self.compiled(made))
            all_.append((operands, up))
        print(f"{self.id}: {op} {role} {model} {tokens}", file=sys.stderr)
        if step:
            return row("step", lambda i: f(*all_[i][0]), cost[0], cost[1])
        row("forward", lambda i: f(*all_[i][0]), cost[0], cost[1])
        kept = [f(*operands) for operands, _ in all_]
        leaves = [[t for t in operands if getattr(t, "requires_grad", False)] for operands, _ in all_]
        ups = [up if up is not None else self.torch.ones_like(y) for (_, up), y in zip(all_, kept)]
        row("backward", lambda i: self.torch.autograd.grad(kept[i], leaves[i], ups[i], retain_graph=True), cost[2], cost[3])

    # One method for each op: the shapes of its inputs, a function that makes a set of operands, FLOPs and bytes of both passes, and the
    # lengths of the sequences for ops that depend on them. Bytes are counted in elements of `e` bytes.

    @property
    def e(self):
        return self.torch.empty(0, dtype=self.dtype).element_size()

    def ints(self, n, bound):
        return self.torch.randint(0, bound, (n,), device=self.device)

    def embed(self, s, columns, vocab, positions):
        F, r, T, e = self.torch.nn.functional, self.rand, sum(s), self.e
        tables = [r(n, columns, grad=True) for n in (vocab, positions, 2)]
        at = self.torch.cat([self.torch.arange(n, device=self.device) for n in s])

        def embed(i, p, t, word, position, kind):
            return F.embedding(i, word) + F.embedding(p, position) + F.embedding(t, kind)

        # The counts are those of tempra (src/ops/cost.rs): what the op needs. PyTorch's gradients of weights have the compute type.
        y, words, random = T * columns * e, self.ints(T, vocab), self.torch.randint
        rows = words.unique().numel() + max(s) + 2
        return ([[T]] * 3 + [list(t.shape) for t in tables],
                lambda: (embed, ((words + 7919 * int(random(vocab, ()))) % vocab, at, self.ints(T, 2), *tables), r(T, columns)),
                (2 * T * columns, 12 * T + rows * columns * e + y, 3 * T * columns, 12 * T + y + sum(t.numel() for t in tables) * e), None)

    def linear(self, m, n, k, act="none"):
        F, r, e = self.torch.nn.functional, self.rand, self.e
        tanh = lambda y: F.gelu(y, approximate="tanh")  # noqa: E731
        f = {"none": None, "gelu": F.gelu, "gelu_tanh": tanh, "relu": F.relu, "tanh": self.torch.tanh}[act]

        def linear(x, w, b):
            y = F.linear(x, w, b)
            return f(y) if f else y

        # GELU keeps its input for the backward pass; the derivatives of ReLU and tanh read their output.
        flops, own, kept, read = 2 * m * k * n, (m * k + n * k) * e, act.startswith("gelu"), act in ("relu", "tanh")
        return ([[m, k], [n, k], [n]], lambda: (linear, (r(m, k, grad=True), r(n, k, grad=True), r(n, grad=True)), r(m, n)),
                (flops, own + n * e + (1 + kept) * m * n * e, 2 * flops, 2 * own + n * e + (1 + kept + read) * m * n * e), None)

    def add_norm(self, rows, h, residual, p=0.1):
        F, r, e = self.torch.nn.functional, self.rand, self.e

        def block(x, g, b, res):
            return F.layer_norm(F.dropout(x, p) + res, (h,), g, b, 1e-12)

        def embeddings(x, g, b):
            return F.dropout(F.layer_norm(x, (h,), g, b, 1e-12), p)

        y, arrays = rows * h * e, 4 if residual else 3
        operands = [[rows, h], [h], [h]] + [[rows, h]] * residual
        more = 4 * rows + (20 if p else 0)
        forward, backward = (4 + arrays + (p > 0)) * rows * h + 5 * rows, (11 + (p > 0)) * rows * h + 2 * rows
        return (operands, lambda: (block if residual else embeddings, tuple(r(*shape, grad=True) for shape in operands), r(rows, h)),
                (forward, arrays * y + 2 * h * e + more, backward, arrays * y + 3 * h * e + more), None)

    def attention(self, s, heads, head_dim, window=None, p=0.1):
        """Sequences of different lengths are padded to the longest and masked, as PyTorch's users do. FLOPs and bytes are those of the real
        tokens, and so are the shapes."""
        torch, F, r, e = self.torch, self.torch.nn.functional, self.rand, self.e
        n, L, T, h = len(s), max(s), sum(s), heads * head_dim
        at = torch.arange(L, device=self.device)
        mask = None
        if min(s) < L:
            mask = (at[None, :] < torch.tensor(s, device=self.device)[:, None])[:, None, None, :]
        if window is not None:
            band = (at[:, None] - at[None, :]).abs() <= window
            # A query of padding sees itself: a row without a key would be NaN.
            mask = band if mask is None else (mask & band) | torch.eye(L, dtype=torch.bool, device=self.device)

        def attention(qkv):
            q, k, v = qkv.view(n, L, 3, heads, head_dim).permute(2, 0, 3, 1, 4)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p).transpose(1, 2).reshape(n * L, h)

        # Pairs of a query and a key that it sees.
        reach = L if window is None else window
        seen = sum(sum(min(i, reach) + min(l - 1 - i, reach) + 1 for i in range(l)) for l in s)
        y, flops, lse = T * h * e, 4 * seen * h, 4 * T * heads
        return ([[T, 3 * h]], lambda: (attention, (r(n * L, 3 * h, grad=True),), r(n * L, h)),
                (flops, 4 * y + lse, 2.5 * flops, 8 * y + lse), s)

    def pool(self, s, columns):
        """The mean of each sequence; ragged batches are padded, as in `attention`."""
        torch, r, e, n, L, T = self.torch, self.rand, self.e, len(s), max(s), sum(s)
        if min(s) == L:
            f = lambda x: x.view(n, L, columns).mean(1)  # noqa: E731
        else:
            lengths = torch.tensor(s, device=self.device)
            mask = (torch.arange(L, device=self.device)[None, :] < lengths[:, None]).to(self.dtype)[:, :, None]
            f = lambda x: (x.view(n, L, columns) * mask).sum(1) / lengths[:, None].to(self.dtype)  # noqa: E731
        moved = (T + n) * columns * e
        return ([[T, columns]], lambda: (f, (r(n * L, columns, grad=True),), r(n, columns)),
                (T * columns + n * columns, moved, n * columns, moved), s)

    def cross_entropy(self, rows, classes):
        F, r, n, e = self.torch.nn.functional, self.rand, rows * classes, self.e
        return ([[rows, classes], [rows]],
                lambda: (lambda z, t: F.cross_entropy(z.float(), t), (r(rows, classes, grad=True), self.ints(rows, classes)), None),
                (4 * n + 4 * rows + 1, n * e + 8 * rows + 8, 3 * n + rows + 1, 2 * n * e + 8 * rows + 8), None)

    def adamw(self, count):
        torch, r = self.torch, self.rand
        p = [torch.nn.Parameter(r(count, dtype=torch.float32))]
        p[0].grad = r(count, dtype=torch.float32)
        adamw = torch.optim.AdamW(p, lr=1e-5, weight_decay=0.01, fused=self.on_card or None)
        return [[count]], lambda: (adamw.step, (), None), (15 * count, 28 * count), None

    def global_norm(self, count):
        torch = self.torch
        g = self.rand(count, dtype=torch.float32)
        return [[count]], lambda: (lambda: torch.nn.utils.get_total_norm([g]), (), None), (2 * count + 1, 4 * count + 4), None

    def wants(self, op):
        return any(fnmatch.fnmatchcase(op, pattern) for pattern in self.args.op.split(","))

    def ops(self, model, s, once):
        """The ops of a model for a batch of sequences with these lengths."""
        h, layers, heads, f = MODELS[model]
        T, n = sum(s), len(s)
        usual = s == shapes.equal(T)

        def ragged(role, more):
            return role if usual else f"{role}, {more}"

        jobs = [("embed", ragged("tables", shapes.label(s)), lambda: self.embed(s, h, VOCAB, POSITIONS))]
        matmuls = ("qkv", h, 3 * h, "none"), ("attention output", h, h, "none"), ("up, gelu", h, f, "gelu"), ("down", f, h, "none")
        for role, k, out, act in matmuls:
            jobs.append(("linear", role, lambda k=k, out=out, act=act: self.linear(T, out, k, act)))
        jobs.append(("add_norm", "block", lambda: self.add_norm(T, h, True)))
        jobs.append(("add_norm", "embeddings", lambda: self.add_norm(T, h, False)))
        batches = [(shapes.label(s), s, None)]
        if usual:
            longer = [(64, None), (256, None), (512, None), (512, 64)]
            longer = [(l, w) for l, w in longer if T % l == 0 and (w or l != s[0])]
            batches += [(f"length {l}" + (f", window {w}" if w else ""), [l] * (T // l), w) for l, w in longer]
        for role, batch, window in batches:
            jobs.append(("attention", role, lambda batch=batch, window=window: self.attention(batch, heads, h // heads, window)))
        jobs.append(("pool", ragged("mean", shapes.label(s)), lambda: self.pool(s, h)))
        jobs.append(("cross_entropy", ragged("2 classes", f"{n} sequences"), lambda: self.cross_entropy(n, 2)))
        jobs.append(("cross_entropy", "vocabulary", lambda: self.cross_entropy(max(1, T // 8), VOCAB)))
        for op, role, job in jobs:
            if self.wants(op):
                self.note(op, role, model, T, job)
        if once:
            count = (VOCAB + POSITIONS + 2) * h + 2 * h + layers * (4 * h * h + 4 * h + 2 * h * f + f + h + 4 * h)
            for op, role in (("adamw", "all parameters"), ("global_norm", "all gradients")):
                if self.wants(op):
                    self.note(op, role, model, 0, lambda op=op: getattr(self, op)(count))

    def custom(self, shape, op, rows, s):
        """An op at a shape of --shape."""
        get, role = (lambda name: shape.get(op, name)), shape.role(op, s)
        jobs = {
            "embed": lambda: [("", lambda: self.embed(s, get("columns"), get("vocab"), get("positions")))],
            "linear": lambda: [("", lambda: self.linear(rows, get("n"), get("k"), get("act")))],
            "add_norm": lambda: [("residual, ", lambda: self.add_norm(rows, get("columns"), True, get("dropout"))),
                                 ("no residual, ", lambda: self.add_norm(rows, get("columns"), False, get("dropout")))],
            "attention": lambda: [("", lambda: self.attention(s, get("heads"), get("head_dim"), get("window"), get("dropout")))],
            "pool": lambda: [("mean, ", lambda: self.pool(s, get("columns")))],
            "cross_entropy": lambda: [("", lambda: self.cross_entropy(rows, get("classes")))],
            "adamw": lambda: [("", lambda: self.adamw(get("elements")))],
            "global_norm": lambda: [("", lambda: self.global_norm(get("elements")))],
        }[op]()
        for which, job in jobs:
            self.note(op, which + role, "custom", rows, job)

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
        settings = [("base", [length] * sequences)]
        if self.args.lengths:
            # PyTorch has no packed batch: the sequences are padded to the longest.
            settings = [("padded", self.args.lengths.with_sequences(sequences))]
        elif not self.args.no_sweep:
            settings += [("batch", [length] * n) for n in (1, 4, 16) if n * length <= 1024]
            settings += [("length", [l] * sequences) for l in (16, 64, 256) if sequences * l <= 2048 and l <= POSITIONS]
        for part, lengths in settings:
            n, l, real = len(lengths), max(lengths), sum(lengths)
            if l > POSITIONS:
                self.report["skipped"].append({"device": self.id, "what": f"{model}: {part} step, {n} sequences of up to {l} tokens",
                                               "why": f"the longest sequence ({l} tokens) exceeds the model's positions ({POSITIONS})"})
                continue
            ids = [torch.randint(0, VOCAB, (n, l), device=self.device) for _ in range(4)]
            labels = torch.arange(n, device=self.device) % 2
            mask = (torch.arange(l, device=self.device)[None, :] < torch.tensor(lengths, device=self.device)[:, None]).long()
            marks = []

            def mark():
                if self.on_card:
                    torch.cuda.synchronize()
                marks.append(time.perf_counter())

            def step(i):
                marks.clear()
                mark()
                with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
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
                "device": self.id, "model": model, "part": part, "sequences": n, "length": l, "tokens": real, "computed_tokens": n * l,
                "lengths": shapes.summary(lengths),
                "seconds": q, "samples": len(seconds), "samples_s": seconds,
                "tokens_per_s": real / q["median"], "samples_per_s": n / q["median"], "flops": 0.0,
                "share_of_peak": None, "peak_bytes": peak, "work": [], "warm": None,
                "phases": {"data": 0.0, "forward": forward, "backward": backward, "optimizer": optimizer, "idle": 0.0}})


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--device", default="cpu")
    p.add_argument("--dtype", default="f32", help="one or several of f32, bf16, f16")
    p.add_argument("--variants", default="eager")
    p.add_argument("--tokens", help="default: 256,1024")
    p.add_argument("--op", default="*", help="patterns of op names, as of tempra bench")
    p.add_argument("--shape", action="append", default=[], help="m,n,k, or the sizes of the op of --op; several by repeating the option")
    p.add_argument("--lengths", help="as of tempra bench: a list, a file or a distribution")
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
    dtypes = args.dtype.split(",")
    if unknown := set(dtypes) - {"f32", "bf16", "f16"}:
        sys.exit(f"ops_torch.py: {', '.join(unknown)} is not one of f32, bf16, f16")
    try:
        args.lengths = shapes.Lengths(args.lengths) if args.lengths else None
        tokens = [shapes.length(t) for t in args.tokens.split(",")] if args.tokens else []
        custom = custom_jobs(args, tokens)
    except (OSError, ValueError) as e:
        sys.exit(f"ops_torch.py: {e}")
    if args.lengths and args.lengths.listed:
        if tokens:
            sys.exit("ops_torch.py: --tokens is given, and --lengths lists the sequences")
        batches = [args.lengths.listed]
    else:
        batches = [args.lengths.with_tokens(t) if args.lengths else shapes.equal(t) for t in tokens or [256, 1024]]
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    bench = Bench(args)
    try:
        for variant in args.variants.split(","):
            for dtype in dtypes:
                bench.begin(variant, dtype)
                for job in custom:
                    bench.custom(*job)
                for model in [] if custom else args.shape_of.split(","):
                    if "ops" in args.only:
                        for i, batch in enumerate(batches):
                            bench.ops(model, batch, i == 0)
                    if "steps" in args.only:
                        bench.steps(model, args.sequences, args.length)
                bench.end()
    except KeyboardInterrupt:
        bench.report.update(complete=False, stopped="interrupted")
    json.dump(bench.report, sys.stdout)
    print()


def custom_jobs(args, tokens):
    """(shape, op, number of rows, lengths) of each job of --shape."""
    jobs = []
    for shape in map(shapes.Shape, args.shape):
        fitting = [op for op in shapes.SIZES if shape.fits(op) and any(fnmatch.fnmatchcase(op, p) for p in args.op.split(","))]
        if not fitting or (args.op == "*" and len(fitting) > 1):
            raise ValueError(f"--shape {shape.text} fits {', '.join(fitting) or 'no op that PyTorch is measured on'}; choose with --op")
        jobs += [(shape, op, *batch) for op in fitting for batch in shape.batches(op, tokens, args.lengths)]
    return jobs


if __name__ == "__main__":
    main()
