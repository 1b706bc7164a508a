#!/usr/bin/env python3
"""How far plain PyTorch in bf16 and f16 is from f64, on the ops that tempra computes in 16 bits.

    python3 make_half.py        writes half/<case>-<type>.safetensors: inputs (which the type holds exactly), the gradient of the
                                output, and half/errors.json: PyTorch's errors of the output and of each gradient

An error is |found - truth| / |truth| in the L2 norm; the truth is the same formula in f64 from the same inputs.
"""
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

HERE = Path(__file__).parent / "half"


def linear(act):
    def f(x, w, b):
        z = F.linear(x, w, b)
        return {"none": z, "gelu": F.gelu(z), "gelu_tanh": F.gelu(z, approximate="tanh")}[act] if act != "none" else z

    return f


def add_norm(x, gamma, beta, residual):
    return F.layer_norm(x + residual, x.shape[-1:], gamma, beta, 1e-5)


def attention(heads, bounds):
    def f(qkv):
        tokens, cols = qkv.shape
        width = cols // 3 // heads
        q, k, v = qkv.view(tokens, 3, heads, width).permute(1, 2, 0, 3)
        parts = []
        for a, b in zip(bounds, bounds[1:]):
            scores = q[:, a:b] @ k[:, a:b].transpose(1, 2) * width**-0.5
            parts.append(torch.softmax(scores, -1) @ v[:, a:b])
        return torch.cat(parts, 1).permute(1, 0, 2).reshape(tokens, cols // 3)

    return f


CASES = {
    "linear": (linear("none"), [(96, 72), (136, 72), (136,)]),
    "linear_gelu": (linear("gelu"), [(96, 72), (136, 72), (136,)]),
    "linear_gelu_tanh": (linear("gelu_tanh"), [(70, 64), (40, 64), (40,)]),
    "linear_deep": (linear("none"), [(40, 520), (24, 520), (24,)]),
    "add_norm": (add_norm, [(48, 96), (96,), (96,), (48, 96)]),
    "attention": (attention(2, [0, 33, 97, 102]), [(102, 3 * 2 * 32)]),
    "attention_wide": (attention(1, [0, 130]), [(130, 3 * 64)]),
}


def errors(found, truth):
    found, truth = found.detach().double(), truth.detach().double()
    return float((found - truth).norm() / truth.norm())


def main():
    HERE.mkdir(exist_ok=True)
    table = {}
    for dtype, name in [(torch.bfloat16, "bf16"), (torch.float16, "f16")]:
        for case, (f, shapes) in CASES.items():
            torch.manual_seed(len(case))
            # As in a network: weights of a size that keeps the output's.
            inputs = [torch.randn(s) * (s[-1] ** -0.5 if i == 1 and len(s) == 2 else 1) for i, s in enumerate(shapes)]
            inputs = [x.to(dtype) for x in inputs]

            def run(kind):
                leaves = [x.to(kind).requires_grad_() for x in inputs]
                y = f(*leaves)
                return y, leaves

            truth, exact = run(torch.float64)
            dy = torch.randn(truth.shape).to(dtype)
            truth.backward(dy.double())
            y, leaves = run(dtype)
            y.backward(dy)
            table[f"{case}-{name}"] = {
                "y": errors(y, truth),
                "dx": [errors(a.grad, b.grad) for a, b in zip(leaves, exact)],
            }
            tensors = {f"x{i}": x.float() for i, x in enumerate(inputs)}
            save_file({**tensors, "dy": dy.float()}, HERE / f"{case}-{name}.safetensors")
    (HERE / "errors.json").write_text(json.dumps({"torch": torch.__version__, "cases": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
