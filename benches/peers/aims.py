#!/usr/bin/env python3
"""Prints a Markdown table of performance aims on a GPU, the figures reached, and their ratio.

    python3 aims.py FOLDER

FOLDER is the output of `benches/gpu-all bench peers` on one GPU: `bench/ops-bf16.json`, `bench/matmuls-*.json` and
`bench/step-MODEL-SEQUENCESxLENGTH.json` of `tempra bench`, and `peers/kernels.json` and `peers/steps.json` of gpu_torch.py. A figure "to X"
is the time of X divided by tempra's: above 1, tempra is faster. PyTorch's kernels are timed in CUDA graphs, tempra's one by one. For small
kernels this favours PyTorch, and makes tempra's matmuls and cuBLASLt's look more similar than they are. An aim that was not measured is
listed as such; no aim counts as reached without a measurement.
"""
import json
import sys
from pathlib import Path

HIDDEN = {"minilm-l6": (384, 12), "bert-base": (768, 12)}
STEPS = [("minilm-l6", 8, 128), ("minilm-l6", 32, 128), ("minilm-l6", 128, 128), ("bert-base", 8, 128), ("bert-base", 32, 128),
         ("bert-base", 128, 128), ("bert-base", 8, 512)]
LINEAR = [("qkv", 1, 3), ("attention output", 1, 1), ("up, gelu", 1, 4), ("down", 4, 1)]


class Missing(Exception):
    pass


def need(value, what):
    if value is None:
        raise Missing(what)
    return value


class Results:
    def __init__(self, folder):
        self.folder, self.held = Path(folder), {}

    def file(self, name):
        """The JSON of a file; None where there is none, or what stands there is not whole."""
        if name not in self.held:
            try:
                self.held[name] = json.loads((self.folder / name).read_text())
            except (OSError, ValueError):
                self.held[name] = None
        return need(self.held[name], f"no {name}")

    def ours(self, op, kind, model, tokens, role=None, file="bench/ops-bf16.json"):
        for r in self.file(file)["ops"]:
            if (r["op"], r["pass"], r["model"], r["tokens"]) == (op, kind, model, tokens) and role in (None, r["role"]):
                return r
        raise Missing(f"{op} {kind} of {model}, {tokens} tokens, {role or 'any role'}: not in {file}")

    def torch(self, what, shape, file="peers/kernels.json", **like):
        """The rows of PyTorch that ran: a backend may refuse a shape."""
        rows = [r for r in self.file(file)["rows"] if r["what"] == what and r["shape"] == shape and "seconds" in r]
        rows = [r for r in rows if all(r.get(k) == v for k, v in like.items())]
        return need(rows or None, f"PyTorch: {what} {shape} {like or ''}".rstrip())


def seconds(row):
    return row["seconds"]["median"]


def copy_rate(results):
    """The GPU's: by our own kernel or PyTorch's, whichever is faster."""
    ours = need(results.file("bench/ops-bf16.json")["devices"][0]["ceilings"], "ceilings")["copy_bytes_per_s"]
    theirs = next((row["gb_s"] * 1e9 for row in results.file("peers/kernels.json")["rows"] if row["what"] == "copy" and "gb_s" in row), 0)
    return max(ours, theirs)


def aims(r):
    """(what, aim, function that gives the figure): a figure as large as the aim is wanted."""
    for model, length in [("bert-base", 64), ("bert-base", 128), ("minilm-l6", 128), ("bert-base", 256), ("bert-base", 512)]:
        hidden, heads = HIDDEN[model]
        shape = [4096 // length, length, heads, hidden // heads]

        def both(model=model, length=length):
            return sum(seconds(r.ours("attention", k, model, 4096, f"length {length}")) for k in ("forward", "backward"))

        def against(shape=shape, both=both, **like):
            rows = r.torch("attention forward+backward", shape, dropout=0.1, **like)
            return min(row["seconds"] for row in rows) / both()

        short = length <= 128
        name = f"attention {shape}, both passes, dropout"
        yield f"{name}, to flash", 1.6 if short else None, lambda against=against: against(backend="flash", mask=False)
        yield f"{name}, to the best without a mask", 1.2 if short else None, lambda against=against: against(mask=False)
        yield f"{name}, to the best with one", None, lambda against=against: against(mask=True)
    for kind, aim in [("forward", 0.8), ("backward", 0.7)]:
        yield (f"add_norm {kind}, 32768 x 768, share of the copy's rate", aim,
               lambda kind=kind: r.ours("add_norm", kind, "bert-base", 32768, "block")["bytes"]
               / seconds(r.ours("add_norm", kind, "bert-base", 32768, "block")) / copy_rate(r))

    def norm_backward():
        whole, forward = (r.torch(f"add_norm {k}", [32768, 768])[0]["seconds"] for k in ("forward+backward", "forward"))
        return (whole - forward) / seconds(r.ours("add_norm", "backward", "bert-base", 32768, "block"))

    yield "add_norm backward, 32768 x 768, to PyTorch", 2.0, norm_backward
    for model, tokens in [("bert-base", 0), ("minilm-l6", 0)]:
        def optimizer(model=model):
            rows = [next((x for x in r.file("bench/ops-bf16.json")["ops"] if x["op"] == op and x["model"] == model), None)
                    for op in ("adamw", "global_norm")]
            rows = [need(x, f"adamw or global_norm of {model}") for x in rows]
            return sum(x["bytes"] for x in rows) / sum(map(seconds, rows)) / copy_rate(r)

        yield f"AdamW and clipping of {model}, share of the copy's rate", 0.9, optimizer
    for model, (hidden, _) in HIDDEN.items():
        for role, k, n in LINEAR:
            shape = [4096, n * hidden, k * hidden]

            def matmul(kind, parts, model=model, role=role, shape=shape, file="bench/matmuls-cublaslt.json"):
                theirs = sum(r.torch(f"matmul {p}", shape)[0]["seconds"] for p in parts)
                return theirs / seconds(r.ours("linear", kind, model, 4096, role, file))

            yield f"matmul {shape} forward, cuBLASLt, to PyTorch's without bias", 1.0, lambda f=matmul: f("forward", ["forward"])
            yield f"matmul {shape} backward, cuBLASLt, to PyTorch's without bias", 1.0, lambda f=matmul: f("backward", ["dx", "dw"])
    for own, aim in [("mma", 0.55), ("wgmma", 0.95)]:
        for model in HIDDEN:
            for role, _, _ in LINEAR:
                for kind in ("forward", "backward"):
                    def beside(own=own, model=model, role=role, kind=kind):
                        a, b = (seconds(r.ours("linear", kind, model, 4096, role, f"bench/matmuls-{p}.json")) for p in ("cublaslt", own))
                        return a / b

                    yield f"{own}, {role} of {model} {kind}, to cuBLASLt", aim, beside
    wanted = {("bert-base", 32, 128): (2.0, 1.25), ("bert-base", 8, 128): (4.0, 1.5), ("minilm-l6", 32, 128): (6.0, 2.0),
              ("bert-base", 128, 128): (1.5, 1.15)}
    for model, sequences, length in STEPS:
        def step(model=model, sequences=sequences, length=length):
            found = r.file(f"bench/step-{model}-{sequences}x{length}.json")["steps"]
            return need(next((s for s in found if s["part"] == "base"), None), f"step of {model} {sequences} x {length}")

        def ratio(variant, step=step, shape=(model, sequences, length)):
            return r.torch("step", list(shape), "peers/steps.json", variant=variant)[0]["seconds"] / seconds(step())

        eager, compiled = wanted.get((model, sequences, length), (None, None))
        name = f"step of {model}, {sequences} x {length}"
        yield f"{name}, to eager", eager, lambda f=ratio: f("eager")
        yield f"{name}, to compiled", compiled, lambda f=ratio: f("compiled")
        yield (f"{name}, share of the largest matmul's rate", 0.5 if (model, sequences) == ("bert-base", 128) else None,
               lambda f=step: need(f()["share_of_peak"], "share of peak"))
        if (model, sequences) == ("bert-base", 32):
            yield f"{name}, share of the time that the GPU works", 0.97, lambda f=step: 1 - f()["phases"]["idle"] / seconds(f())


def main():
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__.strip())
    results = Results(sys.argv[1])
    if not results.folder.is_dir():
        sys.exit(f"aims.py: no folder {results.folder}")
    lines, count = [], {"reached": 0, "missed": 0, "not measured": 0}
    for what, aim, figure in aims(results):
        try:
            found = figure()
        except Missing as e:
            count["not measured"] += 1
            lines.append(f"| {what} | {aim or ''} | not measured: {e} | |")
            continue
        verdict = "" if aim is None else "reached" if found >= aim else "missed"
        if verdict:
            count[verdict] += 1
        lines.append(f"| {what} | {aim or ''} | {found:.2f} | {verdict} |")
    print(f"{count['reached']} reached, {count['missed']} missed, {count['not measured']} not measured\n")
    print('A figure "to X" is the time of X divided by tempra\'s: above 1, tempra is faster.\n')
    print("| measurement | aim | figure | result |\n|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
