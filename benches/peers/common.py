"""Functions that the peer scripts share. Import this before torch, so that the time of importing torch is counted."""
import csv
import resource
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SENTIMENT = ROOT / "examples" / "sentiment"
LABELS = ["negative", "positive"]


def process_start():
    """When this process began, in seconds since the epoch: before Python itself had started."""
    import psutil

    return psutil.Process().create_time()


PROCESS_START = process_start()


def since_start():
    return time.time() - PROCESS_START


def peak_rss_mib():
    """Peak resident memory of this process (Linux counts it in KiB, macOS in bytes)."""
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def sentences(path, limit=None):
    """[(text, label id)] of a CSV file of examples/sentiment."""
    with open(path, encoding="utf-8", newline="") as f:
        rows = [(r["text"], LABELS.index(r["label"])) for r in csv.DictReader(f)]
    return rows[:limit]


def tokenizer(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def machine(threads):
    import datetime
    import os
    import platform

    import torch
    import transformers

    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    return {
        "cpu": names[0] if names else platform.machine(),
        "date": datetime.date.today().isoformat(),
        "cpus": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
