/* The page: devices, notices, figures, tables. */

/* Any value of a result as rows of name and text, whatever its depth. */
function flatten(value, name = "") {
  const unit = (x) => {
    if (name.endsWith("begun")) return when(x);
    if (name.endsWith("flops_per_s")) return flopRate(x);
    if (name.endsWith("bytes_per_s")) return byteRate(x);
    if (name.endsWith("bytes")) return bytes(x);
    if (name.endsWith("_s")) return time(x);
    return Number.isInteger(x) ? String(x) : digits(x);
  };
  // Names of environment variables stay as they are.
  const said = name
    .split(" ")
    .map((part) => (part === part.toUpperCase() ? part : words(part)))
    .join(" ");
  if (value === null || value === undefined || value === "") return [];
  if (typeof value === "number") return [[said, unit(value)]];
  if (Array.isArray(value) && value.every((v) => v === null || typeof v !== "object")) {
    return value.length ? [[said, value.map((v) => (finite(v) ? unit(v) : v)).join(name.endsWith("command") ? " " : ", ")]] : [];
  }
  if (typeof value === "object") return Object.entries(value).flatMap(([k, v]) => flatten(v, name ? `${name} ${k}` : k));
  return [[said, String(value)]];
}
const when = (seconds) => new Date(1000 * seconds).toISOString().slice(0, 16).replace("T", " ") + " UTC";
function machineText(m) {
  const load = finite(m.load_before)
    ? `load average ${digits(m.load_before)} before${finite(m.load_after) ? `, ${digits(m.load_after)} after` : ""}`
    : null;
  return [m.cpu, `${m.cpus} CPU cores`, m.memory_bytes ? bytes(m.memory_bytes) : null, m.os, load].filter(Boolean).join(", ");
}
function card(d) {
  const c = d.ceilings,
    machine = d.machine;
  const ceilings =
    c &&
    [`matmul ${flopRate(c.matmul_flops_per_s)}`, `copy ${byteRate(c.copy_bytes_per_s)}`]
      .map((s) => s.replaceAll(" ", "\u00a0"))
      .join(", ");
  const { id, ceilings: _, machine: __, ...rest } = d;
  const { copy_samples_bytes_per_s: ___, matmul_samples_flops_per_s: ____, ...measured } = c ?? {};
  const peak = c?.nameplate;
  const specified =
    peak &&
    [
      ["matmul", peak.matmul_flops_per_s, flopRate],
      ["copy", peak.copy_bytes_per_s, byteRate],
    ]
      .filter(([, rate]) => rate > 0)
      .map(([name, rate, show]) => `${name} ${show(rate)}`)
      .join(", ");
  const facts = [...flatten(rest), ...flatten(machine, "machine"), ...flatten(measured, "ceilings")];
  byId("cards").append(
    node(
      "section",
      { class: "device", style: `border-left-color:${color(id)}`, "aria-label": id },
      node("h2", {}, id),
      node("p", {}, [d.tool, d.description, d.dtype, d.memory_bytes ? bytes(d.memory_bytes) : null].filter(Boolean).join(", ")),
      node("p", {}, machineText(machine)),
      c ? node("div", { class: "big" }, ceilings) : null,
      c ? node("p", {}, "Ceilings measured in the same run") : null,
      specified ? node("p", {}, `Peak by the specification: ${specified}`) : null,
      node(
        "details",
        {},
        node("summary", {}, "Provenance"),
        node("dl", {}, ...facts.flatMap(([k, v]) => [node("dt", {}, k), node("dd", {}, v)])),
      ),
    ),
  );
}
function notice(title, items) {
  byId("notices").append(node("section", { class: "notice" }, node("h2", {}, title), ...items.map((t) => node("p", {}, t))));
}

byId("when").textContent =
  `Measured ${when(R.begun)}. Point at a mark for its numbers; ` +
  "with the keyboard, the tab key reaches a figure and the arrow keys its marks.";
if (!R.complete) notice("Incomplete", [R.stopped || "stopped early"]);
C.forEach((c) => {
  if (warnings(c).length) notice(`${c.other} compared with ${c.base}`, warnings(c));
});
R.devices.forEach(card);
makeFilters();

if (C.length)
  figure(
    "ratio",
    "Speed compared",
    "",
    {
      which: ["Comparison", C.map((c, i) => [i, `${c.other} compared with ${c.base}`])],
      order: [
        "Order",
        [
          ["ratio", "by ratio"],
          ["time", "by difference in time"],
          ["name", "by name"],
        ],
      ],
    },
    ratioPlot,
  );
if (R.ops.length) {
  figure(
    "roofline",
    "Roofline",
    "Each point is one pass of one op: its FLOP/s by its FLOP per byte. " +
      "A point above the lines was faster than the copy or the matmul that measured the ceilings.",
    {
      labels: [
        "Names of points",
        [
          ["all", "where there is room"],
          ["none", "none"],
        ],
      ],
    },
    roofline,
  );
  const metrics = Object.entries(METRICS).filter(([, [, of]]) => R.ops.some((o) => of(o) > 0));
  figure(
    "bars",
    "Ops by device",
    "Medians. With a cold cache, the operands come from memory; with a warm cache, each run uses the operands of the run before.",
    { metric: ["Metric", metrics.map(([k, [name]]) => [k, name])] },
    bars,
  );
}
if (measurements.size)
  figure(
    "samples",
    "Samples of one measurement",
    "How the times of the samples are distributed.",
    {
      key: ["Measurement", [...measurements].map(([key, rows]) => [key, nameOf(rows[0])])],
      axis: [
        "Axis",
        [
          ["own", "one for each device"],
          ["shared", "the same for all"],
        ].slice(0, R.devices.length > 1 ? 2 : 1),
      ],
    },
    histograms,
  );
const whole = R.steps.map((s, i) => [i, s]).filter(([, s]) => s.work.length || s.phases.forward > 0);
if (whole.length)
  figure(
    "waterfall",
    "A training step",
    "Time by phase or by op. Ops are timed one at a time; the rest of the step is idle.",
    {
      by: [
        "By",
        [
          ["phase", "phase"],
          ["op", "op"],
        ].filter(([by]) => by === "phase" || whole.every(([, s]) => s.work.length)),
      ],
      step: ["Step", whole.map(([i, s]) => [i, stepName(s)])],
    },
    waterfall,
  );
for (const [part, title] of [
  ["batch", "Batch size"],
  ["length", "Sequence length"],
]) {
  const metrics = Object.entries(SWEEPS).filter(([, [, of]]) => R.steps.some((s) => s.part === part && of(s) > 0));
  if (metrics.length)
    figure(
      `sweep-${part}`,
      title,
      "A training step at each size (medians).",
      { what: ["Metric", metrics.map(([k, [name]]) => [k, name])] },
      sweepOf(part),
    );
}
if (R.steps.some((s) => s.part === "padded"))
  figure(
    "padding",
    "Packing and padding",
    "The same texts packed without padding, and padded to the longest text. Padding does not count as tokens.",
    {},
    padding,
  );

if (R.ops.length)
  listing(
    "ops",
    "Every op",
    ["op", "device", "model", "tokens", "pass", "median", "from", "to", "warm cache", "B/s", "FLOP/s", "% of ceiling", "launches", "notes"],
    () =>
      shownOps().map((o) => [
        cell(`${o.op} ${o.role}`),
        cell(o.device),
        cell(o.model),
        cell(o.tokens || null, count),
        cell(PASSES[o.pass]),
        cell(o.seconds.median, time),
        ...intervalOf(o).map((s) => cell(s, time)),
        cell(o.warm_s?.median, time),
        cell(perSecond(o, "bytes"), byteRate),
        cell(perSecond(o, "flops"), flopRate),
        cell(o.percent, percent),
        cell(o.launches, digits),
        cell([o.beyond_cache ? null : "in cache", slowdowns(o) ? `slowed down: ${slowdowns(o)}` : null].filter(Boolean).join("; ")),
      ]),
  );
if (R.steps.length)
  listing(
    "steps",
    "Every training step",
    ["step", "device", "model", "sequences", "length", "median", "from", "to", "tokens/s", "FLOP/s", "% of peak", "peak memory"],
    () =>
      shownSteps().map((s) => [
        cell(s.part),
        cell(s.device),
        cell(s.model),
        cell(s.sequences),
        cell(s.length),
        cell(s.seconds.median, time),
        ...intervalOf(s).map((t) => cell(t, time)),
        cell(s.tokens_per_s, count),
        cell(s.flops > 0 ? s.flops / s.seconds.median : null, flopRate),
        cell(finite(s.share_of_peak) ? 100 * s.share_of_peak : null, percent),
        cell(s.peak_bytes, bytes),
      ]),
  );
const slowed = [...R.ops, ...R.steps].filter(slowdowns);
if (slowed.length)
  notice("Measured on a slowed GPU", [
    `Heat or the power supply slowed the GPU down during ${slowed.length} measurements: ${slowed
      .slice(0, 12)
      .map((r) => `${nameOf(r)} on ${r.device} (${slowdowns(r)})`)
      .join("; ")}`,
  ]);
if (R.skipped.length)
  notice(
    "Not measured",
    R.skipped.map((s) => `${s.device}: ${s.what}: ${s.why}`),
  );

filtered();
