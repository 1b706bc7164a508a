#!/usr/bin/env python3
"""Draws the README's picture from a table that benches/peers/run printed.

    benches/picture.py benches/results/cpu-zen3-2026-11-23.md > docs/images/quickstart.svg

Every row is one measurement of the first command's job; both bars of a row have the same scale. Where the file has the numbers of each
seed, they are marks on the bars, which show their mean. The title has the machine and the versions of the file. The picture follows the
reader's light or dark theme. Only the standard library is needed.
"""

import re
import sys
from html import escape

# The row of the table (what, peer), the row of the numbers by seed, the label, the unit, whether less is better, and what the better one is.
ROWS = [
    (("job, seconds of training", "HF Trainer"), "seconds of training", "Training, 450 steps", "s", True, "faster"),
    (("job, seconds of the whole process", "HF Trainer"), None, "Whole process", "s", True, "faster"),
    (("job, peak MiB", "HF Trainer"), None, "Peak memory", "MiB", True, "smaller"),
    (("job, real tokens/s", "HF Trainer"), "real tokens/s", "Throughput", "tokens/s", False, "faster"),
]

STYLE = """
  text { font: 14px system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif; fill: #1f2328 }
  .note { font-size: 12px; fill: #59636e }
  .ours { fill: #1f5fc9 } .peer { fill: #818b98 } .seed { stroke: #ffffff; stroke-width: 1.5 }
  .value { font-size: 13px } .title { font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .note { fill: #9198a1 } .ours { fill: #5b9bff } .peer { fill: #7d8590 } .seed { stroke: #0d1117 }
  }
"""


def number(cell):
    return float(cell.replace(",", ""))


def read(path):
    """The heading, the version of PyTorch, the cells of each row by its first two, and the numbers by seed."""
    heading, torch, table, seeds, columns = "", "", {}, {}, []
    for line in open(path, encoding="utf-8"):
        heading = heading or (line[2:].strip() if line.startswith("# ") else "")
        torch = torch or next(iter(re.findall(r"PyTorch (\d+\.\d+)", line)), "")
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if cells[:1] in (["what"], ["by seed"]):
            columns = cells
        elif len(cells) == len(columns) and columns[:1] == ["what"]:
            named = dict(zip(columns, cells))
            table[(named["what"], named["peer"])] = (named["tempra"], named["peer's"])
        elif len(cells) == 3 and columns[:1] == ["by seed"] and not cells[0].startswith("-"):
            seeds[cells[0]] = [[number(n) for n in re.split(r",\s+", c)] for c in cells[1:]]
    return heading, torch, table, seeds


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    heading, torch, table, seeds = read(sys.argv[1])
    left, width, height, head = 170, 390, 58, 82
    out = []
    for i, (key, by_seed, name, unit, lower, better) in enumerate(ROWS):
        if key not in table:
            sys.exit(f"{sys.argv[1]}: no row {key}")
        values = [number(cell) for cell in table[key]]
        every = seeds.get(by_seed, [[], []])
        most = max(values + every[0] + every[1])
        top = head + i * height
        times = values[1] / values[0] if lower else values[0] / values[1]
        said = f"{times:.1f}x {better}" if times >= 1 else ""
        out.append(f'<text x="0" y="{top + 15}">{escape(name)}</text>')
        out.append(f'<text x="0" y="{top + 33}" class="note">{"lower" if lower else "higher"} is better</text>')
        for j, (value, kind) in enumerate(zip(values, ("ours", "peer"))):
            bar, y = width * value / most, top + 21 * j
            marks = [left + width * seed / most for seed in every[j]]
            end = max([left + bar, *marks]) + 8
            out.append(f'<rect class="{kind}" x="{left}" y="{y}" width="{bar:.1f}" height="18" rx="2"/>')
            out += [f'<line class="{kind} seed" x1="{x:.1f}" x2="{x:.1f}" y1="{y + 3}" y2="{y + 15}"/>' for x in marks]
            note = f"  ({said})" if said and kind == "ours" else ""
            out.append(f'<text class="value" x="{end:.1f}" y="{y + 14}">{value:,.0f} {unit}{note}</text>')
    total = head + len(ROWS) * height
    peer = f"Hugging Face Trainer (PyTorch {torch})" if torch else "Hugging Face Trainer"
    legend = (
        f'<rect class="ours" x="{left}" y="48" width="14" height="14" rx="2"/><text x="{left + 20}" y="60">tempra</text>'
        f'<rect class="peer" x="{left + 100}" y="48" width="14" height="14" rx="2"/><text x="{left + 120}" y="60">{escape(peer)}</text>'
    )
    title = "Fine-tuning MiniLM-L6 on 2,400 sentences, f32"
    number_of = max((len(ours) for ours, _ in seeds.values()), default=0)
    where = heading + (f"; means of {number_of} seeds, each a line on its bar" if number_of > 1 else "")
    print(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 780 {total}" width="780" height="{total}" role="img" '
        f'aria-label="{escape(title)}, {escape(heading)}"><style>{STYLE}</style>'
        f'<text x="0" y="14" class="title">{title}</text><text x="0" y="34" class="note">{escape(where)}</text>{legend}{"".join(out)}</svg>'
    )


main()
