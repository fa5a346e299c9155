// Numbers, times and settings as people read them. Knows no element and no run.
"use strict";

const Numbers = (() => {
  const NONE = "–";
  const MINUS = "−";
  const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
  const signless = (text) => text.replace("-", MINUS);

  // As Python rounds, so that the terminal says the same: a number exactly in the middle, which then is a
  // multiple of a power of two, goes to the even digit; toFixed would take the greater.
  function rounded(value, digits) {
    const halves = value * 2 ** (digits + 1);
    if (!Number.isInteger(halves) || halves % 2 === 0) return value.toFixed(digits);
    const below = Math.floor(value * 10 ** digits);
    return ((below % 2 === 0 ? below : below + 1) / 10 ** digits).toFixed(digits);
  }

  function fixed(value, digits) {
    if (!isNumber(value)) return NONE;
    const options = { minimumFractionDigits: digits, maximumFractionDigits: digits };
    return signless(Number(rounded(value, digits)).toLocaleString("en-US", options));
  }

  const whole = (value) => fixed(value, 0);
  const percent = (value) => (isNumber(value) ? `${fixed(value, 1)} %` : NONE);
  const signed = (value, digits = 2) => (value > 0 ? `+${fixed(value, digits)}` : fixed(value, digits));

  // About four figures, whatever the size.
  function short(value) {
    if (!isNumber(value)) return NONE;
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size < 1e-3 || size >= 1e7) {
      const [mantissa, exponent] = value.toExponential(2).split("e");
      return signless(`${mantissa}e${Number(exponent)}`);
    }
    return fixed(value, size >= 1000 ? 0 : size >= 100 ? 1 : size >= 1 ? 2 : 4);
  }

  const interval = (pair, digits = 1) =>
    Array.isArray(pair) && pair.every(isNumber)
      ? `${fixed(pair[0], digits)}–${fixed(pair[1], digits)}`
      : NONE;

  function duration(seconds) {
    if (!isNumber(seconds)) return NONE;
    if (seconds < 60) return `${fixed(seconds, seconds < 10 ? 1 : 0)} s`;
    const minutes = Math.round(seconds / 60);
    if (minutes < 60) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
    return minutes < 2880
      ? `${Math.floor(minutes / 60)} h ${minutes % 60} min`
      : `${Math.floor(minutes / 1440)} d ${Math.floor((minutes % 1440) / 60)} h`;
  }

  const plural = (count, one, many = `${one}s`) => `${whole(count)} ${count === 1 ? one : many}`;

  // A setting of a recipe, as its file would say it.
  function setting(value) {
    if (value === null || value === undefined) return "none";
    if (Array.isArray(value)) return value.length ? value.map(setting).join(", ") : "none";
    if (typeof value === "object") {
      return Object.entries(value)
        .map(([key, item]) => `${key} ${setting(item)}`)
        .join(", ");
    }
    return String(value);
  }

  return { NONE, duration, fixed, interval, isNumber, percent, plural, setting, short, signed, whole };
})();
