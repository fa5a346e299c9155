// Curves over steps as SVG: raw values faint below smoothed ones, points with intervals, one cursor for all charts
// of the page. Knows series of numbers; knows no run.
"use strict";

const Charts = (() => {
  const { el, svg } = Dom;
  const { short, whole } = Numbers;
  const all = [];
  const hiddenRuns = new Set();
  const CLEAR = 3; // series whose intervals can be told apart where they overlap
  let weight = 0.6;
  let cursor = null;

  const smoothness = () => weight;

  function smooth(value) {
    weight = value;
    all.forEach((chart) => chart.draw());
  }

  // A window of a thirtieth of the longest run, and no more than a person would choose by hand.
  function smoothFor(points) {
    weight = Math.max(0, Math.min(0.94, Math.round(50 * (1 - 30 / points)) / 50));
  }

  function toggleRun(run) {
    if (!hiddenRuns.delete(run)) hiddenRuns.add(run);
    all.forEach((chart) => chart.draw());
    return !hiddenRuns.has(run);
  }

  function moveCursor(step) {
    if (step === cursor) return;
    cursor = step;
    requestAnimationFrame(() => all.forEach((chart) => chart.point()));
  }

  // A sample of a series' line, for legends.
  function swatch({ colour, dash, marker }, points) {
    const line = svg("line", { x1: 1, x2: 25, y1: 6, y2: 6, stroke: "currentColor", "stroke-width": 2 });
    if (dash) line.setAttribute("stroke-dasharray", dash);
    const mark = points && svg("path", { d: Scales.markerPath(marker, 13, 6, 3.4), fill: "currentColor" });
    const attributes = {
      class: "swatch",
      viewBox: "0 0 26 12",
      width: 26,
      height: 12,
      "aria-hidden": "true",
    };
    return svg("svg", { ...attributes, style: { color: colour } }, line, mark);
  }

  /* A series is {name, run, look, x, y, points, low, high}; x ascends, without gaps. `points` are joined marks with
     intervals (low, high); anything else is a curve that is smoothed. */
  class LineChart {
    constructor(spec) {
      this.spec = { height: 200, xLabel: "step", smooth: true, ...spec };
      this.hidden = new Set();
      this.logScale =
        spec.log === "auto" ? Scales.wantsLog(spec.series.flatMap((one) => one.y)) : Boolean(spec.log);
      this.plot = svg("svg", { class: "plot", role: "img", tabindex: 0, "aria-label": this.summary() });
      this.plot.style.height = `${this.spec.height}px`;
      this.value = el("span", { class: "value" });
      this.legend = el("div", { class: "chart-legend" });
      this.element = el("figure", { class: "chart" }, this.head(), this.plot, this.legend);
      this.entries = spec.series.map((one, number) => this.entry(one, number));
      if (spec.series.length > 1) this.legend.append(...this.entries.map((entry) => entry.button));
      this.listen();
      new ResizeObserver(() => this.draw()).observe(this.element);
      all.push(this);
    }

    remove() {
      all.splice(all.indexOf(this), 1);
      this.element.remove();
    }

    head() {
      const { title, metric, remove } = this.spec;
      const heading = el("span", { class: "chart-title" }, title);
      if (metric && metric !== title) heading.append(el("code", {}, metric));
      const log = el(
        "button",
        { type: "button", class: "quiet small", "aria-pressed": this.logScale },
        "log",
      );
      log.addEventListener("click", () => {
        this.logScale = !this.logScale;
        log.setAttribute("aria-pressed", this.logScale);
        this.draw();
      });
      const close =
        remove &&
        el("button", { type: "button", class: "quiet small", "aria-label": `Remove ${title}` }, "✕");
      if (close) close.addEventListener("click", remove);
      const showLog =
        this.spec.log !== undefined && Scales.positive(this.spec.series.flatMap((s) => s.y)).length > 1;
      return el("figcaption", {}, heading, this.value, showLog && log, close);
    }

    entry(one, number) {
      const value = el("span", { class: "value" });
      const button = el("button", { type: "button", "aria-pressed": "true" }, swatch(one.look, one.points));
      button.append(Dom.said(one.name), value);
      button.addEventListener("click", () => {
        if (!this.hidden.delete(number)) this.hidden.add(number);
        button.setAttribute("aria-pressed", !this.hidden.has(number));
        this.draw();
      });
      return { button, value };
    }

    summary() {
      const { title, unit, series } = this.spec;
      const parts = series.slice(0, 8).map(({ name, x, y }) => {
        const last = y.length - 1;
        return `${name}: ${short(y[0])} at step ${x[0]}, ${short(y[last])} at step ${x[last]}`;
      });
      return `${title}${unit ? ` (${unit})` : ""} over steps. ${parts.join("; ")}. Arrow keys read values.`;
    }

    listen() {
      const move = (event) => {
        if (!this.sx) return;
        const box = this.plot.getBoundingClientRect();
        moveCursor(this.nearest(this.sx.invert(((event.clientX - box.left) / box.width) * this.width)));
      };
      this.plot.addEventListener("pointermove", move);
      this.plot.addEventListener("pointerdown", move);
      this.plot.addEventListener("pointerleave", () => moveCursor(null));
      this.plot.addEventListener("blur", () => moveCursor(null));
      this.plot.addEventListener("keydown", (event) => this.key(event));
    }

    key(event) {
      const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }[
        event.key
      ];
      const xs = this.steps();
      if (by === undefined || !xs.length) return;
      event.preventDefault();
      const from = cursor === null ? (by < 0 ? xs.length : -1) : Scales.placeOf(xs, cursor);
      moveCursor(xs[Math.min(xs.length - 1, Math.max(0, from + by))]);
      this.value.setAttribute("aria-live", "polite");
    }

    steps() {
      return [...new Set(this.shown().flatMap(({ x }) => x))].sort((a, b) => a - b);
    }

    nearest(place) {
      let best = null;
      for (const { x } of this.shown()) {
        const at = Scales.placeOf(x, place);
        for (const step of [x[at], x[at + 1]]) {
          if (step !== undefined && (best === null || Math.abs(step - place) < Math.abs(best - place)))
            best = step;
        }
      }
      return best;
    }

    shown() {
      return this.spec.series.filter((one, number) => !this.hidden.has(number) && !hiddenRuns.has(one.run));
    }

    curve(one) {
      return one.points || !this.spec.smooth ? one.y : Scales.smoothed(one.y, weight);
    }

    draw() {
      this.entries.forEach(({ button }, number) => {
        button.hidden = hiddenRuns.has(this.spec.series[number].run);
      });
      this.width = this.element.clientWidth;
      if (!this.width) return;
      this.plot.replaceChildren();
      this.plot.setAttribute("viewBox", `0 0 ${this.width} ${this.spec.height}`);
      const visible = this.shown();
      const [domainX, domainY] = this.domains(visible);
      this.layOut(domainX, domainY);
      this.axes(domainX);
      visible.filter((one) => !one.points).forEach((one) => this.drawCurve(one));
      const points = visible.filter((one) => one.points);
      points.forEach((one) => this.drawPoints(one, points.length <= CLEAR));
      this.overlay = svg("g", { class: "cursor" });
      this.plot.append(this.overlay);
      this.point();
    }

    domains(visible) {
      const x = this.spec.domain || Scales.extent(visible.flatMap((one) => one.x)) || [0, 1];
      const values = visible.flatMap((one) =>
        one.points ? [...one.y, ...(one.low || []), ...(one.high || [])] : one.y,
      );
      const wide = x[0] === x[1] ? [x[0] - 1, x[1] + 1] : x;
      if (!this.logScale) return [wide, this.spec.range || Scales.padded(Scales.extent(values) || [0, 1])];
      const [low, high] = Scales.extent(Scales.positive(values)) || [0.1, 1];
      return [wide, low === high ? [low / 2, high * 2] : [low / 1.2, high * 1.2]];
    }

    layOut(domainX, domainY) {
      const count = Math.max(2, Math.floor(this.spec.height / 48));
      this.ticksY = this.logScale ? Scales.logTicks(domainY, count) : Scales.ticks(domainY, count);
      const labels = this.ticksY.map(tickText);
      const left = this.spec.left || 12 + 6.6 * Math.max(...labels.map((label) => label.length), 2);
      this.box = { left, right: this.width - 10, top: 24, bottom: this.spec.height - 34 };
      this.sx = Scales.linear(domainX, [this.box.left, this.box.right]);
      const scale = this.logScale ? Scales.logarithmic : Scales.linear;
      this.sy = scale(domainY, [this.box.bottom, this.box.top]);
    }

    axes(domainX) {
      const { left, right, top, bottom } = this.box;
      const grid = svg("g", { class: "axes" });
      for (const tick of this.ticksY) {
        const y = this.sy(tick);
        grid.append(svg("line", { x1: left, x2: right, y1: y, y2: y }));
        grid.append(svg("text", { x: left - 8, y: y + 4, "text-anchor": "end" }, tickText(tick)));
      }
      const steps = Scales.ticks(domainX, Math.max(2, Math.floor((right - left) / 90))).filter(
        Number.isInteger,
      );
      for (const tick of steps) {
        grid.append(svg("text", { x: this.sx(tick), y: bottom + 16, "text-anchor": "middle" }, whole(tick)));
      }
      grid.append(svg("line", { class: "base", x1: left, x2: right, y1: bottom, y2: bottom }));
      grid.append(svg("text", { class: "unit", x: 2, y: top - 10 }, this.spec.unit || "value"));
      grid.append(
        svg("text", { class: "unit", x: right, y: bottom + 31, "text-anchor": "end" }, this.spec.xLabel),
      );
      this.plot.append(grid);
    }

    path(xs, ys) {
      const points = [];
      xs.forEach((x, i) => {
        if (!this.logScale || ys[i] > 0) points.push([x, ys[i]]);
      });
      const kept = Scales.thinned(points, Math.ceil(this.width));
      return kept
        .map(([x, y], i) => `${i ? "L" : "M"}${this.sx(x).toFixed(1)} ${this.sy(y).toFixed(1)}`)
        .join("");
    }

    drawCurve(one) {
      const group = svg("g", { class: "series", style: { color: one.look.colour } });
      if (this.spec.smooth && weight > 0)
        group.append(svg("path", { class: "raw", d: this.path(one.x, one.y) }));
      const line = svg("path", { class: "line", d: this.path(one.x, this.curve(one)) });
      if (one.look.dash) line.setAttribute("stroke-dasharray", one.look.dash);
      group.append(line);
      if (one.x.length === 1) group.append(svg("path", { class: "mark", d: this.mark(one, 0) }));
      this.plot.append(group);
    }

    drawPoints(one, whiskers) {
      const group = svg("g", { class: "series", style: { color: one.look.colour } });
      const line = svg("path", { class: "line", d: this.path(one.x, one.y) });
      if (one.look.dash) line.setAttribute("stroke-dasharray", one.look.dash);
      group.append(line);
      one.x.forEach((x, i) => {
        if (this.logScale && !(one.y[i] > 0)) return;
        if (whiskers && one.low && one.low[i] !== null && one.high[i] !== null)
          group.append(this.whisker(one, i));
        group.append(svg("path", { class: "mark", d: this.mark(one, i) }));
      });
      this.plot.append(group);
    }

    mark(one, i) {
      return Scales.markerPath(
        one.look.marker,
        this.sx(one.x[i]),
        this.sy(one.y[i]),
        one.x.length > 40 ? 2.4 : 4,
      );
    }

    whisker(one, i) {
      const x = this.sx(one.x[i]).toFixed(1);
      const [low, high] = [one.low[i], one.high[i]].map((value) => this.sy(value).toFixed(1));
      return svg("path", { class: "whisker", d: `M${x} ${low}V${high}` });
    }

    // The cursor's line, and what each series is there (at its last step without a cursor).
    point() {
      if (!this.sx || !this.overlay) return;
      this.overlay.replaceChildren();
      const visible = this.shown();
      const { top, bottom, left, right } = this.box;
      const at = cursor === null ? null : this.sx(cursor);
      const inside = at !== null && at >= left - 1 && at <= right + 1;
      if (inside) this.overlay.append(svg("line", { x1: at, x2: at, y1: top, y2: bottom }));
      this.spec.series.forEach((one, number) => {
        if (visible.includes(one)) this.read(one, this.entries[number].value, inside);
      });
      this.readOut(visible, inside);
    }

    read(one, target, inside) {
      const place = inside ? Scales.placeOf(one.x, cursor) : one.x.length - 1;
      if (place < 0 || (inside && one.x[place] > cursor)) return target.replaceChildren();
      const value = this.curve(one)[place];
      target.replaceChildren(short(value));
      const raw = inside && value !== one.y[place];
      if (raw) target.append(el("small", {}, ` raw ${short(one.y[place])}`));
      const range = inside && one.low && one.low[place] !== null;
      if (range) target.append(el("small", {}, ` ${Numbers.interval([one.low[place], one.high[place]])}`));
      if (!inside || (this.logScale && !(value > 0))) return undefined;
      const spot = svg("circle", { cx: this.sx(one.x[place]), cy: this.sy(value), r: 3.5 });
      spot.style.color = one.look.colour;
      this.overlay.append(spot);
      return undefined;
    }

    readOut(visible, inside) {
      const single = this.spec.series.length === 1 && visible.length === 1;
      const step = inside ? el("small", {}, `step ${whole(cursor)} `) : null;
      const value = single ? [...this.entries[0].value.cloneNode(true).childNodes] : [];
      this.value.replaceChildren(...(step ? [step] : []), ...value);
    }
  }

  function tickText(value) {
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e6))
      return Number(value.toPrecision(3)).toExponential().replace("e+", "e").replace(/-/g, "−");
    return Number(value.toPrecision(6))
      .toLocaleString("en-US", { maximumFractionDigits: 4 })
      .replace("-", "−");
  }

  const lines = (spec) => new LineChart(spec);

  return { lines, smooth, smoothFor, smoothness, swatch, tickText, toggleRun };
})();
