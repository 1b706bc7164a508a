"""What make_bert.py and make_minilm.py share: one batch through a transformers model, and ten AdamW steps.

The reference is computed in f64 and rounded once, so a fixture carries no error of f32 arithmetic; the same numbers
computed in f32 are compared with it, and the differences stored: they say what tolerance is fair.
"""
import json

import torch
import transformers

# Name endings of parameters without weight decay, as the HF Trainer groups them (checked against it below).
NO_DECAY = ("bias", "LayerNorm.weight")
# A key bias adds the same number to every score of a query, and softmax does not see it: its gradient is 0 but for
# rounding. Relative comparisons leave it out. XLNet's mask_emb has no part in fine-tuning.
ZERO_GRAD = ("attention.self.key.bias", "attention.k_lin.bias", "attention.key.bias", "mask_emb")
# Weights of layer norms, by the names of all architectures.
NORMS = ("LayerNorm", "layer_norm", "norm")


def is_norm(name):
    """Whether a parameter is the factor of a layer norm, which starts as 1."""
    parts = name.split(".")
    return parts[-1] == "weight" and parts[-2].endswith(NORMS)


def pad(rows, types, dtype=torch.long, id=0, left=False):
    """Pads ragged ids with `id` and token types with 0 on the right (or left), as a HF collator does. Without types: none."""
    width = max(map(len, rows))
    filled = lambda s, fill: [fill] * (width - len(s)) + list(s) if left else list(s) + [fill] * (width - len(s))
    grid = lambda seqs, fill: torch.tensor([filled(s, fill) for s in seqs], dtype=dtype)
    batch = {"input_ids": grid(rows, id), "attention_mask": grid([[1] * len(r) for r in rows], 0)}
    return batch if types is None else {**batch, "token_type_ids": grid(types, 0)}


def forward_backward(model, batch, labels):
    """Logits, loss (mean over the batch), and the gradient of every parameter by name."""
    model.zero_grad(set_to_none=True)
    out = model(**batch, labels=labels)
    out.loss.backward()
    none = lambda p: torch.zeros_like(p) if p.grad is None else p.grad
    grads = {name: none(p).detach().clone() for name, p in model.named_parameters()}
    return out.logits.detach(), out.loss.detach(), grads


def total_norm(grads):
    return torch.sqrt(sum((g.double() ** 2).sum() for g in grads.values())).item()


def decays(name):
    return not name.endswith(NO_DECAY)


def train(model, batch, labels, *, lr, warmup_steps, steps, weight_decay=0.01, max_grad_norm=1.0):
    """`steps` AdamW steps on one batch, dropout off. losses[i] is the loss before update i, with lrs[i]."""
    named = list(model.named_parameters())
    hf = transformers.Trainer.get_decay_parameter_names(None, model)
    assert {n for n, _ in named if decays(n)} == set(hf), "the decay groups differ from the HF Trainer's"
    groups = [
        {"params": [p for n, p in named if decays(n)], "weight_decay": weight_decay},
        {"params": [p for n, p in named if not decays(n)], "weight_decay": 0.0},
    ]
    optim = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8)
    schedule = transformers.get_linear_schedule_with_warmup(optim, warmup_steps, steps)
    lrs, losses, norms = [], [], []
    for _ in range(steps):
        optim.zero_grad(set_to_none=True)
        loss = model(**batch, labels=labels).loss
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm).item())
        lrs.append(schedule.get_last_lr()[0])
        losses.append(loss.item())
        optim.step()
        schedule.step()
    with torch.no_grad():
        out = model(**batch, labels=labels)
    return {"lrs": lrs, "losses": losses, "grad_norms": norms, "final_loss": out.loss.item(), "final_logits": out.logits}


def one_pass(load, rows, types, labels, id=0):
    """Logits, loss and gradients of one batch from f64, and how far f32 is from them: what a fixture without training holds."""
    model = load(torch.float64)
    # XLNet classifies by the last token.
    left = model.config.model_type == "xlnet"
    batch = pad(rows, types, id=id, left=left)
    logits, loss, grads = forward_backward(model, batch, labels)
    with torch.no_grad():
        one = lambda i: pad([rows[i]], None if types is None else [types[i]], id=id, left=left)
        alone = torch.cat([model(**one(i)).logits for i in range(len(rows))])
    assert (alone - logits).abs().max() < 1e-12, "padding changed the logits"
    logits32, loss32, grads32 = forward_backward(load(torch.float32), batch, labels)
    rel = {n: ((grads32[n].double() - g).norm() / g.norm()).item() for n, g in grads.items() if not n.endswith(ZERO_GRAD)}
    fixture = {
        "versions": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__},
        "lengths": [len(r) for r in rows],
        "input_ids": rows,
        **({} if types is None else {"token_type_ids": types}),
        "labels": labels.tolist(),
        "logits": round9(logits.tolist()),
        "loss": round9(loss.item()),
        "grad_norm": round9(total_norm(grads)),
        "f32": {
            "logits_max_abs_diff": (logits32.double() - logits).abs().max().item(),
            "loss_abs_diff": abs(loss32.item() - loss.item()),
            "grad_max_rel_l2_diff": max(rel.values()),
            "grad_max_rel_l2_name": max(rel, key=rel.get),
            "key_bias_grad_max_abs": max([g.abs().max().item() for n, g in grads32.items() if n.endswith(ZERO_GRAD)], default=0.0),
        },
    }
    return fixture, grads


def reference(load, rows, types, labels, **recipe):
    """The part of a fixture that both makers write, and the f64 gradients.

    `load(dtype)` returns the model afresh, in evaluation mode. labels: a long tensor, or an f64 one for regression.
    """
    batch = pad(rows, types)
    as_type = lambda dtype: labels.to(dtype) if labels.is_floating_point() else labels
    model = load(torch.float64)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    logits, loss, grads = forward_backward(model, batch, as_type(torch.float64))

    # The mask must hide the padding: each sequence alone gives the same logits.
    with torch.no_grad():
        alone = torch.cat([model(**pad([r], [t])).logits for r, t in zip(rows, types)])
    assert (alone - logits).abs().max() < 1e-12, "padding changed the logits"

    logits32, loss32, grads32 = forward_backward(load(torch.float32), batch, as_type(torch.float32))
    rel = {
        n: ((grads32[n].double() - g).norm() / g.norm()).item() for n, g in grads.items() if not n.endswith(ZERO_GRAD)
    }
    long = train(model, batch, as_type(torch.float64), **recipe)
    short = train(load(torch.float32), batch, as_type(torch.float32), **recipe)
    update = {n: round9((p.detach() - start[n]).norm().item()) for n, p in model.named_parameters()}
    off32 = (short["final_logits"].double() - long["final_logits"]).abs().max().item()
    return {
        "versions": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__},
        "lengths": [len(r) for r in rows],
        "input_ids": rows,
        "token_type_ids": types,
        "labels": labels.tolist(),
        "logits": round9(logits.tolist()),
        "loss": round9(loss.item()),
        "grad_norm": round9(total_norm(grads)),
        "f32": {
            "logits_max_abs_diff": (logits32.double() - logits).abs().max().item(),
            "loss_abs_diff": abs(loss32.item() - loss.item()),
            "grad_max_rel_l2_diff": max(rel.values()),
            "grad_max_rel_l2_name": max(rel, key=rel.get),
            "key_bias_grad_max_abs": max(g.abs().max().item() for n, g in grads32.items() if n.endswith(ZERO_GRAD)),
            "train_losses": round9(short["losses"]),
            "train_final_logits_max_abs_diff": off32,
        },
        "train": {
            "optimizer": "adamw",
            "lr": recipe["lr"],
            "betas": [0.9, 0.999],
            "eps": 1e-8,
            "weight_decay": 0.01,
            "no_decay_suffixes": list(NO_DECAY),
            "max_grad_norm": 1.0,
            "schedule": "linear",
            "warmup_steps": recipe["warmup_steps"],
            "steps": recipe["steps"],
            "lrs": round9(long["lrs"]),
            "losses": round9(long["losses"]),
            "grad_norms": round9(long["grad_norms"]),
            "final_loss": round9(long["final_loss"]),
            "final_logits": round9(long["final_logits"].tolist()),
            "update_l2": update,
        },
    }, grads


def round9(x):
    """Nine significant digits: enough to name every f32."""
    return [round9(v) for v in x] if isinstance(x, list) else float(f"{x:.9g}")


def dump(path, fixture):
    """JSON with one entry of the top two levels a line, so that a change shows in a diff."""
    compact = lambda v: json.dumps(v, ensure_ascii=False, separators=(",", ":"))

    def block(v, depth):
        inner = " " * (depth + 1)
        if depth < 2 and isinstance(v, dict) and v:
            return "{\n" + ",\n".join(f"{inner}{compact(k)}: {block(w, depth + 1)}" for k, w in v.items()) + "\n" + " " * depth + "}"
        if depth < 2 and isinstance(v, list) and v and isinstance(v[0], list):
            return "[\n" + ",\n".join(inner + compact(w) for w in v) + "\n" + " " * depth + "]"
        return compact(v)

    path.write_text(block(fixture, 0) + "\n", encoding="utf-8")


def fixed():
    """One thread and deterministic kernels: the same bytes again on the same machine."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
