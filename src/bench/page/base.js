/* What all parts of the page use: numbers with units, elements, texts that stay inside their figure, marks and their tooltips. */
const R = DATA.report,
  C = DATA.comparisons;
const NS = "http://www.w3.org/2000/svg";
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
const byId = (id) => document.getElementById(id);
const unique = (values) => [...new Set(values)];
const finite = (x) => typeof x === "number" && Number.isFinite(x);
const clamp = (x, low, high) => Math.min(Math.max(x, low), Math.max(low, high));
const deviceIds = R.devices.map((d) => d.id);
const color = (id) => `var(--c${Math.max(0, deviceIds.indexOf(id)) % 8})`;
const PASSES = { forward: "forward", backward: "backward", step: "optimizer" };

/* Numbers with units. */
const digits = (x) => {
  if (x === 0) return "0";
  const size = Math.abs(x);
  return size >= 100 ? x.toFixed(0) : size >= 10 ? x.toFixed(1) : size >= 0.01 ? x.toPrecision(3) : x.toExponential(1);
};
const time = (s) => (s < 1e-3 ? digits(s * 1e6) + " µs" : s < 1 ? digits(s * 1e3) + " ms" : digits(s) + " s");
const PREFIXES = [
  [1e15, "P"],
  [1e12, "T"],
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
];
function rate(x, unit) {
  const [size, prefix] = PREFIXES.find(([size]) => x >= size * 0.9995) ?? [1, ""];
  return `${digits(x / size)} ${prefix}${unit}`;
}
/* The text of a round number, for axes: "10 ms", not "10.0 ms". */
const plain = (text) => text.replace(/^[\d.]+/, (n) => String(Number(n)));
const flopRate = (x) => rate(x, "FLOP/s");
const byteRate = (x) => rate(x, "B/s");
const count = (x) => Math.round(x).toLocaleString("en");
const bytes = (b) => (b >= 2 ** 30 ? digits(b / 2 ** 30) + " GiB" : b >= 2 ** 20 ? digits(b / 2 ** 20) + " MiB" : count(b) + " B");
const percent = (x) => (x < 9.95 ? x.toFixed(1) : x.toFixed(0)) + " %";
const words = (name) => String(name).replaceAll("_", " ");
/* A ratio in words: 1.46 is "1.46x faster", 0.5 is "2.00x slower". */
const speedup = (r) => (r >= 1 ? `${digits(r)}x faster` : `${digits(1 / r)}x slower`);

/* Elements. */
function node(name, attributes = {}, ...children) {
  const e = document.createElement(name);
  for (const [k, v] of Object.entries(attributes)) {
    if (k === "on") Object.entries(v).forEach(([event, f]) => e.addEventListener(event, f));
    else e.setAttribute(k, v);
  }
  e.append(...children.filter((c) => c !== null && c !== undefined));
  return e;
}
function shape(svg, name, attributes = {}) {
  const e = document.createElementNS(NS, name);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  svg.append(e);
  return e;
}
/* One unit of a canvas is one pixel of the screen, so that texts keep their size. */
function canvas(width, height, name) {
  const svg = document.createElementNS(NS, "svg");
  const attributes = { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": name, "font-family": FONT };
  for (const [k, v] of Object.entries(attributes)) svg.setAttribute(k, v);
  return svg;
}
const sizeOf = (svg) => svg.getAttribute("viewBox").split(" ").slice(2).map(Number);

/* Texts. A figure measures its texts before it places them. */
const pen = document.createElement("canvas").getContext("2d");
function widthOf(text, size = 12) {
  pen.font = `${size}px ${FONT}`;
  return pen.measureText(text).width;
}
const widest = (texts, size = 12) => Math.max(0, ...texts.map((t) => widthOf(t, size)));
function shorten(text, room, size = 12) {
  const whole = String(text);
  if (widthOf(whole, size) <= room) return whole;
  let n = whole.length - 1;
  while (n > 1 && widthOf(whole.slice(0, n).trimEnd() + "…", size) > room) n--;
  return whole.slice(0, n).trimEnd() + "…";
}
const EDGE = 2;
/* A text beside a point of a figure. If it does not fit there, it is moved, and if it is too long, it is shortened. */
function label(svg, x, y, text, { anchor = "start", size = 12, fill = "var(--dim)", room = Infinity, ...more } = {}) {
  const [width, height] = sizeOf(svg);
  const shown = shorten(text, Math.min(room, width - 2 * EDGE), size),
    w = widthOf(shown, size);
  const left = anchor === "end" ? x - w : anchor === "middle" ? x - w / 2 : x;
  const moved = clamp(left, EDGE, width - EDGE - w) - left;
  const attributes = { x: x + moved, y: clamp(y, size, height - 4), "font-size": size, fill, "text-anchor": anchor, ...more };
  shape(svg, "text", attributes).textContent = shown;
  return w;
}

/* A legend, drawn as a part of the figure, so that an exported picture has it too. Entries: text, mark, colour. */
const GLYPHS = {
  square: (svg, x, y, c) => shape(svg, "rect", { x: x - 5, y: y - 5, width: 10, height: 10, rx: 2, fill: c }),
  frame: (svg, x, y, c) =>
    shape(svg, "rect", { x: x - 4, y: y - 4, width: 8, height: 8, rx: 1, fill: "var(--card)", stroke: c, "stroke-width": 2 }),
  disc: (svg, x, y, c) => shape(svg, "circle", { cx: x, cy: y, r: 4.5, fill: c }),
  dot: (svg, x, y, c) => shape(svg, "circle", { cx: x, cy: y, r: 2.5, fill: c }),
  ring: (svg, x, y, c) => shape(svg, "circle", { cx: x, cy: y, r: 4, fill: "var(--card)", stroke: c, "stroke-width": 2 }),
  triangle: (svg, x, y, c) => shape(svg, "path", { d: `M${x} ${y - 5.5}L${x + 5} ${y + 4}L${x - 5} ${y + 4}Z`, fill: c }),
  diamond: (svg, x, y, c) => shape(svg, "path", { d: `M${x - 6} ${y}L${x} ${y - 5}L${x + 6} ${y}L${x} ${y + 5}Z`, fill: c }),
  line: (svg, x, y, c, dash = "") =>
    shape(svg, "line", { x1: x - 8, x2: x + 8, y1: y, y2: y, stroke: c, "stroke-width": 2, "stroke-dasharray": dash }),
};
function legendOf(entries, width) {
  const places = [];
  let x = 0,
    y = 0;
  for (const entry of entries) {
    const w = 24 + Math.min(widthOf(entry[0]), width - 28) + 14;
    if (x > 0 && x + w > width) [x, y] = [0, y + 18];
    places.push([x, y, entry]);
    x += w;
  }
  const height = entries.length ? y + 26 : 0;
  const draw = (svg) =>
    places.forEach(([x, y, [text, glyph, c, more]]) => {
      GLYPHS[glyph](svg, x + 10, y + 10, c, more);
      label(svg, x + 23, y + 14, text, { class: "legend" });
    });
  return { height, draw };
}

/* The tooltip of a mark, for pointers and for the keyboard; screen readers read the mark's own label. */
function showTip(text, x, y) {
  const tip = byId("tip");
  tip.textContent = text;
  tip.style.display = "block";
  tip.style.left = clamp(x + 12, 4, innerWidth - tip.offsetWidth - 8) + "px";
  tip.style.top = (y + tip.offsetHeight + 24 > innerHeight ? Math.max(4, y - tip.offsetHeight - 12) : y + 14) + "px";
}
const hideTip = () => {
  byId("tip").style.display = "none";
};
/* Makes a shape a mark: one datum, with a description, and with something to do if it is chosen. */
function mark(e, text, act) {
  e.classList.add("mark");
  e.setAttribute("role", act ? "button" : "img");
  e.setAttribute("aria-label", text);
  e.setAttribute("tabindex", "-1");
  const show = (event) => showTip(text, event.clientX, event.clientY);
  e.addEventListener("pointermove", show);
  e.addEventListener("pointerdown", show);
  e.addEventListener("pointerleave", hideTip);
  e.addEventListener("blur", hideTip);
  e.addEventListener("focus", () => {
    const box = e.getBoundingClientRect();
    showTip(text, Math.min(box.right, box.left + 40), box.bottom);
  });
  if (act) {
    e.setAttribute("data-act", "");
    e.addEventListener("click", act);
    e.act = act;
  }
  return e;
}
/* The tab key reaches a figure's first mark, the arrow keys move to its other marks, and Enter chooses a mark. */
function navigable(svg) {
  const marks = [...svg.querySelectorAll(".mark")];
  if (!marks.length) return;
  marks[0].setAttribute("tabindex", "0");
  svg.addEventListener("keydown", (event) => {
    const at = marks.indexOf(document.activeElement);
    if (at < 0) return;
    if (event.key === "Enter" || event.key === " ") {
      if (marks[at].act) {
        event.preventDefault();
        marks[at].act();
      }
      return;
    }
    const step = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: marks.length - 1 }[event.key];
    if (event.key === "Escape") hideTip();
    if (step === undefined) return;
    event.preventDefault();
    const next = marks[clamp(step, 0, marks.length - 1)];
    marks[at].setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
  });
}

/* Axes. */
const decades = (low, high) => Array.from({ length: Math.max(1, high - low + 1) }, (_, i) => low + i);
/* A distance of ticks: 1, 2 or 5 times a power of ten. */
function niceStep(v) {
  const power = 10 ** Math.floor(Math.log10(v));
  return power * (v / power < 1.5 ? 1 : v / power < 3.5 ? 2 : v / power < 7.5 ? 5 : 10);
}
/* Of tick labels in a figure of this width, those that have room: each at its place, centred, in order. At an edge a
   label stands where `label` moves it. */
function withRoom(ticks, at, text, width) {
  let end = -Infinity;
  return ticks.filter((t) => {
    const w = widthOf(text(t)),
      left = clamp(at(t) - w / 2, EDGE, width - EDGE - w);
    if (left < end + 8) return false;
    end = left + w;
    return true;
  });
}
