"use strict";
const page = JSON.parse(document.getElementById("page-data").textContent);
const drawn = {};
const turns = {};
const signals = {};
const at = (id) => document.getElementById(id);

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/* Charts: Vega-Lite with the colours of the theme, drawn again where the theme or the data change. */

function look() {
  const style = getComputedStyle(document.documentElement);
  const [ink, soft, line] = ["--ink", "--soft", "--line"].map((name) => style.getPropertyValue(name).trim());
  return {
    background: null,
    font: "system-ui, sans-serif",
    view: { stroke: null },
    axis: {
      labelColor: ink, titleColor: soft, gridColor: line, domainColor: line, tickColor: line, labelFontSize: 12,
      titleFontSize: 12, titleFontWeight: "normal",
    },
    legend: { labelColor: ink, titleColor: soft, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" },
    range: { category: page.colours[document.documentElement.dataset.theme] },
    rule: { color: soft },
    text: { color: ink },
  };
}

function showTip(event, value) {
  const tip = at("tip");
  tip.hidden = value === null || value === undefined || value === "";
  if (tip.hidden) return;
  tip.textContent = typeof value === "object" ? Object.entries(value).map(([key, said]) => `${key}: ${said}`).join("\n") : value;
  const { clientX: x, clientY: y } = event.changedTouches ? event.changedTouches[0] : event;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - width - 4))}px`;
  tip.style.top = `${y + height + 16 > innerHeight ? Math.max(4, y - height - 12) : y + 12}px`;
}

/* One after another: what is drawn last is what stands there. */
function draw(name) {
  turns[name] = (turns[name] ?? Promise.resolve()).then(() => drawNow(name));
  return turns[name];
}

async function drawNow(name) {
  const place = at(`chart-${name}`);
  if (!place.clientWidth) return;  // in a part that is folded up
  drawn[name]?.finalize();
  const spec = structuredClone(page.charts[name]);
  for (const each of spec.params ?? []) {
    if (signals[name]?.[each.name]) each.value = signals[name][each.name];
  }
  drawn[name] = await vegaEmbed(place, spec, {
    mode: "vega-lite", renderer: "svg", actions: false, defaultStyle: false, config: look(),
    tooltip: (handler, event, item, value) => showTip(event, value),
  });
  place.querySelector("svg")?.setAttribute("aria-label", place.closest("figure").querySelector("figcaption").textContent);
}

function drawAll() {
  return Promise.all(Object.keys(page.charts).map(draw));
}

/* The theme: what the reader chose here before, else the system's. */

function stored(value) {
  try {
    if (value) localStorage.setItem("lacos-st-theme", value);
    return localStorage.getItem("lacos-st-theme");
  } catch {
    return null;  // a browser that keeps nothing for files
  }
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  at("theme").textContent = theme === "dark" ? "Light" : "Dark";
  at("theme").setAttribute("aria-label", theme === "dark" ? "Light theme" : "Dark theme");
}

/* Tables. */

function sortBy(head) {
  const table = head.closest("table");
  const column = [...head.parentNode.children].indexOf(head);
  const key = (row) => row.children[column].dataset.sort ?? row.children[column].textContent;
  const rows = [...table.tBodies[0].rows];
  const numeric = rows.every((row) => { const value = key(row); return value === "-" || (value !== "" && isFinite(value)); });
  const up = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") === "descending" : !numeric;
  const compare = numeric ? (a, b) => a - b : (a, b) => a.localeCompare(b, undefined, { numeric: true });
  rows.sort((first, second) => {
    const [a, b] = [key(first), key(second)];
    if (a === "-" || b === "-") return (a === "-") - (b === "-");  // what is missing stays at the end
    return up ? compare(a, b) : compare(b, a);
  });
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  table.tBodies[0].append(...rows);
}

function showScores(table) {
  const of = (name) => document.querySelector(`select[${name}="${table.id}"]`).value;
  const [figure, base] = [of("data-scores"), of("data-baseline")];
  for (const row of table.querySelectorAll("tbody tr, tfoot tr")) {
    const cells = row.querySelectorAll("td[data-model]");
    const value = (cell) => Number(cell.dataset[figure]);
    for (const cell of cells) {
      const compared = [...cells].find((other) => other.dataset.model === base);
      const difference = compared && compared !== cell ? value(cell) - value(compared) : null;
      cell.dataset.sort = value(cell);
      const sign = difference < 0 ? "-" : "+";
      const shown = difference === null ? "" : ` (${sign}${Math.abs(difference).toFixed(2)})`;
      cell.replaceChildren(value(cell).toFixed(2), element("span", shown, { class: "difference" }));
    }
  }
}

for (const button of document.querySelectorAll("table.sortable thead button")) {
  button.addEventListener("click", () => sortBy(button.parentNode));
}
for (const select of document.querySelectorAll("select[data-scores], select[data-baseline]")) {
  select.addEventListener("change", () => showScores(at(select.dataset.scores ?? select.dataset.baseline)));
}
for (const select of document.querySelectorAll("select[data-signal]")) {
  select.addEventListener("change", () => {
    for (const name of select.dataset.charts.split(" ")) {
      signals[name] = { ...signals[name], [select.dataset.signal]: select.value };
      draw(name);
    }
  });
}
for (const folded of document.querySelectorAll("details")) {
  folded.addEventListener("toggle", () => {
    for (const place of folded.querySelectorAll("[data-chart]")) draw(place.dataset.chart);
  });
}
at("theme").addEventListener("click", () => {
  setTheme(stored(document.documentElement.dataset.theme === "dark" ? "light" : "dark") ??
    (document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  drawAll();
});
setTheme(stored() ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
drawAll().then(() => { document.documentElement.dataset.ready = "yes"; });
