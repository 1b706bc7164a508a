/* The filters of the page: by device, model, number of tokens, pass and op. They apply to every figure and table. */
const filter = { op: "", device: new Set(), model: new Set(), tokens: new Set(), pass: new Set() };
/* Nothing chosen means everything. */
const allows = (chosen, value) => !chosen.size || chosen.has(String(value));

/* Words separated by commas: each a part of the op's name and role, or a pattern of the whole name with *. */
function opFits(op, role) {
  const patterns = filter.op
    .toLowerCase()
    .split(",")
    .map((p) => p.trim())
    .filter(Boolean);
  const name = `${op} ${role}`.toLowerCase();
  const glob = (p) => new RegExp(`^${p.replace(/[.+?^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*")}$`);
  return (
    !patterns.length || patterns.some((p) => (p.includes("*") ? glob(p).test(op.toLowerCase()) || glob(p).test(name) : name.includes(p)))
  );
}
/* A row of an op, or a pair of such rows. Ops that do not depend on the number of tokens have 0 tokens. */
const opAllowed = (o) =>
  opFits(o.op, o.role) && allows(filter.model, o.model) && (!o.tokens || allows(filter.tokens, o.tokens)) && allows(filter.pass, o.pass);
const opShown = (o) => allows(filter.device, o.device) && opAllowed(o);
const stepShown = (s) => allows(filter.device, s.device) && allows(filter.model, s.model);
/* Filters by op, tokens and pass select ops, so they hide training steps among them. */
const stepsAmongOps = () => !filter.op.trim() && !filter.tokens.size && !filter.pass.size;
const shownOps = () => R.ops.filter(opShown);
const shownSteps = () => R.steps.filter(stepShown);

function chips(name, title, values, text = String) {
  if (values.length < 2) return null;
  const one = (value) => {
    const change = (event) => {
      if (event.target.checked) filter[name].add(String(value));
      else filter[name].delete(String(value));
      filtered();
    };
    return node(
      "label",
      { class: "chip" },
      node("input", { type: "checkbox", name, value, on: { change } }),
      node("span", {}, text(value)),
    );
  };
  return node("fieldset", {}, node("legend", {}, title), ...values.map(one));
}
const shownCount = node("output", { "aria-live": "polite" });
function filtered() {
  const shown = shownOps().length + shownSteps().length,
    all = R.ops.length + R.steps.length;
  shownCount.textContent = `${count(shown)} of ${count(all)} measurements`;
  redrawAll();
}
function clearFilters() {
  filter.op = "";
  for (const name of ["device", "model", "tokens", "pass"]) filter[name].clear();
  byId("filters")
    .querySelectorAll("input[type=checkbox]")
    .forEach((box) => {
      box.checked = false;
    });
  byId("filters")
    .querySelectorAll("input[type=search]")
    .forEach((input) => {
      input.value = "";
    });
  filtered();
}
function makeFilters() {
  const names = unique(R.ops.map((o) => o.op)),
    passes = Object.keys(PASSES).filter((p) => R.ops.some((o) => o.pass === p));
  const tokens = unique(R.ops.map((o) => o.tokens).filter(Boolean)).sort((a, b) => a - b);
  const search = node("input", {
    type: "search",
    list: "ops-list",
    placeholder: "linear, attention*",
    spellcheck: "false",
    autocomplete: "off",
    on: {
      input: (event) => {
        filter.op = event.target.value;
        filtered();
      },
    },
  });
  const list = node("datalist", { id: "ops-list" }, ...names.map((value) => node("option", { value })));
  byId("filters").append(
    ...[
      names.length > 1 ? node("label", { class: "field" }, "Op", search) : null,
      list,
      chips("device", "Device", deviceIds),
      chips("model", "Model", unique([...R.ops, ...R.steps].map((r) => r.model))),
      chips("tokens", "Tokens", tokens, count),
      chips("pass", "Pass", passes, (p) => PASSES[p]),
      node("button", { type: "button", on: { click: clearFilters } }, "Show all"),
      shownCount,
    ].filter(Boolean),
  );
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
}
