#!/usr/bin/env python3
"""Copies a model folder with its weights in f16, which halves the size to transfer to another machine.

    python3 half_model.py MODEL COPY

Needs only Python's standard library. Weights are rounded to the nearest f16, so scores differ slightly from those of the original. Results
to compare must start from the same copy.
"""
import json
import shutil
import struct
import sys
from pathlib import Path


def main():
    if len(sys.argv) != 3 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__.strip())
    model, copy = map(Path, sys.argv[1:])
    copy.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (model / name).is_file():
            shutil.copyfile(model / name, copy / name)
    data = (model / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + size]), memoryview(data)[8 + size :]
    tensors, parts, at = {}, [], 0
    for name, tensor in header.items():
        if name == "__metadata__":
            tensors[name] = tensor
            continue
        begin, end = tensor["data_offsets"]
        part = bytes(body[begin:end])
        if tensor["dtype"] == "F32":
            values = memoryview(part).cast("f")
            part = struct.pack(f"<{len(values)}e", *values)
            tensor = {**tensor, "dtype": "F16"}
        tensors[name] = {**tensor, "data_offsets": [at, at + len(part)]}
        at += len(part)
        parts.append(part)
    text = json.dumps(tensors).encode()
    text += b" " * (-len(text) % 8)
    partial = copy / "model.safetensors.partial"
    partial.write_bytes(b"".join([struct.pack("<Q", len(text)), text, *parts]))
    partial.rename(copy / "model.safetensors")
    print(copy)


if __name__ == "__main__":
    main()
