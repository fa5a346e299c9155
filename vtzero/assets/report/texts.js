// What a model wrote, shown as it is: hidden characters written out, aha words and found text marked, long texts folded.
"use strict";

const Texts = (() => {
  const { el, hiddenIn } = Dom;
  const FOLDED = 900; // characters; about what a card shows without pushing the others away
  // The words of vtzero.rewards.text; a stem stands for every word that so begins.
  const AHA = {
    aha: "aha",
    check: "check",
    possibl: "possibl\\w*",
    verify: "verify",
    wait: "wait",
    yet: "yet",
  };

  function ahaIn(text, words) {
    const parts = [...new Set(words)].filter((word) => word in AHA).map((word) => AHA[word]);
    if (!parts.length) return [];
    const pattern = new RegExp(`(?<![\\p{L}\\p{N}_])(?:${parts.join("|")})(?![\\p{L}\\p{N}_])`, "giu");
    return [...text.matchAll(pattern)].map((match) => [match.index, match.index + match[0].length, "aha"]);
  }

  function foundIn(text, wanted) {
    const lower = text.toLowerCase();
    // Where lower case changes the length, places would not agree.
    if (!wanted || lower.length !== text.length) return [];
    const found = [];
    const what = wanted.toLowerCase();
    for (let at = lower.indexOf(what); at >= 0; at = lower.indexOf(what, at + what.length)) {
      found.push([at, at + what.length, "found"]);
    }
    return found;
  }

  // Text nodes and marks in a piece of text; `offset` is where the piece begins in it.
  function nodes(text, spans, from, to) {
    const cuts = new Set([from, to]);
    for (const [start, end] of spans) {
      if (start > from && start < to) cuts.add(start);
      if (end > from && end < to) cuts.add(end);
    }
    const places = [...cuts].sort((a, b) => a - b);
    return places.slice(0, -1).map((start, i) =>
      node(
        text.slice(start, places[i + 1]),
        spans.filter((span) => span[0] <= start && span[1] > start),
      ),
    );
  }

  function node(piece, covering) {
    const hidden = covering.find((span) => span[2] === "hidden");
    const text = hidden
      ? el("span", { class: "hidden-character" }, hidden[3])
      : document.createTextNode(piece);
    const marks = covering.filter((span) => span[2] !== "hidden");
    return marks.reduce((inner, span) => el("mark", { class: span[2] }, inner), text);
  }

  // Between two halves of a pair there is no character.
  function cut(text, length) {
    const code = text.charCodeAt(length - 1);
    return code >= 0xd800 && code < 0xdc00 ? length - 1 : length;
  }

  // The text in an element of its own; one that is long shows its beginning and a button for the rest.
  function shown(text, { aha = [], find = "", whole = false } = {}) {
    const body = el("div", { class: "said", dir: "auto" });
    const hidden = hiddenIn(text).map(([start, end, written]) => [start, end, "hidden", written]);
    const spans = [...hidden, ...ahaIn(text, aha), ...foundIn(text, find)].sort((a, b) => a[0] - b[0]);
    const end = whole || text.length <= 1.25 * FOLDED ? text.length : cut(text, FOLDED);
    const inPart = (from, to) => spans.filter((span) => span[1] > from && span[0] < to);
    body.append(...nodes(text, inPart(0, end), 0, end));
    if (!text.length) body.append(el("span", { class: "none" }, "(nothing)"));
    if (end === text.length) return body;
    const more = el(
      "button",
      { type: "button", class: "quiet small more" },
      `… show all (${Numbers.whole(text.length)} characters)`,
    );
    more.addEventListener("click", () => {
      body.append(...nodes(text, inPart(end, text.length), end, text.length));
      body.setAttribute("tabindex", "-1");
      body.focus({ preventScroll: true });
      more.remove();
    });
    return el("div", {}, body, more);
  }

  return { shown };
})();
