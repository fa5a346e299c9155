// The browser over completions: a list of groups that match the filter, page by page, and one group at a time. The
// address of the page (#run=0&step=10&group=3) is what is open, so that it can be sent and gone back from.
"use strict";

const Completions = (() => {
  const { absent, choice, el, said } = Dom;
  const { whole } = Numbers;
  const PAGE = 24; // groups
  const COMPARED = 100; // other places of a question that are offered

  const address = ({ run, step, group }) => `run=${run + 1}&step=${step}&group=${group + 1}`;

  // What the hash names, or null: {run, step, group, with: {run, step, group} or null}. People count from one.
  function parsed(hash) {
    const found = /^#run=(\d+)&step=(\d+)&group=(\d+)(?:&with=(\d+)\.(\d+)\.(\d+))?$/.exec(hash);
    if (!found) return null;
    const [run, step, group, ...other] = found.slice(1).map(Number);
    const place = (numbers) => ({ run: numbers[0] - 1, step: numbers[1], group: numbers[2] - 1 });
    return { ...place([run, step, group]), with: found[4] === undefined ? null : place(other) };
  }

  class Browser {
    constructor(runs) {
      this.runs = runs.filter((run) => run.completions);
      this.all = runs;
      this.indexes = new Map();
      this.list = [];
      this.page = 0;
      this.turn = 0;
      this.filters = Filters.create(this.runs, () => this.refresh());
      this.note = el("div", { class: "notes" });
      this.status = el("p", { class: "found", role: "status" });
      this.groups = el("ol", { class: "groups" });
      this.pager = el("nav", { class: "pager", "aria-label": "Pages of groups" });
      this.overview = el("div", {}, this.note, this.filters.body, this.status, this.groups, this.pager);
      this.view = el("div", { class: "group", tabindex: "-1", hidden: true });
      this.view.addEventListener("keydown", (event) => this.key(event));
      this.body = el("div", {}, this.overview, this.view);
      this.listen();
    }

    listen() {
      window.addEventListener("hashchange", () => this.follow());
      const near = new IntersectionObserver(
        (seen) => {
          if (!seen.some((one) => one.isIntersecting)) return;
          near.disconnect();
          this.start();
        },
        { rootMargin: "300px" },
      );
      near.observe(this.body);
      // Else when the page has nothing better to do, so that it is there when a person comes to it, or prints.
      const idle = () => window.requestIdleCallback && window.requestIdleCallback(() => this.start());
      window.addEventListener("load", idle);
      if (parsed(window.location.hash)) this.follow();
    }

    // A failure is one sentence where the completions would be.
    async guarded(work) {
      try {
        await work();
      } catch (error) {
        this.status.replaceChildren(absent(`The completions are not shown: ${error.message}.`));
        this.overview.hidden = false;
        this.view.hidden = true;
      }
    }

    start() {
      if (!this.started) this.started = this.guarded(() => this.refresh());
      return this.started;
    }

    index(number) {
      if (!this.indexes.has(number)) {
        const run = this.runs.find((one) => one.number === number);
        if (!run) return Promise.reject(new Error(`run ${number + 1} has no completions in this page`));
        const read = Chunks.fresh(run.completions.index).then((index) => Selection.prepare(index));
        this.indexes.set(number, read);
      }
      return this.indexes.get(number);
    }

    async refresh() {
      return this.guarded(async () => {
        const { filter } = this.filters;
        const mine = this.begin();
        const index = await this.index(filter.run);
        if (this.turn !== mine) return;
        if (this.shownRun !== filter.run) this.showRun(filter, index);
        const { from, to, order } = filter;
        const found = Selection.matching(index, filter, from, to);
        if (filter.text) await this.search(index, found, mine);
        else this.show(index, Selection.ordered(index, found, order));
      });
    }

    // Ends what an earlier change began.
    begin() {
      if (this.searching) this.searching.abort();
      this.turn += 1;
      return this.turn;
    }

    showRun(filter, index) {
      this.shownRun = filter.run;
      const run = this.all[filter.run];
      [filter.from, filter.to] = [index.steps[0], index.steps[index.steps.length - 1]];
      if (!index.tasks.includes(filter.task)) filter.task = "";
      const { note } = run.completions;
      this.note.replaceChildren(...(note ? [el("p", { class: "caption" }, note)] : []));
      this.filters.show(run, index);
    }

    async search(index, groups, mine) {
      const { filter } = this.filters;
      this.searching = new AbortController();
      const { signal } = this.searching;
      const cancel = el("button", { type: "button", class: "quiet small" }, "Cancel");
      const bar = el("progress", { max: 1, value: 0, "aria-label": "Steps searched" });
      const words = el("span", {});
      cancel.addEventListener("click", () => this.searching.abort());
      this.status.replaceChildren(bar, words, cancel);
      const report = (found, done, steps) => {
        if (this.turn !== mine) return;
        [bar.max, bar.value] = [steps, done];
        words.textContent = ` step ${whole(done)} of ${whole(steps)} · ${Numbers.plural(found.length, "group")} found `;
      };
      const found = await Selection.search(filter.run, index, groups, filter.text, report, signal);
      if (this.turn !== mine) return;
      this.show(index, Selection.ordered(index, found, filter.order), signal.aborted);
    }

    show(index, list, cancelled) {
      [this.list, this.page] = [list, 0];
      const rows = list.reduce((sum, group) => sum + group.rows.length, 0);
      const text = `${whole(rows)} of ${whole(index.step.length)} completions match, in ${Numbers.plural(list.length, "group")}.`;
      this.status.replaceChildren(cancelled ? `Search cancelled: ${text}` : text);
      this.showPage(index);
    }

    showPage(index) {
      const mine = this.turn;
      const pages = Math.max(1, Math.ceil(this.list.length / PAGE));
      const shown = this.list.slice(this.page * PAGE, (this.page + 1) * PAGE);
      this.groups.replaceChildren(...shown.map((group) => this.item(index, group, mine)));
      if (!shown.length)
        this.groups.append(el("li", { class: "none-found" }, absent("No completion matches this filter.")));
      const turn = (by, name) => {
        const button = el("button", { type: "button", class: "quiet" }, name);
        button.disabled = this.page + by < 0 || this.page + by >= pages;
        button.addEventListener("click", () => {
          this.page += by;
          this.showPage(index);
          this.status.scrollIntoView({ block: "nearest" });
        });
        return button;
      };
      this.pager.replaceChildren(
        turn(-1, "← Earlier"),
        el("span", {}, `Page ${whole(this.page + 1)} of ${whole(pages)}`),
        turn(1, "Later →"),
      );
      this.pager.hidden = pages < 2;
    }

    item(index, group, mine) {
      const { run } = this.filters.filter;
      const question = el("span", { class: "item-question" }, "…");
      const frame = el("span", { class: "thumb" });
      const matches =
        group.rows.length < group.end - group.start ? ` · ${whole(group.rows.length)} match` : "";
      const task = index.tasks[index.task[group.start]];
      const facts = el(
        "span",
        { class: "item-facts" },
        `step ${whole(group.step)} · `,
        task ? [said(task), " · "] : null,
        Group.figures(index, group),
        matches,
      );
      const link = el(
        "a",
        { href: `#${address({ run, ...group })}` },
        frame,
        el("span", { class: "item-text" }, question, Group.strip(index, group), facts),
      );
      this.content(run, group).then(
        (content) => this.turn === mine && this.preview(content, question, frame),
        () => {
          question.textContent = "(this step is missing from the file)";
        },
      );
      return el("li", {}, link);
    }

    async content(run, group) {
      const chunk = await Chunks.json(`r${run}-s${group.step}`);
      return chunk.groups[group.group];
    }

    preview(content, question, frame) {
      question.replaceChildren(said((content.question || "(no question is recorded)").slice(0, 300)));
      if (!content.image) return frame.remove();
      return Chunks.image(content.image).then(
        (source) => {
          const image = el("img", { alt: "" });
          image.setAttribute("src", source);
          frame.replaceChildren(image);
        },
        () => frame.remove(),
      );
    }

    // Opens what the address names, or goes back to the list.
    follow() {
      const place = parsed(window.location.hash);
      if (place) return this.guarded(() => this.open(place));
      if (window.location.hash === "#completions") this.close();
      return undefined;
    }

    close() {
      this.view.hidden = true;
      this.overview.hidden = false;
      this.start();
    }

    async open(place) {
      if (this.runs.some((run) => run.number === place.run) && this.filters.filter.run !== place.run) {
        this.filters.filter.run = place.run;
        this.started = this.guarded(() => this.refresh());
      }
      await this.start();
      const index = await this.index(place.run);
      const group = index.at.get(`${place.step}/${place.group}`);
      if (!group) throw new Error(`step ${place.step}, group ${place.group + 1} is not in this page`);
      const content = await this.content(place.run, group);
      const listed = this.list.find((one) => one.start === group.start);
      const other = place.with ? await this.other(place.with) : null;
      this.view.replaceChildren(
        this.head(place, index, group),
        Group.question(content),
        await this.comparison(place, index, group),
        ...this.columns(place, { index, group, content, rows: listed && listed.rows }, other),
      );
      this.overview.hidden = true;
      this.view.hidden = false;
      this.view.focus({ preventScroll: true });
      document.getElementById("completions").scrollIntoView({ behavior: "instant" });
    }

    async other(place) {
      const index = await this.index(place.run);
      const group = index.at.get(`${place.step}/${place.group}`);
      return group ? { place, index, group, content: await this.content(place.run, group) } : null;
    }

    columns(place, { index, group, content, rows }, other) {
      const find = this.filters.filter.text;
      const own = Group.cards(content, index, group, rows, find);
      if (!other) return [own];
      const column = (where, part, answers) =>
        el(
          "section",
          {},
          el("h4", {}, said(this.all[where.run].title), ` · step ${whole(where.step)}`),
          el("p", { class: "item-facts" }, Group.figures(part.index, part.group)),
          answers,
        );
      const beside = Group.cards(other.content, other.index, other.group, null, find);
      return [
        el(
          "div",
          { class: "compared" },
          column(place, { index, group }, own),
          column(other.place, other, beside),
        ),
      ];
    }

    head(place, index, group) {
      const list = this.list.some((one) => one.start === group.start) ? this.list : index.groups;
      const at = list.findIndex((one) => one.start === group.start);
      const step = (by, arrow, name) => {
        const word = el("span", { class: "word" }, name);
        const next = list[at + by];
        const href = next && `#${address({ run: place.run, ...next })}`;
        return el(
          "a",
          {
            class: next ? "button" : "button off",
            href,
            "aria-disabled": next ? null : "true",
            "data-by": by,
            "aria-label": name,
          },
          by < 0 ? [arrow, word] : [word, arrow],
        );
      };
      const task = index.tasks[index.task[group.start]];
      const title = el(
        "h3",
        {},
        this.runs.length > 1 ? [said(this.all[place.run].title), " · "] : null,
        `Step ${whole(group.step)}, group ${whole(group.group + 1)}`,
      );
      const facts = el(
        "p",
        { class: "item-facts" },
        task ? [said(task), " · "] : null,
        Group.figures(index, group),
      );
      const moves = el(
        "nav",
        { class: "moves", "aria-label": "Groups" },
        el("a", { class: "button", href: "#completions" }, "All groups"),
        step(-1, "← ", "Previous"),
        el("span", {}, `${whole(at + 1)} of ${whole(list.length)}`),
        step(1, " →", "Next"),
      );
      return el("div", { class: "group-head" }, el("div", {}, title, facts), moves);
    }

    key(event) {
      const by = { ArrowLeft: "-1", ArrowRight: "1" }[event.key];
      if (
        !by ||
        event.altKey ||
        event.ctrlKey ||
        event.metaKey ||
        /^(INPUT|SELECT)$/.test(event.target.tagName)
      )
        return;
      const link = this.view.querySelector(`a[data-by="${by}"][href]`);
      if (link) window.location.hash = link.getAttribute("href");
    }

    // Where else this question was asked: other steps, and other runs.
    async comparison(place, index, group) {
      const id = Selection.questionOf(index, group);
      if (id === null) return el("div", {});
      const places = [];
      for (const run of this.runs) {
        const found = (await this.index(run.number)).asked.get(id) || [];
        places.push(
          ...found
            .filter((one) => run.number !== place.run || one.start !== group.start)
            .map((one) => ({ ...one, run: run.number })),
        );
      }
      if (!places.length)
        return el("p", { class: "asked-once" }, "This question is asked once in this page.");
      const key = (one) => `${one.run + 1}.${one.step}.${one.group + 1}`;
      const name = (one) => `${this.all[one.run].title} · step ${whole(one.step)}`;
      const options = [["", "nothing"], ...places.slice(0, COMPARED).map((one) => [key(one), name(one)])];
      const to = (value) => {
        window.location.hash = address(place) + (value ? `&with=${value}` : "");
      };
      return el(
        "div",
        { class: "toolbar" },
        choice("Compare with", options, place.with ? key(place.with) : "", to),
      );
    }
  }

  function browser(runs) {
    if (!runs.some((run) => run.completions))
      return absent("No run has kept its completions: set log_completions.");
    return new Browser(runs).body;
  }

  return { browser };
})();
