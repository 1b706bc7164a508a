#!/usr/bin/env python3
"""Draws the README's picture from a table that benches/peers/run printed.

    benches/picture.py benches/results/cpu-zen3-2026-11-23.md > docs/images/quickstart.svg

Every row is one measurement of the first command's job; both bars of a row have the same scale. The picture follows the
reader's light or dark theme. Only the standard library is needed.
"""

import sys
from html import escape

# The row of the table (what, peer), the label, the unit, and whether less is better.
ROWS = [
    (("job, seconds of training", "HF Trainer"), "Training, 450 steps", "s", True),
    (("job, seconds of the whole process", "HF Trainer"), "Whole process", "s", True),
    (("job, peak MiB", "HF Trainer"), "Peak memory", "MiB", True),
    (("job, real tokens/s", "HF Trainer"), "Throughput", "tokens/s", False),
]

STYLE = """
  text { font: 14px system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif; fill: #1f2328 }
  .note { font-size: 12px; fill: #59636e }
  .ours { fill: #1f5fc9 } .peer { fill: #b9c3cf }
  .value { font-size: 13px }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .note { fill: #9198a1 } .ours { fill: #5b9bff } .peer { fill: #57606a }
  }
"""


def measured(path):
    """The cells of each row, by its first two."""
    found = {}
    for line in open(path, encoding="utf-8"):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 5:
            found[(cells[0], cells[1])] = cells[2:4]
    return found


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    table = measured(sys.argv[1])
    left, width, height = 170, 440, 58
    out = []
    for i, (key, label, unit, less) in enumerate(ROWS):
        if key not in table:
            sys.exit(f"{sys.argv[1]}: no row {key}")
        ours, peer = (float(cell.replace(",", "")) for cell in table[key])
        top = 62 + i * height
        better = peer / ours if less else ours / peer
        out.append(f'<text x="0" y="{top + 15}">{escape(label)}</text>')
        out.append(f'<text x="0" y="{top + 33}" class="note">{"lower" if less else "higher"} is better</text>')
        for j, (value, kind) in enumerate([(ours, "ours"), (peer, "peer")]):
            bar = width * value / max(ours, peer)
            y = top + 21 * j
            ratio = f"  ({better:.1f}x)" if kind == "ours" else ""
            out.append(f'<rect class="{kind}" x="{left}" y="{y}" width="{bar:.1f}" height="18" rx="2"/>')
            out.append(f'<text class="value" x="{left + bar + 8:.1f}" y="{y + 14}">{value:,.0f} {unit}{ratio}</text>')
    total = 62 + len(ROWS) * height
    legend = (
        f'<rect class="ours" x="{left}" y="28" width="14" height="14" rx="2"/><text x="{left + 20}" y="40">tempra</text>'
        f'<rect class="peer" x="{left + 100}" y="28" width="14" height="14" rx="2"/>'
        f'<text x="{left + 120}" y="40">Hugging Face Trainer (PyTorch 2.15)</text>'
    )
    title = "Fine-tuning MiniLM-L6 on 2,400 sentences, two CPU cores (AMD Zen 3), f32"
    print(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 780 {total}" width="780" height="{total}" role="img" '
        f'aria-label="{title}"><style>{STYLE}</style>'
        f'<text x="0" y="14" font-weight="600">{title}</text>{legend}{"".join(out)}</svg>'
    )


main()
