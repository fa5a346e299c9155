// The parts of the page that are decoded only when they are shown. Knows names and bytes; knows no completions.
"use strict";

const Chunks = (() => {
  const KEPT = 24; // decoded parts; a step of 64 long answers is about a megabyte
  const IMAGE = /^image\/[a-z0-9.+-]+$/;
  const recent = new Map();
  const read = new Promise((done) => {
    if (document.readyState === "loading")
      document.addEventListener("DOMContentLoaded", done, { once: true });
    else done();
  });

  // Parts stand behind this script in the file, so one may not have arrived yet.
  async function element(name) {
    const there = document.readyState === "loading" ? null : document.getElementById(name);
    if (there) return there;
    await read;
    const found = document.getElementById(name);
    if (!found) throw new Error(`this page lacks its part ${name}: the file may have been cut short`);
    return found;
  }

  function bytes(text) {
    const letters = atob(text);
    const out = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i += 1) out[i] = letters.charCodeAt(i);
    return out;
  }

  // Decoded, and not kept.
  async function fresh(name) {
    if (typeof DecompressionStream === "undefined") {
      throw new Error(
        "this browser cannot decompress (no DecompressionStream): a version of 2023 or newer can",
      );
    }
    const packed = new Blob([bytes((await element(name)).textContent)]);
    return new Response(packed.stream().pipeThrough(new DecompressionStream("gzip"))).json();
  }

  // Decoded, and kept among the last ones that were asked for.
  function json(name) {
    const found = recent.get(name) || fresh(name);
    recent.delete(name);
    recent.set(name, found);
    if (recent.size > KEPT) recent.delete(recent.keys().next().value);
    found.catch(() => recent.delete(name));
    return found;
  }

  async function image(name) {
    const found = await element(name);
    const type = found.dataset.type;
    if (!IMAGE.test(type)) throw new Error(`part ${name} is no picture`);
    return `data:${type};base64,${found.textContent}`;
  }

  return { fresh, image, json };
})();
