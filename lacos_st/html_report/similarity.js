"use strict";
/* The reader picks sentences among those whose values the page holds. */
(() => {
  const data = page.data.similarity;
  if (!data) return;
  const texts = data.sentences;
  const most = 24;  // of the map
  const nearest = 5;
  let chosen = [...data.chosen];
  const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase().trim();
  const known = texts.map(plain);
  const model = () => data.models[Number(at("similarity-model").value)];

  function show() {
    list();
    draw("similarity");
  }

  function list() {
    const { values } = model();
    page.charts.similarity.data.values = chosen.flatMap((i, row) => chosen.map((j, column) =>
      ({ row: row + 1, column: column + 1, a: texts[i], b: texts[j], value: values[i][j] })));
    page.charts.similarity.height = chosen.length * data.cell;
    at("similarity-chosen").replaceChildren(...chosen.map((i, place) => {
      const item = element("li", texts[i]);
      const near = element("button", "nearest", { type: "button", class: "pick" });
      near.addEventListener("click", () => showNearest(i));
      const out = element("button", "✕", { type: "button", class: "pick", "aria-label": `remove ${texts[i]}` });
      out.addEventListener("click", () => { chosen.splice(place, 1); show(); });
      item.append(near, out);
      return item;
    }));
    at("similarity-chosen").nextElementSibling.querySelector("figcaption").textContent =
      `Similarity (${model().measure}) of each pair, ${model().name}`;
    at("similarity-nearest").replaceChildren();
  }

  function showNearest(i) {
    const values = model().values[i];
    const order = texts.map((_, j) => j).filter((j) => j !== i).sort((a, b) => values[b] - values[a]).slice(0, nearest);
    const list = element("ul", "");
    list.append(...order.map((j) => element("li", `${values[j].toFixed(3)}  ${texts[j]}`)));
    at("similarity-nearest").replaceChildren(element("p", `Nearest to “${texts[i]}” among all ${texts.length}:`), list);
  }

  function matches(typed) {
    const words = plain(typed).split(/\s+/).filter(Boolean);
    return texts.map((_, i) => i).filter((i) => !chosen.includes(i) && words.every((word) => known[i].includes(word)));
  }

  function add(i) {
    if (chosen.length >= most) return say(`${most} sentences are shown at most: remove one.`);
    chosen.push(i);
    at("similarity-typed").value = "";
    suggest();
    return show();
  }

  function say(text) {
    at("similarity-said").textContent = text;
  }

  function suggest() {
    const typed = at("similarity-typed").value;
    const found = typed.trim() ? matches(typed) : [];
    at("similarity-matches").replaceChildren(...found.slice(0, 8).map((i) => {
      const button = element("button", texts[i], { type: "button" });
      button.addEventListener("click", () => add(i));
      return button;
    }));
    const shown = chosen.some((i) => known[i] === plain(typed));
    if (!typed.trim()) say("");
    else if (shown) say("This sentence is in the map.");
    else if (!found.length) {
      say(`“${typed.trim()}”: none of the ${texts.length} sentences whose values this page holds. It was not computed, ` +
        "and a page without a model cannot compute it: write it into a file for --sentences, or use lacos-st serve.");
    } else say(found.length > 8 ? `${found.length} sentences; the first 8:` : "");
    return found;
  }

  at("similarity-typed").addEventListener("input", suggest);
  at("similarity-model").addEventListener("change", show);
  at("similarity-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const found = suggest();
    const same = found.find((i) => known[i] === plain(at("similarity-typed").value));
    if (same !== undefined) add(same);
    else if (found.length === 1) add(found[0]);
    else if (found.length) say(`${found.length} sentences: pick one of them.`);
  });
  list();  // the map is drawn with the other charts
})();
