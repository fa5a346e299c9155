// Curves of training, smoothed together, a chooser for every other metric, and the time by phase.
"use strict";

const Curves = (() => {
  const { absent, choice, el, said } = Dom;
  const TITLES = {
    reward: ["Reward", "reward"],
    kl: ["KL to the reference", "nats"],
    "completions/clipped_ratio": ["Truncated answers", "share"],
    entropy: ["Entropy of a token", "nats"],
    grad_norm: ["Gradient norm", "norm"],
    loss: ["Loss", "loss"],
    learning_rate: ["Learning rate", "rate"],
    frac_reward_zero_std: ["Groups whose rewards are all equal", "share"],
    reward_std: ["Deviation of rewards in a group", "reward"],
    mean_token_accuracy: ["Accuracy of a token", "share"],
    "perf/throughput": ["Throughput", "tokens/s and device"],
    num_tokens: ["Tokens so far", "tokens"],
  };
  const FIRST = ["reward", "kl", "completions/clipped_ratio", "entropy", "grad_norm", "loss"];
  const UNITS = [
    [/^timing_s\/|seconds$/, "seconds"],
    [/_gb$/, "GiB"],
    [/length$/, "tokens"],
    [/^rewards\/.*\/(mean|std)$/, "reward"],
    [/ratio\b|^clip_ratio|^frac_|\/mfu\/|\/bandwidth\//, "share"],
    [/^aha\//, "occurrences a step"],
  ];
  const REWARD = /^rewards\/(.+)\/mean$/;

  function named(metric) {
    if (TITLES[metric]) return TITLES[metric];
    const reward = REWARD.exec(metric);
    if (reward) return [reward[1], "reward"];
    const unit = UNITS.find(([pattern]) => pattern.test(metric));
    return [metric, unit ? unit[1] : "value"];
  }

  function chart(runs, metric, more) {
    const series = runs.map((run) => {
      const found = Runs.series(run, metric);
      return found && { ...found, name: run.title, run: run.number, look: run.look };
    });
    const [title, unit] = named(metric);
    return Charts.lines({ title, metric, unit, log: "auto", series: series.filter(Boolean), ...more });
  }

  // Of one run its words; of several their sums, or the chart would be a thicket.
  function ahaChart(runs, names) {
    const words = names.filter((name) => name.startsWith("aha/"));
    const counted = runs.filter((run) => words.some((name) => Runs.series(run, name)));
    if (!counted.length) return null;
    const series =
      counted.length === 1 ? ofWords(counted[0], words) : counted.map((run) => ofAll(run, words));
    return Charts.lines({
      title: "Aha words in all answers of a step",
      metric: "aha/…",
      unit: "occurrences",
      series,
    });
  }

  function ofWords(run, words) {
    const found = words
      .map((name) => [name, Runs.series(run, name)])
      .filter(([, series]) => series && series.y.some((y) => y > 0));
    if (!found.length) return [ofAll(run, words)];
    return found.map(([name, series], i) => ({
      ...series,
      name: name.slice(4),
      run: run.number,
      look: Scales.look(i),
    }));
  }

  function ofAll(run, words) {
    const sums = new Map();
    for (const name of words) {
      const found = Runs.series(run, name);
      if (found) found.x.forEach((x, i) => sums.set(x, (sums.get(x) || 0) + found.y[i]));
    }
    return { name: run.title, run: run.number, look: run.look, x: [...sums.keys()], y: [...sums.values()] };
  }

  function curves(runs) {
    const names = Runs.metricNames(runs);
    if (!names.length) return absent("No run has logged a metric yet: metrics.jsonl is empty or missing.");
    const rewards = names.filter((name) => REWARD.test(name));
    const first = [FIRST[0], ...rewards, ...FIRST.slice(1)].filter((name) => names.includes(name));
    const grid = el(
      "div",
      { class: "grid" },
      first.map((name) => chart(runs, name).element),
    );
    const aha = ahaChart(runs, names);
    if (aha) grid.append(aha.element);
    return el(
      "div",
      {},
      el(
        "div",
        { class: "toolbar" },
        slider(),
        chooser(
          runs,
          names.filter((name) => !first.includes(name)),
          grid,
        ),
      ),
      grid,
    );
  }

  function slider() {
    const shown = el("output", {}, Charts.smoothness().toFixed(2));
    const input = el("input", { type: "range", min: 0, max: 0.98, step: 0.02, id: "smoothing" });
    input.value = Charts.smoothness();
    input.addEventListener("input", () => {
      shown.textContent = Number(input.value).toFixed(2);
      requestAnimationFrame(() => Charts.smooth(Number(input.value)));
    });
    return el("label", { class: "field" }, el("span", {}, "Smoothing"), input, shown);
  }

  function chooser(runs, names, grid) {
    if (!names.length) return null;
    const options = [["", "choose a metric"], ...names.map((name) => [name, name])];
    const label = choice("Add a curve", options, "", (metric) => {
      if (!metric) return;
      const added = chart(runs, metric, { remove: () => added.remove() });
      grid.append(added.element);
      label.querySelector("select").value = "";
      added.element.scrollIntoView({ block: "nearest" });
    });
    label.id = "add-curve";
    return label;
  }

  function phases(runs) {
    const timed = runs.map((run) => ({
      run,
      parts: Object.entries(run.time_by_phase || {}).filter(([, value]) => value > 0),
    }));
    const found = timed.filter(({ parts }) => parts.length);
    if (!found.length)
      return absent("No run has its time by phase yet: it is written at the end of training.");
    const names = [...new Set(found.flatMap(({ parts }) => parts.map(([name]) => name)))];
    const look = (name) => Scales.look(names.indexOf(name));
    const sum = (parts) => parts.reduce((total, [, value]) => total + value, 0);
    const most = Math.max(...found.map(({ parts }) => sum(parts)));
    const bars = found.map(({ run, parts }) =>
      el(
        "div",
        { class: "stack-row" },
        el("div", {}, said(run.title), el("small", {}, ` ${Numbers.duration(sum(parts))}`)),
        Bars.stack(
          parts.map(([name, value]) => ({ name, value, look: look(name) })),
          most,
        ),
      ),
    );
    return el("div", {}, bars, phaseTable(found, names, look, sum));
  }

  function phaseTable(found, names, look, sum) {
    const head = el(
      "tr",
      {},
      el("th", { scope: "col" }, "Phase"),
      found.map(({ run }) => el("th", { scope: "col" }, said(run.title))),
    );
    const rows = names.map((name) =>
      el(
        "tr",
        {},
        el(
          "th",
          { scope: "row" },
          el("i", { class: "dot", style: { "--part": look(name).colour } }),
          said(name),
        ),
        found.map(({ parts }) => {
          const value = (parts.find((part) => part[0] === name) || [])[1];
          const share = Numbers.isNumber(value)
            ? el("small", {}, Numbers.percent((100 * value) / sum(parts)))
            : null;
          return el("td", {}, Numbers.duration(value), share);
        }),
      ),
    );
    return Dom.wide(
      "Time by phase",
      el("table", { class: "narrow" }, el("thead", {}, head), el("tbody", {}, rows)),
    );
  }

  return { curves, phases };
})();
