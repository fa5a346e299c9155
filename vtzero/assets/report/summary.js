// The headline of each run: a card, or a row where there are many runs.
"use strict";

const Summary = (() => {
  const { absent, el, said } = Dom;
  const { fixed, interval, isNumber, NONE, percent, whole } = Numbers;
  const MANY = 4; // runs: a card each would no longer be read beside each other

  function headline(runs) {
    return runs.length < MANY ? el("div", { class: "cards" }, runs.map(card)) : overview(runs);
  }

  function overview(runs) {
    const rows = runs.map((run) => {
      const benchmark = Runs.benchmarks([run])[0];
      const { before, after } = benchmark === undefined ? {} : Runs.ends(run, benchmark);
      const now = after || before || {};
      const from = (after && before) || {};
      const cells = [
        status(run),
        [arrow(from.accuracy, now.accuracy), el("small", {}, interval(now.accuracy_interval))],
        arrow(from.mean_length, now.mean_length),
        ...facts(run).map(([, value]) => value),
      ];
      const name = el(
        "th",
        { scope: "row" },
        Charts.swatch(run.look, true),
        " ",
        said(run.title),
        warned(run),
      );
      return el(
        "tr",
        {},
        name,
        cells.map((cell) => el("td", {}, cell)),
      );
    });
    const head = [
      "Run",
      "",
      "Accuracy, %",
      "Length, tokens",
      "Steps",
      "Wall time",
      "Tokens/s",
      "Last reward",
    ];
    const columns = head.map((name) => el("th", { scope: "col" }, name));
    const table = el("table", {}, el("thead", {}, el("tr", {}, columns)), el("tbody", {}, rows));
    return Dom.wide(
      "Summary",
      table,
      "Accuracy and mean length on each run's first benchmark, before → after training.",
    );
  }

  function warned(run) {
    const count = Numbers.plural(run.warnings.length, "warning");
    return run.warnings.length ? el("a", { class: "warned", href: "#recipe" }, count) : null;
  }

  function card(run) {
    const benchmark = Runs.benchmarks([run])[0];
    const name = run.name && run.name !== run.title ? el("p", { class: "run-name" }, said(run.name)) : null;
    return el(
      "article",
      { class: "card" },
      el("header", {}, Charts.swatch(run.look, true), el("h3", {}, said(run.title)), status(run)),
      name,
      benchmark === undefined
        ? absent("This run has no evaluation yet: set eval_data.")
        : beforeAfter(run, benchmark),
      el(
        "dl",
        { class: "facts" },
        facts(run).map(([term, value]) => el("div", {}, el("dt", {}, term), el("dd", {}, value))),
      ),
      warned(run),
    );
  }

  function status(run) {
    return run.status
      ? el("span", { class: run.status === "finished" ? "status" : "status open" }, run.status)
      : null;
  }

  function beforeAfter(run, benchmark) {
    const { before, after } = Runs.ends(run, benchmark);
    const now = after || before;
    const accuracy = (one) => (one ? fixed(one.accuracy, 1) : null);
    const tokens = (one) => (one ? fixed(one.mean_length, 1) : null);
    const lenient =
      now && isNumber(now.accuracy_lenient)
        ? el(
            "small",
            {},
            "lenient ",
            arrow(before && after && before.accuracy_lenient, now.accuracy_lenient),
            " %",
          )
        : null;
    return el(
      "div",
      { class: "changes" },
      change("Accuracy", before && after ? accuracy(before) : null, accuracy(now), "%", [
        el("small", {}, `95 %: ${interval(now.accuracy_interval)} · n = ${whole(now.n)} · `, said(benchmark)),
        lenient,
      ]),
      change("Mean length", before && after ? tokens(before) : null, tokens(now), "tokens", [
        el("small", {}, `evaluated at step ${whole(now.step)}`),
        isNumber(now.clipped_ratio) ? el("small", {}, `truncated ${percent(100 * now.clipped_ratio)}`) : null,
      ]),
    );
  }

  function arrow(before, after) {
    return isNumber(before) ? `${fixed(before, 1)} → ${fixed(after, 1)}` : fixed(after, 1);
  }

  function change(name, before, after, unit, notes) {
    const from =
      before === null ? null : [el("span", { class: "from" }, before), el("span", { class: "to" }, " → ")];
    return el(
      "div",
      { class: "change" },
      el("h4", {}, name),
      el("p", { class: "big" }, from, after, el("span", { class: "unit" }, ` ${unit}`)),
      notes,
    );
  }

  // What a summary would say of the steps that are there.
  function progress(run) {
    const seconds = Runs.sum(run, "timing_s/step");
    const tokens = Runs.sum(run, "perf/total_num_tokens");
    return { seconds, tokens_per_second: seconds && tokens ? tokens / seconds : null };
  }

  function facts(run) {
    const summary = run.summary || progress(run);
    const done = isNumber(run.last_step) ? whole(run.last_step) : NONE;
    const steps =
      isNumber(run.max_steps) && run.max_steps !== run.last_step
        ? `${done} of ${whole(run.max_steps)}`
        : done;
    const reward = Runs.last(run, "reward");
    return [
      ["steps", steps],
      ["time of steps", Numbers.duration(summary.seconds)],
      ["tokens/s", whole(summary.tokens_per_second)],
      ["last reward", fixed(reward, 2)],
    ];
  }

  return { headline };
})();
