/* Models of one task: score against what a model costs. */
const P = DATA.pareto;
const interval = (low, high, show) => `95 % interval ${show(low)} to ${show(high)}`;
const score = (x) => (finite(x) ? x.toFixed(4) : "unknown");
/* What a model costs: name, value, how it is written, whether less is better. */
const COSTS = {
  latency_1: ["Time of a pass with 1 text", (m) => m.latency_1.seconds.median, time],
  latency_32: ["Time of a pass with 32 texts", (m) => m.latency_32.seconds.median, time],
  per_text: ["Time per text at full load", (m) => 1 / m.texts_per_s, time],
  parameters: ["Parameters", (m) => m.parameters, (x) => rate(x, "").trim()],
  file_bytes: ["Size of the weight files", (m) => m.file_bytes, bytes],
  peak_bytes: ["Peak memory", (m) => m.peak_bytes, bytes],
};
const better = (a, b) => (P.higher_is_better ? a - b : b - a);
const dominated = (m, all, of) =>
  all.some((o) => better(o.score, m.score) >= 0 && of(o) <= of(m) && (better(o.score, m.score) > 0 || of(o) < of(m)));

function modelText(m) {
  const times = (name, t) =>
    `${name}: ${time(t.seconds.median)}${t.interval_s ? `, ${interval(...t.interval_s, time)}` : ""}`;
  return [
    m.model,
    `${words(P.metric)} ${score(m.score)}, ${interval(...m.interval, score)}`,
    times("1 text", m.latency_1),
    times("32 texts", m.latency_32),
    `${digits(m.texts_per_s)} texts/s`,
    `${count(m.parameters)} parameters, files of ${bytes(m.file_bytes)}`,
    finite(m.peak_bytes) ? `peak memory ${bytes(m.peak_bytes)}` : "peak memory unknown",
  ].join("\n");
}

/* Ticks of a linear axis. */
function ticksOf(low, high, about) {
  const step = niceStep((high - low) / about),
    first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.max(0, Math.floor(high / step + 1e-9) - first + 1) }, (_, i) => (first + i) * step);
}

function scatter(width, { cost }) {
  const [name, of, show] = COSTS[cost];
  const rows = P.models.filter((m) => finite(m.score) && finite(of(m)));
  if (!rows.length) return null;
  const front = rows.filter((m) => !dominated(m, rows, of)).sort((a, b) => of(a) - of(b));
  const legend = legendOf(
    [
      ["on the Pareto front", "disc", "var(--c0)"],
      ...(front.length < rows.length ? [["another model is at least as good and costs no more", "ring", "var(--dim)"]] : []),
      ["95 % interval of the score", "line", "var(--dim)"],
    ],
    width,
  );
  const ends = rows.flatMap((m) => [m.score, ...m.interval.filter(finite)]);
  const reach = Math.max(Math.max(...ends) - Math.min(...ends), 0.01);
  const y0 = Math.min(...ends) - 0.08 * reach,
    y1 = Math.max(...ends) + 0.08 * reach;
  const x1 = 1.15 * Math.max(...rows.map(of));
  const plot = clamp(width * 0.5, 320, 520),
    top = legend.height + 26,
    bottom = legend.height + plot - 44;
  const rises = ticksOf(y0, y1, 6);
  const places = clamp(-Math.floor(Math.log10(niceStep((y1 - y0) / 6))), 0, 4);
  const left = widest(rises.map((t) => t.toFixed(places))) + 12,
    right = 14;
  const x = (v) => left + ((width - left - right) * v) / x1,
    y = (v) => bottom - ((bottom - top) * (v - y0)) / (y1 - y0);
  const svg = canvas(width, legend.height + plot, `${words(P.metric)} by ${name.toLowerCase()}`);
  legend.draw(svg);
  rises.forEach((t) => {
    shape(svg, "line", { x1: left, x2: width - right, y1: y(t), y2: y(t), stroke: "var(--grid)" });
    label(svg, left - 6, y(t) + 4, t.toFixed(places), { anchor: "end" });
  });
  label(svg, left, top - 10, words(P.metric), { anchor: "start" });
  withRoom(ticksOf(0, x1, width < 640 ? 4 : 8), x, (t) => plain(show(t)), width).forEach((t) => {
    shape(svg, "line", { x1: x(t), x2: x(t), y1: top, y2: bottom, stroke: "var(--grid)" });
    label(svg, x(t), bottom + 18, t === 0 ? "0" : plain(show(t)), { anchor: "middle" });
  });
  label(svg, width - right, bottom + 38, name, { anchor: "end" });
  /* The best score for at most so much: a step at each model of the front. */
  const steps = front.map((m, i) => `${i ? `H${x(of(m))}V` : `M${x(of(m))} `}${y(m.score)}`).join("");
  shape(svg, "path", { d: `${steps}H${width - right}`, fill: "none", stroke: "var(--c0)", "stroke-width": 1.5, opacity: 0.6 });
  const taken = [];
  const free = (box) => taken.every((b) => box[0] > b[1] || box[1] < b[0] || box[2] > b[3] || box[3] < b[2]);
  rows.forEach((m) => taken.push([x(of(m)) - 6, x(of(m)) + 6, y(m.score) - 6, y(m.score) + 6]));
  rows.forEach((m) => {
    const on = front.includes(m);
    const [low, high] = m.interval;
    if (finite(low) && finite(high))
      shape(svg, "line", { x1: x(of(m)), x2: x(of(m)), y1: y(low), y2: y(high), stroke: "var(--dim)", "stroke-width": 1.5 });
    mark(GLYPHS[on ? "disc" : "ring"](svg, x(of(m)), y(m.score), on ? "var(--c0)" : "var(--dim)"), modelText(m));
  });
  /* A name stands where it hides nothing; the table of the figure and the marks have them all. */
  rows.forEach((m) => {
    const w = widthOf(m.model),
      px = x(of(m)),
      py = y(m.score);
    const spots = [
      [px + 9, py - 6],
      [px + 9, py + 15],
      [px - 9 - w, py - 6],
      [px - 9 - w, py + 15],
    ];
    const spot = spots.find(
      ([a, b]) => a >= left && a + w <= width - right && b - 11 >= top && b + 3 <= bottom && free([a, a + w, b - 11, b + 3]),
    );
    if (!spot) return;
    taken.push([spot[0], spot[0] + w, spot[1] - 11, spot[1] + 3]);
    label(svg, spot[0], spot[1], m.model, { fill: "var(--ink)" });
  });
  return {
    svg,
    head: ["model", words(P.metric), name, "on the front"],
    rows: rows.map((m) => [cell(m.model), cell(m.score, score), cell(of(m), show), cell(front.includes(m) ? "yes" : "no")]),
  };
}

const machine = P.machine;
byId("filters").remove();
byId("when").textContent =
  `${P.examples} examples of ${P.data}, task ${P.task}, on ${P.device}: ${machine.cpu}, ${machine.cpus} CPU cores, ${machine.os}. ` +
  "Point at a mark for its numbers; with the keyboard, the tab key reaches a figure and the arrow keys its marks.";
figure(
  "pareto",
  "Score and cost",
  `Times are medians of ${P.rounds} rounds, in which the models take turns, from token ids to outputs. A model on the Pareto front has a ` +
    "better score than every model that costs no more.",
  { cost: ["Cost", Object.entries(COSTS).map(([key, [name]]) => [key, name])] },
  scatter,
);
listing(
  "models",
  "Models",
  ["model", words(P.metric), "95 % interval", ...Object.values(COSTS).map(([name]) => name)],
  () =>
    P.models.map((m) => [
      cell(m.model),
      cell(m.score, score),
      cell(m.interval[0], () => `${score(m.interval[0])} to ${score(m.interval[1])}`),
      ...Object.values(COSTS).map(([, of, show]) => cell(of(m), show)),
    ]),
);
redrawAll();
