/* A comparison: one line for each measurement, with the interval of its ratio, on a logarithmic axis around 1. */
const VERDICTS = {
  faster: ["faster", "disc", "var(--faster)"],
  slower: ["slower", "disc", "var(--slower)"],
  same: ["same", "disc", "var(--same)"],
  cannot_tell: ["cannot tell", "ring", "var(--unsure)"],
  unusable: ["unusable: machine too busy", "frame", "var(--unsure)"],
};
const verdictOf = (p) => VERDICTS[p.verdict] ?? [words(p.verdict), "ring", "var(--unsure)"];
/* The ends of a speedup's interval. Without an upper end nothing is known. */
const ends = (p) => [p.low, p.high ?? Infinity];
const isSaid = (p) => (p.verdict === "faster" || p.verdict === "slower" ? speedup(p.speedup) : verdictOf(p)[0]);
const pairShown = (p) => (p.pass ? opAllowed(p) : allows(filter.model, p.model) && stepsAmongOps());

const ORDERS = {
  ratio: (a, b) => b.speedup - a.speedup,
  time: (a, b) => Math.abs(b.seconds[0] - b.seconds[1]) - Math.abs(a.seconds[0] - a.seconds[1]),
  name: (a, b) => (a.what > b.what ? 1 : -1),
};
/* Ticks at both sides of 1, as ratios. */
const RATIO_TICKS = [1.02, 1.05, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100, 300, 1000];
/* A wider axis could not show the rest. */
const WIDEST_RATIO = 1000;

function pairText(c, p) {
  const than = ["faster", "slower"].includes(p.verdict) ? `${c.other} is ${isSaid(p)} than ${c.base}` : `verdict: ${isSaid(p)}`;
  return [
    p.what,
    than,
    `speedup ${digits(p.speedup)}, 95 % interval ${p.high === null ? "unknown" : `${digits(p.low)} to ${digits(p.high)}`}`,
    `${c.base} ${time(p.seconds[0])}, ${c.other} ${time(p.seconds[1])}`,
  ].join("\n");
}

function ratioPlot(width, { which, order }) {
  const c = C[+which];
  const pairs = allows(filter.device, c.other) ? c.pairs.filter(pairShown).sort(ORDERS[order]) : [];
  if (!pairs.length) return null;
  const used = unique(pairs.map((p) => p.verdict));
  const legend = legendOf(
    [
      ...Object.keys(VERDICTS)
        .filter((v) => used.includes(v))
        .map((v) => {
          const [name, glyph, fill] = VERDICTS[v];
          return [`${name} (${pairs.filter((p) => p.verdict === v).length})`, glyph, fill];
        }),
      ["95 % interval", "line", "var(--dim)"],
      ["within 3 %", "square", "var(--band)"],
    ],
    width,
  );
  const narrow = width < 640,
    row = narrow ? 36 : 22;
  const models = unique(pairs.map((p) => p.model)),
    tokens = unique(pairs.filter((p) => p.pass && p.tokens).map((p) => p.tokens));
  const names = pairs.map((p) => shortName(p, models.length > 1, tokens.length > 1));
  const said = pairs.map((p) => (p.verdict === "unusable" ? "unusable" : isSaid(p)));
  const left = narrow ? 10 : Math.min(widest(names) + 14, width * 0.42);
  const right = widest(said) + 12;
  const top = legend.height + 38,
    height = top + pairs.length * row + 24;
  const svg = canvas(width, height, `Speed of ${c.other} compared with ${c.base}, ${pairs.length} measurements`);
  legend.draw(svg);

  const limit = Math.log(WIDEST_RATIO);
  const logs = pairs
    .flatMap((p) => [p.speedup, ...(p.verdict === "unusable" ? [] : ends(p))])
    .map((r) => clamp(Math.log(Math.max(r, 1e-9)), -limit, limit));
  const low = Math.min(...logs, -0.05) * 1.05,
    high = Math.max(...logs, 0.05) * 1.05;
  const X = (r) => left + ((clamp(Math.log(Math.max(r, 1e-9)), low, high) - low) / (high - low)) * (width - left - right);
  const bottom = height - 22;
  shape(svg, "rect", { x: X(1 / 1.03), y: top - 8, width: X(1.03) - X(1 / 1.03), height: bottom - top + 8, fill: "var(--band)" });
  const inside = (r) => Math.log(r) > low && Math.log(r) < high;
  const ticks = [...RATIO_TICKS.map((t) => 1 / t).reverse(), 1, ...RATIO_TICKS].filter(inside);
  const text = (r) => plain(digits(r >= 1 ? r : 1 / r)) + "x";
  const labelled = spread(ticks, X, text);
  ticks
    .filter((t) => labelled.includes(t))
    .forEach((t) => {
      shape(svg, "line", { x1: X(t), x2: X(t), y1: top - 8, y2: bottom, stroke: t === 1 ? "var(--dim)" : "var(--grid)" });
      label(svg, X(t), height - 8, text(t), { anchor: "middle" });
    });
  directions(svg, c.base, { left, right: width - right, one: X(1), y: top - 14 });
  pairs.forEach((p, i) => {
    const middle = top + i * row + (narrow ? 24 : 8),
      [, glyph, c1] = verdictOf(p),
      [a, b] = ends(p);
    if (narrow) label(svg, left, middle - 10, names[i], { fill: "var(--ink)" });
    else label(svg, left - 10, middle + 4, names[i], { anchor: "end", fill: "var(--ink)", room: left - 12 });
    const g = shape(svg, "g", { class: "pair" });
    // As wide as the plot, so that a pointer finds the row.
    shape(g, "rect", { x: left, y: middle - row / 2 + 1, width: width - left, height: row - 2, fill: "transparent" });
    shape(g, "line", { x1: X(a), x2: X(b), y1: middle, y2: middle, stroke: c1, "stroke-width": 2, class: "interval" });
    for (const end of [a, b]) {
      if (inside(end)) shape(g, "line", { x1: X(end), x2: X(end), y1: middle - 3.5, y2: middle + 3.5, stroke: c1, "stroke-width": 2 });
    }
    GLYPHS[glyph](g, X(p.speedup), middle, c1);
    label(svg, width - right + 8, middle + 4, said[i], { fill: "var(--ink)" });
    mark(g, pairText(c, p), drawn.samples && (() => chooseSamples(keyOfPair(p))));
  });
  const head = ["measurement", c.base, c.other, "speedup", "from", "to", `${c.other} is`];
  const rows = pairs.map((p) => {
    const kind = ["faster", "slower"].includes(p.verdict) ? p.verdict : "";
    return [
      cell(p.what),
      cell(p.seconds[0], time),
      cell(p.seconds[1], time),
      cell(p.speedup, digits),
      cell(p.low, digits),
      cell(p.high, digits),
      cell(isSaid(p), String, kind),
    ];
  });
  return { svg, head, rows, about: summary(c) };
}
/* The directions of the axis in words, on both sides of 1 where there is room, otherwise both at the edges. */
function directions(svg, base, { left, right, one, y }) {
  const slower = `← slower than ${base}`,
    faster = `faster than ${base} →`;
  const a = widthOf(slower),
    b = widthOf(faster);
  if (one - left > a + 8 && right - one > b + 8) {
    label(svg, one - 8, y, slower, { anchor: "end", class: "direction" });
    label(svg, one + 8, y, faster, { class: "direction" });
    return;
  }
  const room = (sizeOf(svg)[0] - 24) / 2;
  label(svg, EDGE, y, slower, { class: "direction", room });
  label(svg, sizeOf(svg)[0] - EDGE, y, faster, { anchor: "end", class: "direction", room });
}
/* Ticks with room for their labels; those nearest to 1 first give way, 1 itself stays. */
function spread(ticks, X, text) {
  const kept = [1];
  const clear = (t) => kept.every((k) => Math.abs(X(k) - X(t)) > (widthOf(text(k)) + widthOf(text(t))) / 2 + 8);
  const far = (t) => Math.abs(Math.log(t));
  [...ticks]
    .sort((a, b) => far(b) - far(a))
    .forEach((t) => {
      if (t !== 1 && clear(t)) kept.push(t);
    });
  return kept;
}
function summary(c) {
  const outcome =
    {
      same: `takes the same time as ${c.base} within 3 %`,
      cannot_tell: `may be faster or slower than ${c.base}: cannot tell`,
      unusable: "cannot be compared: the machine was too busy",
    }[c.verdict] ?? `is ${speedup(c.speedup)} than ${c.base}`;
  const machine =
    c.pace && Math.abs(Math.log(c.pace)) > 0.01
      ? ` The machine itself was ${percent(Math.abs(100 * (c.pace - 1)))} ${c.pace > 1 ? "faster" : "slower"} for ${c.other}.`
      : "";
  return (
    `${c.other} ${outcome}. Median speedup of ${c.pairs.length} measurements: ${digits(c.speedup)}, 95 % interval ` +
    `${c.high === null ? "unknown" : `${digits(c.low)} to ${digits(c.high)}`}.${machine} Choose a line to see its samples.`
  );
}
/* What a reader of a comparison has to know besides the speedups. */
function warnings(c) {
  const some = (all, text) =>
    all.length ? [`${text}: ${all.slice(0, 12).join("; ")}${all.length > 12 ? `; and ${all.length - 12} more` : ""}`] : [];
  return [
    ...c.differences.map((d) => `Another ${d.what}: ${d.base} (${c.base}), ${d.other} (${c.other})`),
    ...c.incomplete.map((i) => `${i.device} is incomplete: ${i.why}`),
    ...c.planted.map((p) => `Slowed down on purpose: ${p}`),
    ...(c.doubt ? [`Unreliable: ${c.doubt}`] : []),
    ...some(
      c.refused.map((r) => `${r.what} (${r.why})`),
      "Not compared, because it is not the same work",
    ),
    ...[c.base, c.other].flatMap((id) =>
      some(
        c.missing.filter((m) => m.from === id).map((m) => m.what),
        `Missing from ${id}`,
      ),
    ),
  ];
}
