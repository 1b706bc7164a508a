#!/usr/bin/env python3
"""Measures kernels and training steps with PyTorch on a GPU, to compare with `tempra bench`.

    python3 gpu_torch.py [--only kernels,steps] [--device cuda] [--quick] > gpu-torch.json

Times are medians of CUDA events. Data are random, and eight sets of operands are used in turn, so that they do not stay in the cache.
Kernels are timed in a CUDA graph of all eight sets, if PyTorch can capture them, so that the host's launch time does not count; `recorded`
says so for each. Steps are timed as users run them.

Kernels, in bf16: torch.matmul with the shapes of MiniLM and BERT-base; scaled dot-product attention, forward and backward, with each of
PyTorch's backends, with and without the boolean mask of transformers; layer norm with dropout and residual; AdamW (fused) with clipping;
a copy and a large matmul, the GPU's ceilings. Steps: BertForSequenceClassification under autocast in bf16, dropout 0.1, SDPA, eager and
compiled, AdamW fused, clipped at 1.

--quick and --device cpu only check that the script works; their numbers are not meaningful.
"""
import argparse
import json
import os
import signal
import statistics
import sys
import time

SETS = 8


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--device", default="cuda")
    p.add_argument("--only", default="kernels,steps")
    p.add_argument("--quick", action="store_true")
    p.add_argument("--minutes", type=float, default=9, help="start no new measurement after this many minutes")
    args = p.parse_args()
    import torch
    import torch.nn.functional as F

    device, begun = torch.device(args.device), time.time()
    on_card = device.type == "cuda"
    repeats, warm = (2, 1) if args.quick else (30, 5)
    scale = 16 if args.quick else 1

    def seconds(work, together=1):
        """Median seconds of work(i), i the set of operands, of which `together` are queued before the GPU is waited for."""
        for i in range(warm):
            work(i % SETS)
        if on_card:
            torch.cuda.synchronize()
        times = []
        for i in range(repeats):
            if on_card:
                a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                a.record()
                for j in range(together):
                    work((i + j) % SETS)
                b.record()
                torch.cuda.synchronize()
                times.append(a.elapsed_time(b) * 1e-3 / together)
            else:
                t = time.perf_counter()
                work(i % SETS)
                times.append(time.perf_counter() - t)
        return statistics.median(times)

    def recorded(work):
        """All sets of operands as one graph, to be launched at once."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for i in range(SETS):
                work(i)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for i in range(SETS):
                work(i)
        return graph

    rows = []
    main_stream = torch.cuda.current_stream() if on_card else None

    def hand_over(*_):
        name = torch.cuda.get_device_name() if on_card else "cpu"
        json.dump({"torch": torch.__version__, "device": name, "rows": rows}, sys.stdout, indent=1)
        print(flush=True)

    def stopped(*_):
        # What was measured until then counts: compiling can take longer than there is time.
        hand_over()
        os._exit(1)

    signal.signal(signal.SIGTERM, stopped)

    def note(what, shape, work, flops=0.0, moved=0.0, record=True, **more):
        if time.time() - begun > args.minutes * 60:
            return
        try:
            graph = None
            if on_card and record:
                try:
                    graph = recorded(work)
                except Exception as e:
                    torch.cuda.set_stream(main_stream)
                    torch.cuda.synchronize()
                    print(f"{what} {shape} {more}: not captured: {e}", file=sys.stderr)
            if graph:
                s = seconds(lambda i: graph.replay()) / SETS
            else:
                # As many at once as `tempra bench step` queues before it waits, so that launches overlap with the GPU's work.
                s = seconds(work, 1 if record else 10)
            more["recorded"] = graph is not None
        except Exception as e:  # a backend that refuses a shape is a result, too
            rows.append({"what": what, "shape": shape, "refused": (str(e) or repr(e)).splitlines()[0], **more})
            return
        row = {"what": what, "shape": shape, "seconds": s, "tflops": flops / s / 1e12, "gb_s": moved / s / 1e9, **more}
        rows.append(row)
        print(f"{what:34} {str(shape):28} {s * 1e6:10.1f} us", file=sys.stderr)

    def rand(*shape, grad=False):
        return torch.randn(*shape, device=device, dtype=torch.bfloat16).requires_grad_(grad)

    if "kernels" in args.only:
        n = (1 << 28) // scale**2
        xs = [torch.randn(n // 4, device=device) for _ in range(2)]
        note("copy", [n], lambda i: xs[0].copy_(xs[1]), moved=2.0 * n)
        side = 8192 // scale
        big = [rand(side, side) for _ in range(2)]
        note("matmul", [side] * 3, lambda i: big[0] @ big[1], flops=2.0 * side**3)
        for tokens in [1024 // scale, 4096 // scale, 16384 // scale]:
            for out, inner in [(1152, 384), (384, 384), (1536, 384), (384, 1536), (2304, 768), (768, 768), (3072, 768), (768, 3072)]:
                x, w, dy = ([rand(*s) for _ in range(SETS)] for s in ((tokens, inner), (out, inner), (tokens, out)))
                flops = 2.0 * tokens * out * inner
                note("matmul forward", [tokens, out, inner], lambda i: F.linear(x[i], w[i]), flops)
                note("matmul dx", [tokens, out, inner], lambda i: dy[i] @ w[i], flops)
                note("matmul dw", [tokens, out, inner], lambda i: dy[i].t() @ x[i], flops)
        from torch.nn.attention import SDPBackend, sdpa_kernel

        backends = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
                    "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH}
        for batch, length, heads, width in [(64, 64, 12, 64), (32, 128, 12, 64), (32, 128, 12, 32), (16, 256, 12, 64), (8, 512, 12, 64)]:
            batch = max(1, batch // scale)
            qkv = [[rand(batch, heads, length, width, grad=True) for _ in range(3)] for _ in range(SETS)]
            up = rand(batch, heads, length, width)
            mask = torch.ones(batch, 1, length, length, dtype=torch.bool, device=device)
            mask[:, :, :, length - 1] = False
            flops = 4.0 * batch * heads * length * length * width
            for name, backend in backends.items():
                for masked in [False, True]:
                    for drop in [0.0, 0.1]:
                        def forward(i):
                            with sdpa_kernel(backend):
                                return F.scaled_dot_product_attention(*qkv[i], attn_mask=mask if masked else None, dropout_p=drop)

                        def both(i):
                            return torch.autograd.grad(forward(i), qkv[i], up)

                        more = {"backend": name, "mask": masked, "dropout": drop}
                        note("attention forward", [batch, length, heads, width], forward, flops, **more)
                        note("attention forward+backward", [batch, length, heads, width], both, 3.5 * flops, **more)
        for tokens, width in [(4096, 768), (32768, 768), (32768, 384), (32768, 1024)]:
            tokens //= scale
            x, r = ([rand(tokens, width, grad=True) for _ in range(SETS)] for _ in range(2))
            g, b = (torch.ones(width, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
            up = rand(tokens, width)

            def norm(i):
                return F.layer_norm(F.dropout(x[i], 0.1) + r[i], (width,), g, b, 1e-12)

            note("add_norm forward", [tokens, width], norm, moved=8.0 * tokens * width)
            note("add_norm forward+backward", [tokens, width], lambda i: torch.autograd.grad(norm(i), (x[i], r[i], g, b), up), moved=20.0 * tokens * width)
            if on_card:
                compiled = torch.compile(norm)
                note("add_norm forward, compiled", [tokens, width], compiled, moved=8.0 * tokens * width)
        for count in [22_700_000 // scale, 109_500_000 // scale]:
            p_ = [torch.nn.Parameter(torch.randn(count, device=device))]
            p_[0].grad = torch.randn(count, device=device)
            optimizer = torch.optim.AdamW(p_, lr=1e-5, weight_decay=0.01, fused=on_card or None)

            def update(i):
                torch.nn.utils.clip_grad_norm_(p_, 1.0)
                optimizer.step()

            note("adamw and clipping", [count], update, moved=32.0 * count)

    if "steps" in args.only:
        import transformers

        transformers.logging.set_verbosity_error()
        shapes = {"minilm-l6": (384, 6, 12, 1536), "bert-base": (768, 12, 12, 3072)}
        # What matters most comes first: compiling takes minutes for each.
        cases = [("bert-base", 32, 128), ("minilm-l6", 32, 128), ("bert-base", 8, 128), ("bert-base", 128, 128),
                 ("minilm-l6", 8, 128), ("minilm-l6", 128, 128), ("bert-base", 8, 512)]
        cases = [("minilm-l6", 2, 16)] if args.quick else cases
        for variant, (name, batch, length) in [(v, c) for v in (["eager", "compiled"] if on_card else ["eager"]) for c in cases]:
            if time.time() - begun > args.minutes * 60:
                break
            hidden, layers, heads, inner = shapes[name]
            config = transformers.BertConfig(vocab_size=30522, hidden_size=hidden, num_hidden_layers=layers,
                                             num_attention_heads=heads, intermediate_size=inner, num_labels=2,
                                             attn_implementation="sdpa", problem_type="single_label_classification")
            model = transformers.BertForSequenceClassification(config).to(device).train()
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.01, fused=on_card or None)
            run = torch.compile(model, mode="max-autotune") if variant == "compiled" else model
            ids = [torch.randint(0, 30522, (batch, length), device=device) for _ in range(SETS)]
            labels = torch.randint(0, 2, (batch,), device=device)
            mask = torch.ones(batch, length, dtype=torch.long, device=device)

            def step(i):
                with torch.autocast(device.type, torch.bfloat16):
                    loss = run(input_ids=ids[i], attention_mask=mask, labels=labels).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

            if on_card:
                torch.cuda.reset_peak_memory_stats()
            note("step", [name, batch, length], step, record=False, variant=variant)
            if on_card and rows and rows[-1]["what"] == "step":
                rows[-1]["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
            del model, optimizer, run
            torch.compiler.reset()

    hand_over()


if __name__ == "__main__":
    main()
