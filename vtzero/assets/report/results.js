// What training did: the paper's Figures 1, 2 and 4, and the table of results.
"use strict";

const Results = (() => {
  const { absent, choice, el, said, tick } = Dom;
  const { fixed, interval, isNumber, NONE, percent, whole } = Numbers;
  const MANY = 4; // runs: their sampled and evaluated lengths would be a thicket
  const NO_EVALUATION = "No run has an evaluation yet: set eval_data.";

  // Figures 1 and 2 and the table follow one choice of benchmark and scoring.
  function figures(runs, whereTable) {
    const benchmarks = Runs.benchmarks(runs);
    const place = el("div", {});
    const state = { benchmark: benchmarks[0], scoring: "accuracy", every: false };
    let charts = [];
    function show() {
      charts.forEach((chart) => chart.remove());
      charts = lengthAndAccuracy(runs, state);
      place.replaceChildren(...compact([pair(charts, runs.length >= MANY), bars(runs, state)]));
      whereTable.replaceChildren(...compact([everyTick(), table(runs, state)]));
    }
    function everyTick() {
      const more = runs.some((run) => Runs.evaluations(run, state.benchmark).length > 2);
      return (
        more &&
        tick("every evaluation", state.every, (value) => {
          state.every = value;
          show();
          whereTable.querySelector("input").focus();
        })
      );
    }
    show();
    return el("div", {}, controls(runs, state, show), place);
  }

  const compact = (list) => list.filter(Boolean);

  function controls(runs, state, show) {
    const benchmarks = Runs.benchmarks(runs);
    const scorings = Runs.scorings(runs);
    const set = (key) => (value) => {
      state[key] = value;
      show();
    };
    return el(
      "div",
      { class: "toolbar" },
      benchmarks.length > 1
        ? choice(
            "Benchmark",
            benchmarks.map((name) => [name, name]),
            state.benchmark,
            set("benchmark"),
          )
        : null,
      scorings.length > 1 ? choice("Scored", scorings, state.scoring, set("scoring")) : null,
    );
  }

  // Two panels over the same steps, their plots one above the other.
  function lengthAndAccuracy(runs, { benchmark, scoring }) {
    const accuracy = runs.map((run) => accuracySeries(run, benchmark, scoring)).filter(Boolean);
    const length = runs.flatMap((run) => lengthSeries(run, benchmark, runs.length < MANY));
    const domain = Scales.extent([...accuracy, ...length].flatMap((one) => one.x)) || [0, 1];
    const shared = { domain, left: 48, height: 230 };
    const charts = [];
    if (accuracy.length) {
      const title = `Accuracy on ${benchmark}`;
      charts.push(
        Charts.lines({ ...shared, title, unit: "%", series: accuracy, range: [0, accuracyTop(accuracy)] }),
      );
    }
    if (length.length)
      charts.push(Charts.lines({ ...shared, title: "Mean response length", unit: "tokens", series: length }));
    return charts;
  }

  const accuracyTop = (series) =>
    Math.min(100, 10 * Math.ceil(Math.max(10, ...series.flatMap((one) => [...one.y, ...one.high])) / 10));

  function accuracySeries(run, benchmark, scoring) {
    const own = Runs.evaluations(run, benchmark).filter(
      (one) => isNumber(one[scoring]) && isNumber(one.step),
    );
    if (!own.length) return null;
    const bound = (side) => own.map((one) => (one[`${scoring}_interval`] || [null, null])[side]);
    const x = own.map((one) => one.step);
    const y = own.map((one) => one[scoring]);
    return {
      name: run.title,
      run: run.number,
      look: run.look,
      points: true,
      x,
      y,
      low: bound(0),
      high: bound(1),
    };
  }

  // Of the answers sampled in training, and as marks of those evaluated; of many runs one curve each.
  function lengthSeries(run, benchmark, both) {
    const own = Runs.evaluations(run, benchmark).filter(
      (one) => isNumber(one.mean_length) && isNumber(one.step),
    );
    const sampled = Runs.series(run, "completions/mean_length");
    const base = { run: run.number, look: run.look };
    const found = sampled ? [{ ...base, ...sampled, name: `${run.title}, sampled` }] : [];
    if (!own.length || (sampled && !both)) return found;
    const evaluated = { x: own.map((one) => one.step), y: own.map((one) => one.mean_length), points: true };
    const look = sampled ? { ...run.look, dash: "2 4" } : run.look;
    return [...found, { ...base, ...evaluated, look, name: `${run.title}, evaluated` }];
  }

  function pair(charts, many) {
    if (!charts.length) return absent(NO_EVALUATION);
    return figure(
      "Figure 1",
      `Accuracy and mean response length over steps${many ? "; point at a step for 95 % intervals" : ", with 95 % intervals"}.`,
      charts.map((chart) => chart.element),
      "panels",
    );
  }

  function figure(name, caption, content, kind) {
    return el(
      "section",
      { class: "figure" },
      el("div", { class: kind }, content),
      el("p", { class: "caption" }, el("b", {}, `${name}.`), ` ${caption}`),
    );
  }

  function bars(runs, { benchmark, scoring }) {
    const rows = Runs.rows(runs, benchmark);
    if (!rows.length) return null;
    const row = (figures, { name, look }) => ({
      name,
      look,
      value: figures && figures[scoring],
      interval: figures && figures[`${scoring}_interval`],
    });
    const panels = Runs.benchmarks(runs).map((name) => {
      const own = Runs.rows(runs, name);
      return Bars.panel(
        name,
        count(own.map((one) => one.evaluation)),
        own.map((one) => row(one.evaluation, one)),
      );
    });
    for (const task of tasks(rows)) {
      const figuresOf = (one) => (one.evaluation.tasks || {})[task];
      panels.push(
        Bars.panel(
          task,
          count(rows.map(figuresOf)),
          rows.map((one) => row(figuresOf(one), one)),
        ),
      );
    }
    return figure(
      "Figure 2",
      "Accuracy of the base and of each run's last evaluation, in percent, with 95 % intervals.",
      panels,
      "bar-panels",
    );
  }

  const tasks = (rows) => [...new Set(rows.flatMap((row) => Object.keys(row.evaluation.tasks || {})))];

  function count(evaluations) {
    const counts = [...new Set(evaluations.filter(Boolean).map((one) => one.n))];
    return counts.length === 1 && isNumber(counts[0]) ? `n = ${whole(counts[0])}` : null;
  }

  function lengths(runs) {
    const series = runs.map((run) => {
      const sampled = Runs.series(run, "completions/mean_length");
      return sampled && { ...sampled, name: run.title, run: run.number, look: run.look };
    });
    const found = series.filter(Boolean);
    if (!found.length) return absent("No run has sampled answers, so there is no length to follow.");
    const chart = Charts.lines({
      title: "Response length of sampled answers",
      metric: "completions/mean_length",
      unit: "tokens",
      series: found,
      height: 280,
    });
    return figure(
      "Figure 4",
      "Mean length of the answers sampled at each step.",
      [chart.element],
      "panels wide",
    );
  }

  function table(runs, { benchmark, scoring, every }) {
    const shown = runs.flatMap((run) =>
      chosen(run, benchmark, every).map((evaluation) => ({ run, evaluation })),
    );
    if (!shown.length) return absent(NO_EVALUATION);
    const columns = tasks(shown);
    const scorings = Runs.scorings(runs);
    const head = [
      "Run",
      "Step",
      "n",
      ...scorings.map(([, name]) => name),
      ...columns,
      "Length",
      "Truncated",
      "Rejected",
    ];
    const cells = ({ evaluation }) => [
      whole(evaluation.step),
      whole(evaluation.n),
      ...scorings.map(([key]) => score(evaluation, key)),
      ...columns.map((task) => score((evaluation.tasks || {})[task] || {}, scoring)),
      fixed(evaluation.mean_length, 1),
      isNumber(evaluation.clipped_ratio) ? percent(100 * evaluation.clipped_ratio) : NONE,
      whole(evaluation.rejected),
    ];
    const rows = shown.map((row) =>
      el(
        "tr",
        {},
        el("th", { scope: "row" }, said(row.run.title)),
        cells(row).map((cell) => el("td", {}, cell)),
      ),
    );
    const scored = (Runs.SCORINGS.find(([key]) => key === scoring) || [])[1];
    return Dom.wide(
      `Results on ${benchmark}`,
      el(
        "table",
        {},
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            head.map((name) => el("th", { scope: "col" }, said(name))),
          ),
        ),
        el("tbody", {}, rows),
      ),
      `Accuracy in percent with its 95 % interval; tasks are scored ${scored}. Length in tokens.`,
    );
  }

  function chosen(run, benchmark, every) {
    const { before, after } = Runs.ends(run, benchmark);
    return every ? Runs.evaluations(run, benchmark) : [before, after].filter(Boolean);
  }

  function score(figures, key) {
    if (!isNumber(figures[key])) return NONE;
    const range = figures[`${key}_interval`];
    return [fixed(figures[key], 1), range ? el("small", {}, interval(range)) : null];
  }

  return { figures, lengths };
})();
