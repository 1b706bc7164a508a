/* Training steps: the time by phase or by op, sweeps, packed and padded batches. */
const stepName = (s) => `${s.device}, ${s.model}, ${s.part}: ${s.sequences} × ${s.length}`;
function stepText(s) {
  return [
    `${s.device}, ${s.model}`,
    `${s.sequences} sequences of up to ${s.length} tokens`,
    `${time(s.seconds.median)} per step, ${rangeOf(s)}`,
    `${count(s.tokens_per_s)} tokens/s without padding`,
    s.flops > 0 ? flopRate(s.flops / s.seconds.median) : null,
    s.peak_bytes ? `peak memory ${bytes(s.peak_bytes)}` : null,
    slowdowns(s) ? `the GPU was slowed down: ${slowdowns(s)}` : null,
  ]
    .filter(Boolean)
    .join("\n");
}

/* Each bar begins where the previous one ends. */
const PHASES = { forward: "var(--c0)", backward: "var(--c1)", optimizer: "var(--c2)" };
const MOST_OPS = 18;
function waterfall(width, { step, by }) {
  const s = R.steps[+step];
  if (!stepShown(s)) return null;
  let rows, total;
  if (by === "phase") {
    const phases = [...Object.keys(PHASES), "idle"];
    total = Math.max(
      s.seconds.median,
      phases.reduce((sum, p) => sum + s.phases[p], 0),
      s.phases.data,
    );
    rows = [["data (in parallel)", s.phases.data, "var(--c4)", "building the batch, in training on a separate thread", 0]];
    let sum = 0;
    for (const p of phases) {
      rows.push([p, s.phases[p], PHASES[p] ?? "var(--idle)", p === "idle" ? "the rest of the step" : "", sum]);
      sum += s.phases[p];
    }
    rows.push(["step", s.seconds.median, "var(--ink)", stepText(s), 0]);
  } else {
    const name = (w) =>
      `${w.op} ${PASSES[w.pass]}${
        w.op === "linear"
          ? " " +
            w.shapes
              .slice(0, 2)
              .map((x) => x.join("×"))
              .join(" ")
          : ""
      }`;
    const rates = (w) => `${w.calls} calls, ${flopRate(w.flops / w.seconds)}, ${byteRate(w.bytes / w.seconds)}`;
    total = s.work.reduce((sum, w) => sum + w.seconds, 0);
    rows = s.work.slice(0, MOST_OPS).map((w) => [name(w), w.seconds, PHASES[PASSES[w.pass]], rates(w)]);
    const rest = s.work.slice(MOST_OPS).reduce((sum, w) => sum + w.seconds, 0);
    if (rest > 0) rows.push([`${s.work.length - MOST_OPS} others`, rest, "var(--idle)", ""]);
    let sum = 0;
    for (const row of rows) {
      row.push(sum);
      sum += row[1];
    }
  }
  const entries =
    by === "phase"
      ? rows.map(([name, , c]) => [name, "square", c])
      : [...Object.entries(PHASES), ["others", "var(--idle)"]]
          .filter(([, c]) => rows.some((r) => r[2] === c))
          .map(([name, c]) => [name, "square", c]);
  const legend = legendOf(entries, width),
    narrow = width < 640,
    each = narrow ? 36 : 24;
  const text = (v) => `${time(v)}, ${percent((100 * v) / total)}`;
  const left = narrow ? 8 : Math.min(widest(rows.map((r) => r[0])) + 12, width * 0.42),
    room =
      width -
      left -
      widest(
        rows.map((r) => text(r[1])),
        11,
      ) -
      12;
  const svg = canvas(width, legend.height + rows.length * each + 10, `Time of a training step by ${by}: ${stepName(s)}`);
  legend.draw(svg);
  rows.forEach(([name, v, c, more, begin], i) => {
    const y = legend.height + 4 + i * each,
      top = narrow ? y + 14 : y;
    if (narrow) label(svg, left, y + 10, name, { fill: "var(--ink)" });
    else label(svg, left - 8, y + 13, name, { anchor: "end", fill: "var(--ink)", room: left - 10 });
    const x = left + clamp((begin / total) * room, 0, room),
      w = clamp((v / total) * room, 1.5, left + room - x);
    mark(
      shape(svg, "rect", { x, y: top, width: w, height: 17, rx: 2, fill: c, class: "fall" }),
      `${name}: ${text(v)}${more ? "\n" + more : ""}`,
    );
    label(svg, x + w + 5, top + 13, text(v), { size: 11 });
  });
  const data = rows.map(([name, v]) => [cell(name), cell(v, time), cell((100 * v) / total, percent)]);
  return { svg, head: [by === "phase" ? "phase" : "op", "time", "share"], rows: data };
}

const SWEEPS = {
  tokens: ["tokens per second", (s) => s.tokens_per_s, count],
  flops: ["FLOP/s", (s) => s.flops / s.seconds.median, flopRate],
  samples: ["sequences per second", (s) => s.samples_per_s, digits],
  time: ["time per step", (s) => s.seconds.median, time],
  memory: ["peak memory", (s) => s.peak_bytes, bytes],
};
const DASHES = [
  ["", "solid"],
  ["6 4", "dashed"],
  ["2 3", "dotted"],
  ["9 3 2 3", "mixed"],
];
const sweepOf =
  (part) =>
  (width, { what }) => {
    const [name, of, show] = SWEEPS[what],
      along = part === "batch" ? "sequences" : "length";
    const rows = shownSteps().filter((s) => s.part === part && of(s) > 0);
    if (!rows.length) return null;
    const models = unique(rows.map((s) => s.model)),
      devices = unique(rows.map((s) => s.device));
    const legend = legendOf(
      [
        ...devices.map((id) => [id, "square", color(id)]),
        ...(models.length > 1 ? models.map((m, i) => [m, "line", "var(--dim)", DASHES[i % 4][0]]) : []),
      ],
      width,
    );
    const peak = Math.max(...rows.map(of)),
      stride = niceStep(peak / 4),
      most = Math.max(peak * 1.04, stride * Math.ceil(peak / stride - 0.2));
    const ticks = Array.from({ length: Math.floor(most / stride + 1e-9) + 1 }, (_, i) => i * stride),
      tick = (v) => (v ? (v >= 1000 ? show(v) : plain(show(v))) : "0");
    const left = widest(ticks.map(tick)) + 12,
      right = 18,
      top = legend.height + 24,
      height = legend.height + 320,
      bottom = height - 40;
    const svg = canvas(width, height, `${name} by ${along === "sequences" ? "batch size" : "sequence length"}`);
    legend.draw(svg);
    const xs = unique(rows.map((s) => s[along])).sort((a, b) => a - b),
      [low, high] = [Math.log2(xs[0]), Math.log2(xs[xs.length - 1])];
    const X = (v) => left + (high > low ? (Math.log2(v) - low) / (high - low) : 0.5) * (width - left - right),
      Y = (v) => bottom - (v / most) * (bottom - top);
    ticks.forEach((v) => {
      shape(svg, "line", { x1: left, x2: width - right, y1: Y(v), y2: Y(v), stroke: "var(--grid)" });
      label(svg, left - 6, Y(v) + 4, tick(v), { anchor: "end" });
    });
    withRoom(xs, X, String, width).forEach((x) => label(svg, X(x), bottom + 16, x, { anchor: "middle" }));
    label(svg, width - right, height - 6, along === "sequences" ? "sequences per batch" : "tokens per sequence", { anchor: "end" });
    label(svg, 2, legend.height + 10, name);
    for (const d of devices)
      models.forEach((m, i) => {
        const points = rows.filter((s) => s.device === d && s.model === m).sort((a, b) => a[along] - b[along]);
        if (!points.length) return;
        const line = {
          points: points.map((s) => `${X(s[along])},${Y(of(s))}`).join(" "),
          fill: "none",
          stroke: color(d),
          "stroke-width": 2,
        };
        shape(svg, "polyline", { ...line, "stroke-dasharray": DASHES[i % 4][0], class: "curve" });
        points.forEach((s) =>
          mark(shape(svg, "circle", { cx: X(s[along]), cy: Y(of(s)), r: 4, fill: color(d), class: "point" }), stepText(s), () =>
            chooseSamples(keyOf(s)),
          ),
        );
      });
    const data = rows.map((s) => [cell(s.device), cell(s.model), cell(s.sequences), cell(s.length), cell(of(s), show)]);
    return { svg, head: ["device", "model", "sequences", "length", name], rows: data };
  };

function padding(width) {
  const padded = (s) => R.steps.find((p) => p.part === "padded" && p.device === s.device && p.model === s.model);
  const pairs = shownSteps()
    .filter((s) => s.part === "packed" && padded(s))
    .map((s) => [s, padded(s)]);
  if (!pairs.length) return null;
  const legend = legendOf(
    [
      ["packed", "square", "var(--dim)"],
      ["padded", "frame", "var(--dim)"],
      ...unique(pairs.map(([s]) => s.device)).map((id) => [id, "square", color(id)]),
    ],
    width,
  );
  const name = ([s]) => `${s.device}, ${s.model}`,
    text = (s) => `${count(s.tokens_per_s)} tokens/s`;
  const narrow = width < 640,
    each = narrow ? 62 : 48,
    left = narrow ? 8 : Math.min(widest(pairs.map(name)) + 12, width * 0.42);
  const room = width - left - widest(pairs.flat().map(text), 11) - 12;
  const svg = canvas(width, legend.height + pairs.length * each + 4, "Tokens per second, packed and padded");
  legend.draw(svg);
  const most = Math.max(...pairs.flat().map((s) => s.tokens_per_s));
  pairs.forEach((pair, i) => {
    const y = legend.height + 2 + i * each,
      top = narrow ? y + 16 : y;
    if (narrow) label(svg, left, y + 11, name(pair), { fill: "var(--ink)" });
    else label(svg, left - 8, y + 23, name(pair), { anchor: "end", fill: "var(--ink)", room: left - 10 });
    pair.forEach((s, j) => {
      const w = clamp((s.tokens_per_s / most) * room, 3, room),
        c = color(s.device),
        at = top + j * 19;
      const rect = {
        x: left + 1,
        y: at + 1,
        width: w - 2,
        height: 14,
        rx: 2,
        fill: j ? "var(--card)" : c,
        stroke: c,
        "stroke-width": 2,
        class: "bar",
      };
      mark(shape(svg, "rect", rect), `${s.part}: ${count(s.tokens)} tokens, ${count(s.computed_tokens)} with padding\n${stepText(s)}`, () =>
        chooseSamples(keyOf(s)),
      );
      label(svg, left + w + 5, at + 12, text(s), { size: 11 });
    });
  });
  const data = pairs
    .flat()
    .map((s) => [cell(s.device), cell(s.model), cell(s.part), cell(s.tokens), cell(s.computed_tokens), cell(s.tokens_per_s, count)]);
  return { svg, head: ["device", "model", "batch", "tokens", "with padding", "tokens/s"], rows: data };
}
