// The controls over completions: which run, steps, verdicts, tasks and words. They hold a filter and say when it changes.
"use strict";

const Filters = (() => {
  const { choice, el, tick } = Dom;
  const VERDICTS = [
    ["all", "all"],
    ["right", "right"],
    ["wrong", "wrong"],
  ];

  // `change(filter, text)` is called after each change; `text` says that the search text was asked for.
  function create(runs, change) {
    const filter = { ...Selection.NOTHING, run: runs[0].number, from: 0, to: 0 };
    const body = el("form", { class: "filters", "aria-label": "Filter completions" });
    const told = (key) => (value) => {
      filter[key] = value;
      change(filter);
    };
    body.addEventListener("submit", (event) => {
      event.preventDefault();
      filter.text = body.querySelector("input[type=search]").value.trim();
      change(filter);
    });

    function show(run, index) {
      const steps = index.steps;
      const tasks =
        index.tasks.length > 1
          ? choice(
              "Task",
              [["", "all"], ...index.tasks.map((task) => [task, task])],
              filter.task,
              told("task"),
            )
          : null;
      const orders = Object.entries(Selection.ORDERS).map(([key, [name]]) => [key, name]);
      const parts = [
        runs.length > 1
          ? choice(
              "Run",
              runs.map((one) => [String(one.number), one.title]),
              String(run.number),
              (value) => told("run")(Number(value)),
            )
          : null,
        verdicts(filter, told("verdict")),
        el(
          "div",
          { class: "ticks" },
          tick("truncated", filter.truncated, told("truncated")),
          tick("aha words", filter.aha, told("aha")),
        ),
        tasks,
        choice("Order", orders, filter.order, told("order")),
        steps.length > 1 ? range(steps, filter, change) : null,
        search(filter, change),
      ];
      body.replaceChildren(...parts.filter(Boolean));
    }
    return { body, filter, show };
  }

  function verdicts(filter, told) {
    const radios = VERDICTS.map(([key, name]) => {
      const radio = el("input", {
        type: "radio",
        name: "verdict",
        value: key,
        on: { change: () => told(key) },
      });
      radio.checked = filter.verdict === key;
      return el("label", {}, radio, el("span", {}, name));
    });
    return el("fieldset", { class: "segments" }, el("legend", {}, "Answers"), el("div", {}, radios));
  }

  // Two thumbs on one line, over the steps that are kept.
  function range(steps, filter, change) {
    const place = (step) => Math.max(0, Scales.placeOf(steps, step));
    const thumb = (name, value) => {
      const input = el("input", {
        type: "range",
        min: 0,
        max: steps.length - 1,
        step: 1,
        "aria-label": `${name} step`,
      });
      input.value = value;
      return input;
    };
    const [first, last] = [thumb("First", place(filter.from)), thumb("Last", place(filter.to))];
    const shown = el("output", {});
    const fill = el("i", {});
    function settle() {
      const [from, to] = [Number(first.value), Number(last.value)].sort((a, b) => a - b);
      [filter.from, filter.to] = [steps[from], steps[to]];
      shown.textContent = `${Numbers.whole(filter.from)}–${Numbers.whole(filter.to)}`;
      for (const [input, at] of [
        [first, Number(first.value)],
        [last, Number(last.value)],
      ])
        input.setAttribute("aria-valuetext", `step ${steps[at]}`);
      fill.style.left = `${(100 * from) / (steps.length - 1)}%`;
      fill.style.right = `${100 - (100 * to) / (steps.length - 1)}%`;
    }
    for (const input of [first, last]) {
      input.addEventListener("input", settle);
      input.addEventListener("change", () => change(filter));
    }
    settle();
    return el(
      "div",
      { class: "field steps", role: "group", "aria-label": "Steps" },
      el("span", {}, "Steps ", shown),
      el("div", { class: "range" }, el("b", {}), fill, first, last),
    );
  }

  function search(filter, change) {
    const input = el("input", {
      type: "search",
      placeholder: "words in a question or an answer",
      "aria-label": "Text to find",
    });
    input.value = filter.text;
    // Emptied by its own cross.
    input.addEventListener("search", () => {
      if (!input.value && filter.text) {
        filter.text = "";
        change(filter);
      }
    });
    return el(
      "div",
      { class: "field find" },
      el("span", {}, "Text"),
      el("div", {}, input, el("button", { type: "submit" }, "Find")),
    );
  }

  return { create };
})();
