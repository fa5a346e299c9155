// One question with its picture and its answers side by side, and the same question of another step or run beside it.
"use strict";

const Group = (() => {
  const { el, said } = Dom;
  const { fixed, isNumber, signed, whole } = Numbers;

  // The colour says it, and so does the mark.
  function verdict(right) {
    if (right === 1) return el("span", { class: "verdict right" }, "✓ right");
    if (right === 0) return el("span", { class: "verdict wrong" }, "✗ wrong");
    return el("span", { class: "verdict" }, "not scored");
  }

  // `bound` is the largest advantage of the group, for bars of one scale.
  function advantage(value, bound) {
    if (!isNumber(value)) return null;
    const half = bound ? (50 * Math.abs(value)) / bound : 0;
    const bar = el("i", {
      style: { width: `${half}%`, [value < 0 ? "right" : "left"]: "50%" },
      class: value < 0 ? "below" : "above",
    });
    return el(
      "div",
      { class: "advantage" },
      el("span", {}, "advantage"),
      el("div", { class: "advantage-bar", "aria-hidden": "true" }, bar),
      el("b", {}, signed(value)),
    );
  }

  function rewards(completion) {
    const found = Object.entries(completion.rewards || {});
    return el(
      "dl",
      { class: "rewards" },
      found.map(([name, value]) => [el("dt", {}, said(name)), el("dd", {}, fixed(value, 2))]),
    );
  }

  function card(completion, number, right, matches, bound, find) {
    const words = (completion.aha || []).length;
    return el(
      "article",
      { class: matches ? "answer" : "answer other", "aria-label": `Answer ${number}` },
      el(
        "header",
        {},
        el("span", { class: "number" }, `#${number}`),
        verdict(right),
        completion.terminated === false ? el("span", { class: "badge truncated" }, "truncated") : null,
        words ? el("span", { class: "badge aha" }, `aha × ${words}`) : null,
        el(
          "span",
          { class: "tokens" },
          isNumber(completion.length) ? Numbers.plural(completion.length, "token") : "",
        ),
      ),
      Texts.shown(completion.text || "", { aha: completion.aha || [], find }),
      el("footer", {}, rewards(completion), advantage(completion.advantage, bound)),
    );
  }

  function cards(content, index, group, matched, find) {
    const bound = Math.max(0, ...content.completions.map((one) => Math.abs(one.advantage || 0)));
    const out = [];
    for (let row = group.start; row < group.end; row += 1) {
      const place = index.place[row];
      out.push(
        card(
          content.completions[place],
          place + 1,
          index.right[row],
          !matched || matched.includes(row),
          bound,
          find,
        ),
      );
    }
    return el("div", { class: "answers" }, out);
  }

  function picture(content) {
    if (!content.image) return null;
    const image = el("img", { alt: "The picture of this question" });
    const button = el(
      "button",
      { type: "button", class: "picture", "aria-label": "Enlarge the picture", "aria-pressed": "false" },
      image,
    );
    button.addEventListener("click", () =>
      button.setAttribute("aria-pressed", button.classList.toggle("large")),
    );
    image.addEventListener("load", () => image.classList.toggle("tiny", image.naturalWidth < 200));
    Chunks.image(content.image).then(
      (source) => image.setAttribute("src", source),
      (error) => button.replaceWith(Dom.absent(`The picture is not shown: ${error.message}.`)),
    );
    return button;
  }

  function question(content) {
    return el(
      "div",
      { class: "question" },
      picture(content),
      el(
        "div",
        {},
        el("div", { class: "asked" }, Texts.shown(content.question || "(no question is recorded)")),
        el(
          "p",
          { class: "wanted" },
          "Answer ",
          said(content.answer || "not recorded", { class: content.answer ? "reference" : "none" }),
        ),
        content.prompt
          ? el(
              "details",
              { class: "fold" },
              el("summary", {}, "Full prompt"),
              Texts.shown(content.prompt, { whole: true }),
            )
          : null,
      ),
    );
  }

  // Which of the answers are right, as marks: a filled square, a hollow one, a dash where nothing was scored.
  function strip(index, group) {
    const marks = [];
    for (let row = group.start; row < group.end; row += 1) {
      const kind = index.right[row] === 1 ? "right" : index.right[row] === 0 ? "wrong" : "unscored";
      marks.push(el("i", { class: index.terminated[row] === 0 ? `${kind} cut` : kind }));
    }
    const rows = index.right.slice(group.start, group.end);
    const words = `${rows.filter((right) => right === 1).length} of ${rows.length} right`;
    return el("span", { class: "strip", role: "img", "aria-label": words }, marks);
  }

  function figures(index, group) {
    const rows = index.right.slice(group.start, group.end);
    const lengths = index.length.slice(group.start, group.end).filter(isNumber);
    const mean = lengths.length ? lengths.reduce((sum, length) => sum + length, 0) / lengths.length : null;
    const right = rows.some((value) => value !== null)
      ? `${rows.filter((value) => value === 1).length} of ${rows.length} right`
      : `${rows.length} answers`;
    return mean === null ? right : `${right}, ${whole(mean)} tokens`;
  }

  return { cards, figures, question, strip };
})();
