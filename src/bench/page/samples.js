/* The sum of the squares of a step's lengths; without lengths all sequences count as equally long. */
const squares = (r) => r.lengths?.sum_of_squares ?? r.sequences * r.length ** 2;
/* The samples of one measurement: a histogram for each device, all with the same axis. */
const keyOf = (r) =>
  r.op === undefined
    ? ["step", r.part, r.model, r.sequences, r.length, r.tokens, squares(r)].join("|")
    : ["op", r.op, r.role, r.model, r.tokens, r.pass].join("|");
const keyOfPair = (p) =>
  p.pass ? ["op", p.op, p.role, p.model, p.tokens, p.pass].join("|") : ["step", p.role, p.model, p.sequences, p.length, p.tokens, squares(p)].join("|");
const nameOf = (r) =>
  r.op === undefined
    ? `${r.part} step, ${r.model}, ${r.sequences} sequences of up to ${r.length} tokens`
    : `${r.op} ${r.role}, ${PASSES[r.pass]}, ${r.model}${r.tokens ? `, ${count(r.tokens)} tokens` : ""}`;
/* All measurements by key, each with its rows on all devices. */
const measurements = new Map();
for (const row of [...R.ops, ...R.steps]) {
  const key = keyOf(row);
  if (!measurements.has(key)) measurements.set(key, []);
  measurements.get(key).push(row);
}
let samplesOf = measurements.keys().next().value;

function chooseSamples(key) {
  if (!measurements.has(key)) return;
  samplesOf = key;
  drawn.samples.select("key", key);
  byId("samples").scrollIntoView({ block: "center", behavior: "smooth" });
}
/* A short name of an op, a step or a pair of them, without what all of a figure share. */
function shortName(r, model, tokens) {
  const name = r.pass ? `${r.op} ${r.role}, ${PASSES[r.pass]}` : `${r.role ?? r.part} step, ${r.sequences} × ${r.length}`;
  return `${name}${tokens && r.pass && r.tokens ? `, ${count(r.tokens)} tokens` : ""}${model ? `, ${r.model}` : ""}`;
}
/* The interval of a row's median, its quartiles if the row has no interval. */
const intervalOf = (row) => row.interval_s ?? [row.seconds.q1, row.seconds.q3];

/* An axis of times around some values, logarithmic if they differ by more than a factor of 4. */
function timeAxis(values, left, right) {
  const log = Math.max(...values) > 4 * Math.min(...values),
    f = log ? Math.log : (x) => x,
    back = log ? Math.exp : (x) => x;
  const pad = (f(Math.max(...values)) - f(Math.min(...values))) * 0.02 || Math.abs(f(values[0])) * 0.05 || 0.05;
  const low = f(Math.min(...values)) - pad,
    high = f(Math.max(...values)) + pad;
  return {
    log,
    X: (s) => left + ((f(s) - low) / (high - low)) * (right - left),
    edges: (n) => Array.from({ length: n + 1 }, (_, i) => back(low + ((high - low) * i) / n)),
    bin: (s, n) => clamp(Math.floor(((f(s) - low) / (high - low)) * n), 0, n - 1),
    ticks: log ? logTicks(back(low), back(high)) : linearTicks(low, high),
  };
}
const LANE = 126;
function histograms(width, { key, axis }) {
  samplesOf = key;
  const rows = measurements.get(key).filter((r) => allows(filter.device, r.device));
  if (!rows.length) return null;
  const samples = (row) => row.samples_s ?? [],
    warm = (row) => row.warm_s?.median;
  const times = (r) => [...samples(r), ...intervalOf(r), r.seconds.median, warm(r)].filter((s) => finite(s) && s > 0);
  const left = 10,
    right = width - 10,
    shared = axis === "shared" && timeAxis(rows.flatMap(times), left, right);
  const legend = legendOf(
    [
      ...rows.map((r) => [r.device, "square", color(r.device)]),
      ["median", "line", "var(--ink)"],
      ["95 % interval of the median", "square", "var(--dim)"],
      ...(rows.some((r) => finite(warm(r))) ? [["median with a warm cache", "line", "var(--ink)", "3 3"]] : []),
    ],
    width,
  );
  const svg = canvas(width, legend.height + rows.length * LANE + 20, `Samples of ${nameOf(rows[0])}`);
  legend.draw(svg);
  let anyLog = false;
  rows.forEach((r, i) => {
    const at = shared || timeAxis(times(r), left, right),
      { X } = at,
      c = color(r.device),
      [a, b] = intervalOf(r);
    const top = legend.height + i * LANE,
      base = top + LANE - 38,
      tall = LANE - 76;
    anyLog ||= at.log;
    withRoom(at.ticks, X, (t) => plain(time(t)), width).forEach((t) => {
      shape(svg, "line", { x1: X(t), x2: X(t), y1: top + 22, y2: base + 8, stroke: "var(--grid)" });
      label(svg, X(t), base + 22, plain(time(t)), { anchor: "middle" });
    });
    const of = r.repeats > 1 ? ` of ${r.repeats} runs` : "",
      kind = r.interval_s ? "95 % interval" : "quartiles";
    const text =
      `${r.device}: median ${time(r.seconds.median)}, ${kind} ${time(a)} to ${time(b)}, ` +
      (samples(r).length ? `${r.samples} samples${of}` : "samples not in the result");
    label(svg, left, top + 14, text, { fill: "var(--ink)" });
    shape(svg, "line", { x1: left, x2: right, y1: base, y2: base, stroke: "var(--line)" });
    const bins = clamp(Math.ceil(2 * Math.sqrt(samples(r).length)), 8, Math.min(48, Math.floor(width / 8)));
    const counts = new Array(bins).fill(0),
      edges = at.edges(bins);
    for (const s of samples(r)) counts[at.bin(s, bins)]++;
    const highest = Math.max(...counts, 1);
    counts.forEach((n, j) => {
      if (!n) return;
      const x = X(edges[j]),
        h = Math.max(2, (n / highest) * tall);
      const bar = {
        x: x + 0.5,
        y: base - h,
        width: Math.max(1, X(edges[j + 1]) - x - 1),
        height: h,
        fill: c,
        class: "bin",
        "data-count": n,
      };
      mark(shape(svg, "rect", bar), `${r.device}\n${n} of ${r.samples} samples between ${time(edges[j])} and ${time(edges[j + 1])}`);
    });
    mark(
      shape(svg, "rect", {
        x: X(a),
        y: base + 3,
        width: Math.max(2, X(b) - X(a)),
        height: 5,
        rx: 2,
        fill: "var(--dim)",
        class: "interval",
      }),
      text,
    );
    const line = { y1: top + 22, y2: base + 9, stroke: "var(--ink)", "stroke-width": 2 };
    shape(svg, "line", { x1: X(r.seconds.median), x2: X(r.seconds.median), ...line });
    if (finite(warm(r))) shape(svg, "line", { x1: X(warm(r)), x2: X(warm(r)), ...line, "stroke-dasharray": "3 3" });
  });
  const what = `time of one ${rows[0].op === undefined ? "step" : "run"}${anyLog ? " (log scale)" : ""}`;
  label(svg, right, legend.height + rows.length * LANE + 10, what, { anchor: "end" });
  const head = ["device", "sample", "time"];
  const list = rows.flatMap((r) => samples(r).map((s, i) => [cell(r.device), cell(i + 1), cell(s, time)]));
  const summary = rows.map((r) => [cell(r.device), cell("median"), cell(r.seconds.median, time)]);
  return { svg, head, rows: [...summary, ...list] };
}
const rangeOf = (row) => `${row.interval_s ? "95 % interval" : "quartiles"} ${intervalOf(row).map(time).join(" to ")}`;
function linearTicks(low, high) {
  const step = niceStep((high - low) / 5);
  return Array.from({ length: 12 }, (_, i) => (Math.ceil(low / step) + i) * step).filter((t) => t <= high && t > 0);
}
function logTicks(low, high) {
  const powers = decades(Math.floor(Math.log10(low)), Math.ceil(Math.log10(high)));
  return powers.flatMap((p) => [1, 2, 5].map((d) => d * 10 ** p)).filter((t) => t >= low && t <= high);
}
