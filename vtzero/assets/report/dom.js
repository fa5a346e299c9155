// Elements and text. Whatever a run says reaches the page through here, as text nodes and never as markup.
"use strict";

const Dom = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  // A flag is written with tag characters, which are hidden anywhere else.
  const HIDDEN = /\u{1F3F4}[\u{E0020}-\u{E007E}]+\u{E007F}|[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]/gu;
  // Persian and Hindi are written with the joiners, and emoji are made with them.
  const KEPT = new Set(["\n", "\t", "\u200c", "\u200d"]);

  // What a terminal or a browser would obey, or hide, written out: \x1b, U+202E.
  function writtenOut(letter) {
    const code = letter.codePointAt(0);
    const digits = code.toString(16);
    return code < 0x100 ? `\\x${digits.padStart(2, "0")}` : `U+${digits.toUpperCase().padStart(4, "0")}`;
  }

  // [start, end, written out] of each hidden character, in order.
  function hiddenIn(text) {
    const found = [];
    for (const match of text.matchAll(HIDDEN)) {
      const letter = match[0];
      if (KEPT.has(letter) || letter.startsWith("\u{1F3F4}")) continue;
      found.push([match.index, match.index + letter.length, writtenOut(letter)]);
    }
    return found;
  }

  function plain(value) {
    const text = String(value);
    let out = "";
    let at = 0;
    for (const [start, end, shown] of hiddenIn(text)) {
      out += text.slice(at, start) + shown;
      at = end;
    }
    return out + text.slice(at);
  }

  function set(element, name, value) {
    if (name === "on") {
      for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    } else if (name === "style") {
      for (const [property, setting] of Object.entries(value)) element.style.setProperty(property, setting);
    } else if (name.startsWith("aria-") && typeof value === "boolean") {
      element.setAttribute(name, String(value));
    } else if (value === true) {
      element.setAttribute(name, "");
    } else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, plain(value));
    }
  }

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) set(element, name, value);
    for (const child of children.flat(Infinity)) {
      if (child === null || child === undefined || child === false) continue;
      element.append(child instanceof Node ? child : document.createTextNode(plain(child)));
    }
    return element;
  }

  const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, ...children) =>
    fill(document.createElementNS(SVG, tag), attributes, children);

  // What a run says inside a line of ours: its direction of writing must not turn ours round.
  const said = (value, attributes) => el("bdi", attributes, value);

  const absent = (sentence) => el("p", { class: "absent" }, sentence);

  function choice(label, options, value, change) {
    const select = el("select", { "aria-label": label, on: { change: () => change(select.value) } });
    for (const [key, text] of options) select.append(el("option", { value: key }, text));
    select.value = value;
    return el("label", { class: "field" }, el("span", {}, label), select);
  }

  function tick(label, checked, change) {
    const box = el("input", { type: "checkbox", on: { change: () => change(box.checked) } });
    box.checked = checked;
    return el("label", { class: "tick" }, box, label);
  }

  // A table that scrolls inside its own frame where the page is narrow.
  function wide(label, content, caption) {
    const frame = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, content);
    return el("div", {}, frame, caption && el("p", { class: "caption" }, caption));
  }

  return { absent, choice, el, hiddenIn, plain, said, svg, tick, wide };
})();
