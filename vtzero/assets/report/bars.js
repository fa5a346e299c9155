// Bars: accuracies with their intervals, and seconds stacked by phase. Knows numbers and labels; knows no run.
"use strict";

const Bars = (() => {
  const { el, said, svg } = Dom;

  // One panel: a bar a row, {name, look, value, interval}, in percent; the interval as a whisker.
  function panel(title, note, rows) {
    const bars = rows.map((row) => el("div", { class: "bar-row" }, label(row), bar(row), amount(row)));
    return el(
      "figure",
      { class: "bars" },
      el("figcaption", {}, said(title, { class: "chart-title" }), note && el("small", {}, note)),
      ...bars,
      axis(),
    );
  }

  function label(row) {
    return el("div", { class: "bar-label" }, said(row.name));
  }

  function bar({ look, value, interval, name }) {
    const words = `${name}: ${Numbers.percent(value)}, 95 % interval ${Numbers.interval(interval)}`;
    const attributes = { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img" };
    const drawing = svg("svg", { ...attributes, "aria-label": words, style: { color: look.colour } });
    for (const at of [0, 25, 50, 75, 100])
      drawing.append(svg("line", { class: "grid", x1: at, x2: at, y1: -2, y2: 12 }));
    if (!Numbers.isNumber(value)) return drawing;
    drawing.append(svg("rect", { x: 0, y: 1, width: Math.max(value, 0.4), height: 8, fill: "currentColor" }));
    if (interval && interval.every(Numbers.isNumber)) {
      const [low, high] = interval;
      drawing.append(
        svg("path", { class: "whisker", d: `M${low} 5H${high}M${low} 2.5V7.5M${high} 2.5V7.5` }),
      );
    }
    return drawing;
  }

  function amount({ value, interval }) {
    const range = interval ? el("small", {}, Numbers.interval(interval)) : null;
    return el("div", { class: "bar-value" }, Numbers.fixed(value, 1), range);
  }

  function axis() {
    const marks = [0, 50, 100].map((at) => el("span", {}, at === 100 ? "100 %" : String(at)));
    return el(
      "div",
      { class: "bar-row bar-axis", "aria-hidden": "true" },
      el("div"),
      el("div", { class: "marks" }, marks),
      el("div"),
    );
  }

  // One bar of parts, {name, value, look}, as long as `most` allows; the parts' shares are in a table beside it.
  function stack(parts, most) {
    const total = parts.reduce((sum, part) => sum + part.value, 0);
    const pieces = parts.map(({ name, value, look }) => {
      const share = (100 * value) / total;
      const words = `${name} ${Numbers.duration(value)}, ${Numbers.percent(share)}`;
      const style = { "flex-grow": value, "--part": look.colour };
      return el("div", { class: "piece", style, title: words }, share > 9 ? el("span", {}, name) : null);
    });
    const words = parts.map(({ name, value }) => `${name} ${Numbers.duration(value)}`).join(", ");
    const style = { width: `${(100 * total) / most}%` };
    return el("div", { class: "stack", role: "img", "aria-label": words, style }, pieces);
  }

  return { panel, stack };
})();
