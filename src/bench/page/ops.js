/* Ops: the roofline (Williams, Waterman and Patterson 2009), and bars by device. */
const perSecond = (o, amount) => o[amount] / o.seconds.median;
/* Why heat or the power supply slowed a GPU down during a measurement, if they did. */
const slowdowns = (r) => r.clocks?.slowdowns?.map(words).join(", ");
function opText(o) {
  const lines = [
    `${o.op} ${o.role}, ${PASSES[o.pass]}`,
    `${o.model}${o.tokens ? `, ${count(o.tokens)} tokens` : ""} on ${o.device}`,
    `${time(o.seconds.median)} median, ${rangeOf(o)}`,
    `${o.samples} samples of ${o.repeats} runs`,
    `${flopRate(perSecond(o, "flops"))}, ${byteRate(perSecond(o, "bytes"))}`,
  ];
  if (finite(o.warm_s?.median)) lines.push(`${time(o.warm_s.median)} with a warm cache`);
  if (finite(o.percent)) lines.push(`${percent(o.percent)} of the ${o.bound === "matmul" ? "matmul" : "copy"} ceiling`);
  if (!o.beyond_cache) lines.push("the operands fit into the cache");
  if (o.kernels?.length) lines.push(`kernels: ${o.kernels.join(", ")}`);
  if (o.timing) lines.push(`timed as ${o.timing}`);
  if (slowdowns(o)) lines.push(`the GPU was slowed down: ${slowdowns(o)}`);
  return lines.join("\n");
}

function roofline(width, { labels }) {
  const rows = shownOps().filter((o) => o.flops > 0 && o.bytes > 0);
  if (!rows.length) return null;
  const roofs = R.devices.filter((d) => d.ceilings && rows.some((o) => o.device === d.id));
  const nameplates = roofs.filter(({ ceilings: { nameplate } }) => nameplate?.matmul_flops_per_s > 0 && nameplate.copy_bytes_per_s > 0);
  const has = (test) => rows.some(test);
  const legend = legendOf(
    [
      ...unique(rows.map((o) => o.device)).map((id) => [id, "square", color(id)]),
      ...[
        [(o) => o.pass === "forward", "forward", "disc"],
        [(o) => o.pass === "backward", "backward", "ring"],
        [(o) => o.pass === "step", "optimizer", "triangle"],
        [(o) => !o.beyond_cache, "small: the operands fit into the cache", "dot"],
      ]
        .filter(([test]) => has(test))
        .map(([, name, glyph]) => [name, glyph, "var(--dim)"]),
      ...(roofs.length ? [["measured ceilings", "line", "var(--dim)"]] : []),
      ...(nameplates.length ? [["peak by the specification", "line", "var(--dim)", "5 4"]] : []),
    ],
    width,
  );
  const plot = clamp(width * 0.52, 340, 560),
    bottom = legend.height + plot - 40,
    top = legend.height + 26;
  const svg = canvas(width, legend.height + plot, "Roofline: FLOP/s by arithmetic intensity");
  legend.draw(svg);
  const xs = rows.map((o) => o.flops / o.bytes),
    ys = rows.map((o) => perSecond(o, "flops")),
    lg = Math.log10;
  const ridges = roofs.map((d) => d.ceilings.matmul_flops_per_s / d.ceilings.copy_bytes_per_s);
  const peaks = [...roofs.map((d) => d.ceilings), ...nameplates.map((d) => d.ceilings.nameplate)].map((c) => c.matmul_flops_per_s);
  const x0 = Math.floor(lg(Math.min(...xs))),
    x1 = Math.ceil(lg(Math.max(...xs, ...ridges.map((r) => 3 * r)) * 1.2));
  const y0 = Math.floor(lg(Math.min(...ys))),
    y1 = Math.ceil(lg(Math.max(...ys, ...peaks) * 1.2));
  const rises = decades(y0, y1),
    left = widest(rises.map((p) => plain(flopRate(10 ** p)))) + 10,
    right = 14;
  const X = (v) => left + ((lg(v) - x0) / (x1 - x0)) * (width - left - right),
    Y = (v) => bottom - ((lg(v) - y0) / (y1 - y0)) * (bottom - top);
  const intensity = (p) => (p < 0 ? (10 ** p).toFixed(-p) : count(10 ** p));
  const across = decades(x0, x1),
    labelled = withRoom(across, (p) => X(10 ** p), intensity, width);
  for (const p of across) {
    shape(svg, "line", { x1: X(10 ** p), x2: X(10 ** p), y1: top, y2: bottom, stroke: "var(--grid)" });
    if (labelled.includes(p)) label(svg, X(10 ** p), bottom + 16, intensity(p), { anchor: "middle" });
  }
  for (const p of rises) {
    shape(svg, "line", { x1: left, x2: width - right, y1: Y(10 ** p), y2: Y(10 ** p), stroke: "var(--grid)" });
    label(svg, left - 6, Y(10 ** p) + 4, plain(flopRate(10 ** p)), { anchor: "end" });
  }
  label(svg, width - right, bottom + 34, "arithmetic intensity (FLOP per byte)", { anchor: "end" });
  const taken = new Boxes({ left, right: width - right, top, bottom });
  xs.forEach((x, i) => taken.add(X(x) - 5, Y(ys[i]) - 5, 10, 10));
  const roofOf = ({ matmul_flops_per_s: peak, copy_bytes_per_s: copy }) => {
    const from = Math.max(10 ** x0, 10 ** y0 / copy),
      ridge = Math.min(peak / copy, 10 ** x1);
    return [
      [from, from * copy],
      [ridge, Math.min(peak, ridge * copy)],
      [10 ** x1, Math.min(peak, 10 ** x1 * copy)],
    ].map(([a, b]) => [X(a), Y(b)]);
  };
  for (const d of roofs) taken.line(roofOf(d.ceilings));
  for (const d of nameplates) {
    const line = {
      points: roofOf(d.ceilings.nameplate)
        .map((p) => p.join(","))
        .join(" "),
      fill: "none",
      stroke: color(d.id),
      class: "roof",
    };
    const { matmul_flops_per_s: peak, copy_bytes_per_s: copy, how } = d.ceilings.nameplate;
    const text = `${d.id}, peak by the specification\ncopy ${byteRate(copy)}\nmatmul ${flopRate(peak)}\n${how}`;
    mark(shape(svg, "polyline", { ...line, "stroke-dasharray": "5 4", "stroke-width": 1.5 }), text);
  }
  for (const d of roofs) {
    const { matmul_flops_per_s: peak, copy_bytes_per_s: copy } = d.ceilings,
      points = roofOf(d.ceilings)
        .map((p) => p.join(","))
        .join(" ");
    const line = { points, fill: "none", stroke: color(d.id), "stroke-width": 2, "stroke-linejoin": "round", class: "roof" };
    mark(shape(svg, "polyline", line), `${d.id}, measured ceilings\ncopy ${byteRate(copy)}\nmatmul ${flopRate(peak)}`);
    const name = `${d.id}: ${flopRate(peak)}, ${byteRate(copy)}`;
    const places = [-5, 14, -20, 30, -36, 46].map((dy) => [width - right, Y(peak) + dy, "end"]);
    taken.label(svg, name, places, { fill: color(d.id), class: "roof-label" });
  }
  rows.forEach((o, i) => {
    const x = X(xs[i]),
      y = Y(ys[i]),
      c = color(o.device),
      r = o.beyond_cache ? 4.5 : 2.5;
    const at = { fill: o.pass === "backward" ? "var(--card)" : c, stroke: c, "stroke-width": 1.6, class: "point" };
    const triangle = { d: `M${x} ${y - r - 1}L${x + r + 0.5} ${y + r - 0.5}L${x - r - 0.5} ${y + r - 0.5}Z` };
    const e = o.pass === "step" ? shape(svg, "path", { ...triangle, ...at }) : shape(svg, "circle", { cx: x, cy: y, r, ...at });
    mark(e, opText(o), () => chooseSamples(keyOf(o)));
  });
  // The slowest ops are named first, the others where there is room.
  const slowest = rows.map((o, i) => [o, i]).sort(([a], [b]) => b.seconds.median - a.seconds.median);
  const passes = unique(rows.map((o) => o.pass)).length > 1;
  if (labels !== "none")
    for (const [o, i] of slowest) {
      const x = X(xs[i]),
        y = Y(ys[i]);
      const places = [
        [x + 8, y + 4, "start"],
        [x - 8, y + 4, "end"],
        [x, y - 8, "middle"],
        [x, y + 16, "middle"],
      ];
      taken.label(svg, `${o.op} ${o.role}${passes && o.pass === "backward" ? " (backward)" : ""}`, places, {
        size: 11,
        fill: "var(--ink)",
        class: "point-label",
      });
    }
  const head = ["op", "device", "FLOP per byte", "FLOP/s", "B/s", "% of ceiling"];
  const data = rows.map((o, i) => [
    cell(nameOf(o)),
    cell(o.device),
    cell(xs[i], digits),
    cell(ys[i], flopRate),
    cell(perSecond(o, "bytes"), byteRate),
    cell(o.percent, percent),
  ]);
  return { svg, head, rows: data };
}
/* Boxes that labels must not cover. */
class Boxes {
  constructor(bounds) {
    this.bounds = bounds;
    this.all = [];
  }
  add(x, y, w, h) {
    this.all.push([x, y, x + w, y + h]);
  }
  /* A line as many small boxes. */
  line(points) {
    points.slice(1).forEach(([x1, y1], i) => {
      const [x0, y0] = points[i],
        n = Math.ceil(Math.hypot(x1 - x0, y1 - y0) / 6);
      for (let k = 0; k <= n; k++) this.add(x0 + ((x1 - x0) * k) / n - 1, y0 + ((y1 - y0) * k) / n - 1, 2, 2);
    });
  }
  /* Places a label at the first of the places where nothing else is. */
  label(svg, text, places, more) {
    const size = more.size ?? 12,
      w = widthOf(text, size),
      { left, right, top, bottom } = this.bounds;
    for (const [x, y, anchor] of places) {
      const x0 = (anchor === "end" ? x - w : anchor === "middle" ? x - w / 2 : x) - 2,
        y0 = y - size,
        x1 = x0 + w + 4,
        y1 = y + 4;
      if (x0 < left || x1 > right + 2 || y0 < top - 14 || y1 > bottom) continue;
      if (this.all.some(([a, b, c, d]) => x0 < c && x1 > a && y0 < d && y1 > b)) continue;
      this.all.push([x0, y0, x1, y1]);
      label(svg, x, y, text, { anchor, ...more });
      return;
    }
  }
}

/* What bars can show: name, value, text, whether the axis is logarithmic, interval of the value. */
const spanOf = (o, f) => o.interval_s?.map(f).sort((a, b) => a - b);
const METRICS = {
  time: ["time, cold cache", (o) => o.seconds.median, time, true, (o) => spanOf(o, (s) => s)],
  warm: ["time, warm cache", (o) => o.warm_s?.median, time, true, () => null],
  flops: ["FLOP/s", (o) => perSecond(o, "flops"), flopRate, false, (o) => spanOf(o, (s) => o.flops / s)],
  bytes: ["B/s", (o) => perSecond(o, "bytes"), byteRate, false, (o) => spanOf(o, (s) => o.bytes / s)],
  percent: ["percent of the device's ceiling", (o) => o.percent, percent, false, () => null],
};
function bars(width, { metric }) {
  const [name, of, show, log, span] = METRICS[metric];
  const rows = shownOps().filter((o) => of(o) > 0);
  if (!rows.length) return null;
  const models = unique(rows.map((o) => o.model)),
    tokens = unique(rows.map((o) => o.tokens).filter(Boolean));
  const title = (o) => shortName(o, models.length > 1, tokens.length > 1);
  const groups = new Map();
  for (const o of rows) {
    const key = keyOf(o);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(o);
  }
  const devices = unique(rows.map((o) => o.device));
  const whiskers = rows.some((o) => span(o));
  const legend = legendOf(
    [...devices.map((id) => [id, "square", color(id)]), ...(whiskers ? [["95 % interval", "line", "var(--ink)"]] : [])],
    width,
  );
  const narrow = width < 640,
    bar = 11,
    head = narrow ? 17 : 0,
    gap = 9;
  const values = rows.map(of),
    texts = values.map(show);
  const left = narrow ? 8 : Math.min(widest(rows.map(title)) + 12, width * 0.42),
    room = width - left - widest(texts, 11) - 12;
  const heights = [...groups.values()].map((g) => head + g.length * (bar + 3) + gap);
  const top = legend.height + 18,
    svg = canvas(width, top + heights.reduce((a, b) => a + b, 0) + 4, `Ops by device: ${name}`);
  legend.draw(svg);
  label(svg, left, legend.height + 10, name + (log ? " (log scale)" : ""));
  const ends = rows.flatMap((o) => [of(o), ...(span(o) ?? [])]);
  const most = Math.max(...ends),
    least = Math.min(...ends);
  const L = (v) => clamp((log ? (Math.log10(v / least) + 0.3) / (Math.log10(most / least) + 0.3) : v / most) * room, 2, room);
  let y = top;
  [...groups.values()].forEach((group, i) => {
    const middle = y + (group.length * (bar + 3)) / 2 + 3;
    if (narrow) label(svg, left, y + 11, title(group[0]), { fill: "var(--ink)" });
    else label(svg, left - 8, middle, title(group[0]), { anchor: "end", fill: "var(--ink)", room: left - 10 });
    group.forEach((o, j) => {
      const at = y + head + j * (bar + 3),
        w = L(of(o)),
        ends = span(o);
      const rect = shape(svg, "rect", { x: left, y: at, width: w, height: bar, rx: 2, fill: color(o.device), class: "bar" });
      mark(rect, opText(o), () => chooseSamples(keyOf(o)));
      let end = w;
      if (ends) {
        end = Math.max(end, L(ends[1]));
        shape(svg, "line", {
          x1: left + L(ends[0]),
          x2: left + L(ends[1]),
          y1: at + bar / 2,
          y2: at + bar / 2,
          stroke: "var(--ink)",
          "stroke-width": 1.5,
          "pointer-events": "none",
        });
      }
      label(svg, left + end + 5, at + bar - 1.5, show(of(o)), { size: 11 });
    });
    y += heights[i];
  });
  const data = rows.map((o) => [
    cell(nameOf(o)),
    cell(o.device),
    cell(of(o), show),
    ...(span(o) ?? [null, null]).map((v) => cell(v, show)),
  ]);
  return { svg, head: ["op", "device", name, "from", "to"], rows: data };
}
