"""Shapes and lengths of `tempra bench` for the scripts in this folder: the values of --shape and --lengths, and the roles of their rows.

    python3 shapes.py lognormal:40,0.6:512 --tokens 4096      prints the lengths, one on each line, as `tempra bench ops` draws them
    python3 shapes.py lognormal:40,0.6:512 --sequences 64     as `tempra bench step` draws them

The syntax, the limits and the draws are those of src/bench/shapes in tempra, so that rows of both programs have the same keys.
"""
import argparse
import math
import sys
from pathlib import Path

LENGTH, MOST, MOST_TOKENS, SHOWN, SEED = 128, 1 << 20, 1 << 24, 6, 5
# As in src/bench/shapes/custom.rs: the number of rows, sizes that are needed, sizes with a default. Only ops that a script measures.
SIZES = {
    "embed": ("tokens", ["columns"], {"length": None, "vocab": 30522, "positions": 512}),
    "linear": ("m", ["n", "k"], {"act": "none"}),
    "add_norm": ("rows", ["columns"], {"dropout": 0.1}),
    "attention": ("tokens", ["heads", "head_dim"], {"length": None, "window": None, "dropout": 0.1}),
    "pool": ("tokens", ["columns"], {"length": None}),
    "cross_entropy": ("rows", ["classes"], {}),
    "adamw": (None, ["elements"], {}),
    "global_norm": (None, ["elements"], {}),
}
ACTIVATIONS = ["none", "gelu", "gelu_tanh", "relu", "tanh"]


def philox(counter, key):
    """Ten rounds of Philox4x32 (Salmon et al. 2011)."""
    (a, b, c, d), (k0, k1), mask = counter, key, 0xFFFFFFFF
    for _ in range(10):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (q >> 32) ^ b ^ k0, q & mask, (p >> 32) ^ d ^ k1, p & mask
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return [a, b, c, d]


class Stream:
    """`Stream` of src/rng.rs: the same seed, purpose and index give the same numbers."""

    def __init__(self, seed, purpose, index=0):
        tag = 0x811C9DC5
        for byte in purpose.encode():
            tag = ((tag ^ byte) * 0x01000193) & 0xFFFFFFFF
        self.key = (seed & 0xFFFFFFFF, seed >> 32)
        self.counter, self.block = [0, tag, index & 0xFFFFFFFF, index >> 32], []

    def next(self):
        if not self.block:
            self.block = philox(self.counter, self.key)
            self.counter[0] = (self.counter[0] + 1) & 0xFFFFFFFF
        return self.block.pop(0)

    def uniform(self):
        high, low = self.next() >> 5, self.next() >> 6
        return ((high << 26) + low) / (1 << 53)

    def below(self, n):
        threshold = (1 << 32) % n
        while True:
            m = self.next() * n
            if m & 0xFFFFFFFF >= threshold:
                return m >> 32

    def normal(self):
        r = math.sqrt(-2 * math.log(1 - self.uniform()))
        return r * math.cos(2 * math.pi * self.uniform())


def length(text):
    if not text.isdecimal() or not 1 <= int(text) <= MOST:
        raise ValueError(f"{text!r} is no length from 1 to {MOST}")
    return int(text)


class Lengths:
    """The value of --lengths."""

    def __init__(self, text):
        self.listed, kind, rest = None, *(text.split(":", 1) if ":" in text else (text, None))
        if text and all(c in "0123456789, -" for c in text):
            self.listed = [length(t.strip()) for t in text.split(",")]
        elif rest is None or Path(text).exists():
            lines = [line.strip() for line in Path(text).read_text().splitlines()]
            self.listed = [length(line) for line in lines if line and not line.startswith("#")]
            if not self.listed:
                raise ValueError(f"{text} has no length")
        elif kind == "constant":
            n = length(rest)
            self.draws = lambda: lambda: n
        elif kind == "uniform":
            a, b = (length(t) for t in rest.split("-"))
            self.draws = lambda: (lambda rng: lambda: a + rng.below(b - a + 1))(self.stream())
        elif kind == "lognormal":
            numbers, longest = rest.rsplit(":", 1)
            (mean, sigma), longest = (float(t) for t in numbers.split(",")), length(longest)
            mu = math.log(mean) - 0.5 * sigma * sigma
            # Half away from zero, as Rust rounds.
            one = lambda rng: min(max(math.floor(math.exp(mu + sigma * rng.normal()) + 0.5), 1), longest)  # noqa: E731
            self.draws = lambda: (lambda rng: lambda: one(rng))(self.stream())
        else:
            raise ValueError(f"there is no distribution {kind!r}")

    @staticmethod
    def stream():
        return Stream(SEED, "bench lengths")

    def with_tokens(self, tokens):
        """Sequences with exactly this number of tokens together; a list as it is."""
        if self.listed:
            return self.listed
        draw, left, found = self.draws(), tokens, []
        while left:
            found.append(min(draw(), left))
            left -= found[-1]
        return found

    def with_sequences(self, sequences):
        if self.listed:
            return self.listed
        draw = self.draws()
        return [draw() for _ in range(sequences)]


def equal(tokens):
    """Sequences of LENGTH tokens, the last one shorter if necessary."""
    rest = tokens % LENGTH
    return [LENGTH] * (tokens // LENGTH) + [rest] * (rest > 0)


def summary(lengths):
    return {"sequences": len(lengths), "tokens": sum(lengths), "longest": max(lengths), "sum_of_squares": sum(n * n for n in lengths)}


def label(lengths):
    """Tells lengths from others, as the role of a row does."""
    if len(set(lengths)) == 1:
        return f"length {lengths[0]}"
    if len(lengths) <= SHOWN:
        return "lengths " + ",".join(map(str, lengths))
    s = summary(lengths)
    return f"{s['sequences']} lengths up to {s['longest']} (sum of squares {s['sum_of_squares']})"


class Shape:
    """The value of --shape: sizes by name."""

    def __init__(self, text):
        parts = [p.strip() for p in text.split(",")]
        if not any("=" in p for p in parts):
            if len(parts) != 3:
                raise ValueError(f"--shape {text}: {len(parts)} numbers where a matmul has 3 (m,n,k)")
            parts = [f"{name}={value}" for name, value in zip("mnk", parts)]
        self.text, self.parts = text, dict(p.split("=", 1) for p in parts)
        for name, value in self.parts.items():
            if name == "act":
                if value not in ACTIVATIONS:
                    raise ValueError(f"--shape {text}: act is none of {', '.join(ACTIVATIONS)}")
            elif name == "dropout":
                self.parts[name] = float(value)
                if not 0 <= self.parts[name] < 1:
                    raise ValueError(f"--shape {text}: dropout is no probability from 0 up to, but not including, 1")
            elif not value.isdecimal() or int(value) < (name != "window"):
                raise ValueError(f"--shape {text}: {name} is no size")
            else:
                self.parts[name] = int(value)

    def fits(self, op):
        rows, needed, optional = SIZES[op]
        return set(self.parts) <= {rows, *needed, *optional} and set(needed) <= set(self.parts)

    def batches(self, op, tokens, lengths):
        """(number of rows, lengths of the sequences or None) of each job."""
        rows, _, optional = SIZES[op]
        if rows is None:
            return [(0, None)]
        ragged = "length" in optional
        own = self.parts.get(rows)
        if ragged and lengths and lengths.listed:
            if own:
                raise ValueError(f"--shape {self.text}: {rows} is given, and --lengths lists the sequences")
            return [(sum(lengths.listed), lengths.listed)]
        if own and tokens:
            raise ValueError(f"--shape {self.text}: {rows} is given, and so is --tokens")
        if not own and not tokens:
            raise ValueError(f"--shape {self.text}: {rows} is missing; write {rows}=N or give --tokens")
        return [(n, self.sequences(n, lengths) if ragged else None) for n in ([own] if own else tokens)]

    def sequences(self, tokens, lengths):
        if lengths:
            return lengths.with_tokens(tokens)
        n = self.parts.get("length", min(LENGTH, tokens))
        if tokens % n:
            raise ValueError(f"--shape {self.text}: {tokens} tokens are not a multiple of the length of a sequence ({n})")
        return [n] * (tokens // n)

    def get(self, op, name):
        return self.parts.get(name, SIZES[op][2].get(name))

    def role(self, op, lengths):
        _, needed, optional = SIZES[op]
        names = [*needed, *(n for n in optional if n != "length")]
        usual = {"dropout": 0.1, "act": "none"}
        given = [(n, self.parts[n]) for n in names if n in self.parts and self.parts[n] != usual.get(n)]
        parts = [f"{n}={v:g}" if n == "dropout" else f"{n}={v}" for n, v in given]
        if lengths and len(set(lengths)) == 1:
            parts.append(f"length={lengths[0]}")
        ragged = [label(lengths)] if lengths and len(set(lengths)) > 1 else []
        return ", ".join([p for p in [",".join(parts)] if p] + ragged)


def main():
    p = argparse.ArgumentParser(description="Prints the lengths that `tempra bench` draws, one on each line.")
    p.add_argument("lengths")
    which = p.add_mutually_exclusive_group(required=True)
    which.add_argument("--tokens", type=int)
    which.add_argument("--sequences", type=int)
    args = p.parse_args()
    try:
        source = Lengths(args.lengths)
    except (OSError, ValueError) as e:
        sys.exit(f"shapes.py: --lengths {args.lengths}: {e}")
    print(*(source.with_tokens(args.tokens) if args.tokens else source.with_sequences(args.sequences)), sep="\n")


if __name__ == "__main__":
    main()
