// Puts the page together from its payload.
"use strict";

(() => {
  const { absent, el, said } = Dom;

  function section(id, name, intro, ...content) {
    const heading = el("h2", { id: `${id}-heading` }, name);
    const attributes = { id, "aria-labelledby": `${id}-heading` };
    return el("section", attributes, heading, intro ? el("p", { class: "intro" }, intro) : null, content);
  }

  function part(name, content) {
    return el("div", { class: "part" }, el("h3", {}, name), content);
  }

  // One part that cannot be drawn takes none of the others with it.
  function guarded(draw) {
    try {
      return draw();
    } catch (error) {
      console.error(error);
      return absent(`This part cannot be shown: ${error.message}.`);
    }
  }

  function sections(runs) {
    Charts.smoothFor(Math.max(...runs.map((run) => (run.metrics.step || []).length)));
    const table = el("div", {});
    const figures = guarded(() => Results.figures(runs, table));
    return [
      section(
        "summary",
        "Summary",
        null,
        guarded(() => Summary.headline(runs)),
      ),
      section(
        "accuracy",
        "Accuracy and length",
        null,
        figures,
        guarded(() => Results.lengths(runs)),
      ),
      section(
        "curves",
        "Training",
        "Faint lines are the logged values, strong ones are smoothed. Point at a step to read all charts there.",
        guarded(() => Curves.curves(runs)),
      ),
      section(
        "time",
        "Time by phase",
        null,
        guarded(() => Curves.phases(runs)),
      ),
      section("results", "Results by task", null, table),
      section(
        "recipe",
        "Recipe",
        null,
        guarded(() => Recipe.recipes(runs)),
        part(
          "Environment",
          guarded(() => Recipe.environments(runs)),
        ),
        part(
          "Set aside",
          guarded(() => Recipe.rejected(runs)),
        ),
        part(
          "Warnings",
          guarded(() => Recipe.warnings(runs)),
        ),
      ),
      section(
        "completions",
        "Completions",
        null,
        guarded(() => Completions.browser(runs)),
      ),
    ];
  }

  function legend(runs) {
    if (runs.length < 2) return [];
    return runs.map((run) => {
      const button = el(
        "button",
        { type: "button", "aria-pressed": "true" },
        Charts.swatch(run.look, true),
        said(run.title),
      );
      button.addEventListener("click", () =>
        button.setAttribute("aria-pressed", Charts.toggleRun(run.number)),
      );
      return button;
    });
  }

  function theme(button) {
    const root = document.documentElement;
    const system = window.matchMedia("(prefers-color-scheme: dark)");
    const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
    const name = () => {
      button.textContent = isDark() ? "Light" : "Dark";
      button.setAttribute("aria-label", `Show the page ${isDark() ? "light" : "dark"}`);
    };
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      name();
    });
    system.addEventListener("change", name);
    name();
  }

  function start() {
    const payload = JSON.parse(document.getElementById("payload").textContent);
    const runs = Runs.read(payload);
    const title = runs.length === 1 ? runs[0].name || runs[0].title : Numbers.plural(runs.length, "run");
    document.title = `${Dom.plain(title)} · vtzero report`;
    document.getElementById("title").replaceChildren(said(title));
    theme(document.getElementById("theme"));
    document.getElementById("legend").append(...legend(runs));
    const found = runs.length ? sections(runs) : [absent("This page was made of no run.")];
    document.getElementById("main").append(...found);
    const links = found
      .filter((one) => one.id)
      .map((one) => el("a", { href: `#${one.id}` }, one.querySelector("h2").textContent));
    document.getElementById("sections").append(...links);
    document
      .getElementById("footer")
      .append(
        `Made by vtzero ${Dom.plain(payload.version || "")}. This page is one file and loads nothing from a network.`,
      );
  }

  start();
  // The browser looked for the place that the address names before it was there.
  const named = /^#[a-z-]+$/.test(window.location.hash) && document.querySelector(window.location.hash);
  if (named) requestAnimationFrame(() => named.scrollIntoView({ behavior: "instant" }));
})();
