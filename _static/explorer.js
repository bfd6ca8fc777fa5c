// A table of gains (tlbook.evidence.explorer) becomes a figure with two knobs: data and labels.
"use strict";
for (const box of document.querySelectorAll(".explorer")) {
  const rows = [...box.querySelectorAll("tbody tr")].map((row) => ({
    set: row.dataset.set,
    arm: row.dataset.arm,
    gains: new Map(
      [...row.querySelectorAll("[data-gain]")].map((cell) => [
        cell.dataset.budget,
        cell.dataset.gain.split(" ").map(Number),
      ]),
    ),
  }));
  const every = rows.flatMap((row) => [...row.gains.values()].flat());
  const [least, most] = [Math.min(0, ...every), Math.max(0, ...every)];
  const make = (name, attributes = {}, parent = null, space = null) => {
    const node = space ? document.createElementNS(space, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    parent?.append(node);
    return node;
  };
  const knobs = make("div", { class: "knobs" });
  const labeled = (text, name, attributes) => {
    const label = make("label", {}, knobs);
    label.append(`${text} `);
    return make(name, attributes, label);
  };
  const sets = labeled("data", "select", {});
  for (const set of new Set(rows.map((row) => row.set))) make("option", {}, sets).append(set);
  const budget = labeled("labels per class", "input", { type: "range", min: 0, value: 0 });
  const number = make("output", {}, budget.parentNode);
  const figure = make("div");
  const said = make("p", { "aria-live": "polite" });

  const draw = () => {
    const shown = rows.filter((row) => row.set === sets.value);
    const budgets = [...shown[0].gains.keys()];
    budget.max = budgets.length - 1;
    const at = budgets[Math.min(budget.value, budgets.length - 1)];
    number.value = at;
    const [left, wide, line] = [170, 640, 30];
    const x = (gain) => left + 10 + ((gain - least) / (most - least)) * (wide - left - 30);
    const SVG = "http://www.w3.org/2000/svg";
    const height = line * shown.length + 40;
    const name = `Gains over ${box.dataset.control}, ${sets.value}, ${at} labels per class`;
    const svg = make("svg", { viewBox: `0 0 ${wide} ${height}`, role: "img", "aria-label": name }, null, SVG);
    const text = (words, attributes) => {
      make("text", attributes, svg, SVG).textContent = words;
    };
    make("line", { x1: x(0), x2: x(0), y1: 5, y2: height - 35, class: "zero" }, svg, SVG);
    const step = [5, 10, 20, 50].find((size) => (most - least) / size < 8);
    for (let tick = Math.ceil(least / step) * step; tick <= most; tick += step)
      text(tick, { x: x(tick), y: height - 20, "text-anchor": "middle" });
    text("gain in points", { x: x((least + most) / 2), y: height - 4, "text-anchor": "middle" });
    shown.forEach((row, i) => {
      const [value, low, high] = row.gains.get(at);
      const y = line * i + 20;
      const kind = low > 0 ? "more" : high < 0 ? "less" : "open";
      text(row.arm, { x: left, y: y + 4, "text-anchor": "end" });
      make("line", { x1: x(low), x2: x(high), y1: y, y2: y, class: kind }, svg, SVG);
      make("circle", { cx: x(value), cy: y, r: 5, class: kind }, svg, SVG);
    });
    figure.replaceChildren(svg);
    const best = shown.reduce((a, b) => (a.gains.get(at)[0] > b.gains.get(at)[0] ? a : b));
    const [value, low, high] = best.gains.get(at);
    said.textContent =
      `Highest with ${at} labels per class: ${best.arm}, ` +
      `${value < 0 ? "" : "+"}${value.toFixed(1)} points [${low.toFixed(1)}, ${high.toFixed(1)}].`;
  };
  sets.addEventListener("change", draw);
  budget.addEventListener("input", draw);
  const table = make("details");
  make("summary", {}, table).append("The numbers");
  table.append(box.querySelector("table"));
  box.append(knobs, figure, said, table);
  draw();
}
