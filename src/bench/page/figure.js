/* Figures and tables. A figure has a heading, choices, a drawing, an export, and a table of the same numbers. */
const drawn = {};

/* draw(width, chosen) returns { svg, head, rows }, or nothing if no row fits the filters. */
function figure(id, title, about, choices, draw) {
  const selects = {};
  const tools = node("div", { class: "tools" });
  for (const [key, [name, options]] of Object.entries(choices)) {
    const select = node("select", { on: { change: () => redraw() } });
    options.forEach(([value, text]) => select.append(node("option", { value }, text)));
    selects[key] = select;
    if (options.length > 1) tools.append(node("label", { class: "field" }, name, select));
  }
  const place = node("div", { id });
  const save = (kind) => {
    const click = () => download(place.querySelector("svg"), id, kind);
    return node("button", { type: "button", "aria-label": `Save "${title}" as ${kind.toUpperCase()}`, on: { click } }, kind.toUpperCase());
  };
  tools.append(node("span", { class: "end" }, save("svg"), save("png")));
  const data = node("details", { class: "data" }, node("summary", {}, "Table of this figure"));
  const said = node("p", {}, about);
  byId("figures").append(node("section", {}, node("h2", {}, title), said, tools, place, data));
  const chosen = () => Object.fromEntries(Object.entries(selects).map(([k, s]) => [k, s.value]));
  let made = null;
  const fill = () => {
    data.querySelectorAll(".scroll").forEach((e) => e.remove());
    if (data.open && made) data.append(table(made.head, made.rows, title));
  };
  data.addEventListener("toggle", fill);
  function redraw() {
    hideTip();
    made = draw(Math.max(280, Math.floor(place.clientWidth)), chosen()) ?? null;
    place.replaceChildren(made ? made.svg : node("p", {}, "No measurement fits the filters."));
    if (made?.about) said.textContent = made.about;
    if (made) navigable(made.svg);
    fill();
  }
  drawn[id] = {
    redraw,
    select: (key, value) => {
      selects[key].value = value;
      redraw();
    },
  };
}
const redrawAll = () => Object.values(drawn).forEach((f) => f.redraw());

function download(svg, name, kind) {
  if (!svg) return;
  const text = standalone(svg);
  const give = (href) => node("a", { href, download: `tempra-${name}.${kind}` }).click();
  const url = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
  if (kind === "svg") return give(url);
  const image = new Image();
  image.onload = () => {
    const [w, h] = sizeOf(svg);
    const picture = node("canvas", { width: 2 * w, height: 2 * h });
    const g = picture.getContext("2d");
    g.scale(2, 2);
    g.drawImage(image, 0, 0, w, h);
    give(picture.toDataURL("image/png"));
  };
  image.src = url;
}
/* The drawing with its colours written out and the page's background behind it. */
function standalone(svg) {
  const copy = svg.cloneNode(true);
  const style = getComputedStyle(document.documentElement);
  const [width, height] = sizeOf(svg);
  const ground = document.createElementNS(NS, "rect");
  for (const [k, v] of Object.entries({ width, height, fill: "var(--card)" })) ground.setAttribute(k, v);
  copy.prepend(ground);
  copy.setAttribute("xmlns", NS);
  return new XMLSerializer().serializeToString(copy).replace(/var\((--\w+)\)/g, (_, v) => style.getPropertyValue(v).trim());
}

/* A cell: text, value to sort by, class. */
const cell = (v, show = String, kind = "") => (v === null || v === undefined || v === "" ? ["–", -Infinity, kind] : [show(v), v, kind]);

/* A table that its headings sort. */
function table(head, rows, name) {
  const body = node("tbody");
  const sorted = [...rows];
  const fill = () =>
    body.replaceChildren(
      ...sorted.map((row) => node("tr", {}, ...row.map(([text, , kind]) => node("td", kind ? { class: kind } : {}, text)))),
    );
  const heads = head.map((text, i) => {
    const click = () => {
      const down = th.getAttribute("aria-sort") === "ascending";
      heads.forEach((h) => h.removeAttribute("aria-sort"));
      th.setAttribute("aria-sort", down ? "descending" : "ascending");
      sorted.sort((a, b) => (a[i][1] > b[i][1] ? 1 : a[i][1] < b[i][1] ? -1 : 0) * (down ? -1 : 1));
      fill();
    };
    const th = node("th", { scope: "col" }, node("button", { type: "button", on: { click } }, text));
    return th;
  });
  fill();
  const whole = node("table", { "aria-label": name }, node("thead", {}, node("tr", {}, ...heads)), body);
  return node("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Table: ${name}` }, whole);
}
/* A section with a table of all rows that fit the filters. */
function listing(id, title, head, rows) {
  const place = node("div", { id });
  byId("figures").append(node("section", {}, node("h2", {}, title), place));
  drawn[id] = { redraw: () => place.replaceChildren(table(head, rows(), title)) };
}
