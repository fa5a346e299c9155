// How runs were made: recipes with what differs first, environments, what was set aside, and warnings.
"use strict";

const Recipe = (() => {
  const { absent, el, said } = Dom;
  const { setting } = Numbers;

  function recipes(runs) {
    const keys = [...new Set(runs.flatMap((run) => Object.keys(run.recipe || {})))];
    if (!keys.length) return absent("No run has a recipe: config.yaml is missing.");
    const differing = new Set(runs.flatMap((run) => run.recipe_differs || []));
    const first = keys.filter((key) => differing.has(key));
    const others = keys.filter((key) => !differing.has(key));
    const all = el(
      "details",
      { class: "fold" },
      el(
        "summary",
        {},
        first.length
          ? `${Numbers.whole(others.length)} settings that are the same`
          : `All ${Numbers.whole(others.length)} settings`,
      ),
      others.length ? settings(runs, others, "recipe", first.length > 0) : null,
    );
    const top = first.length
      ? settings(runs, first, "recipe", false, true)
      : runs.length > 1
        ? absent("The recipes of these runs do not differ.")
        : null;
    return el("div", {}, top, others.length ? all : null);
  }

  function settings(runs, keys, part, once, marked) {
    const shown = once ? runs.filter((run) => run[part]).slice(0, 1) : runs.filter((run) => run[part]);
    const head = el(
      "tr",
      {},
      el("th", { scope: "col" }, "Setting"),
      shown.map((run) => el("th", { scope: "col" }, once && runs.length > 1 ? "every run" : said(run.title))),
    );
    const mark = marked ? el("span", { class: "badge" }, "differs") : null;
    const rows = keys.map((key) =>
      el(
        "tr",
        {},
        el("th", { scope: "row" }, el("code", {}, key), mark && mark.cloneNode(true)),
        shown.map((run) => value(run[part], key)),
      ),
    );
    return Dom.wide(
      "Settings",
      el("table", { class: "settings" }, el("thead", {}, head), el("tbody", {}, rows)),
    );
  }

  function value(mapping, key) {
    const text = key in mapping ? setting(mapping[key]) : Numbers.NONE;
    return el("td", {}, said(text, text === "none" || text === Numbers.NONE ? { class: "none" } : {}));
  }

  function environments(runs) {
    const found = runs.filter((run) => run.environment && Object.keys(run.environment).length);
    if (!found.length) return absent("No run has recorded its environment.");
    const keys = [...new Set(found.flatMap((run) => Object.keys(run.environment)))];
    return settings(found, keys, "environment", false);
  }

  function rejected(runs) {
    const rows = runs
      .filter((run) => run.rejected)
      .map((run) =>
        el(
          "tr",
          {},
          el("th", { scope: "row" }, said(run.title)),
          Object.values(counts(run)).map((count) => el("td", {}, Numbers.whole(count))),
        ),
      );
    if (!rows.length) return absent("No run has a record of what it set aside: rejected.jsonl is missing.");
    const head = ["Run", "Samples", "Reward calls", "Updates"].map((name) =>
      el("th", { scope: "col" }, name),
    );
    return Dom.wide(
      "What was set aside",
      el("table", { class: "narrow" }, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows)),
    );
  }

  const counts = ({ rejected: found }) => ({
    sample: found.sample,
    reward: found.reward,
    update: found.update,
  });

  function warnings(runs) {
    const found = runs.flatMap((run) =>
      run.warnings.map((text) => el("li", {}, said(run.title, { class: "who" }), " ", said(text))),
    );
    return found.length
      ? el("ul", { class: "warnings" }, found)
      : absent("Nothing that these runs wrote was unreadable.");
  }

  return { environments, recipes, rejected, warnings };
})();
