// Scales, round ticks, smoothing and thinning of curves, and how runs are told apart. Pure functions of numbers.
"use strict";

const Scales = (() => {
  // Okabe and Ito's colours, in the order of --c0 … of the style sheet; never by colour alone.
  const COLOURS = 7;
  const DASHES = ["", "7 3", "2 3", "9 3 2 3", "12 4", "4 2 1 2"];
  const MARKERS = ["circle", "square", "triangle", "diamond", "cross", "down"];

  function look(number) {
    return {
      colour: `var(--c${number % COLOURS})`,
      dash: DASHES[number % DASHES.length],
      marker: MARKERS[number % MARKERS.length],
    };
  }

  function linear([low, high], [from, to]) {
    const span = high - low || 1;
    const scale = (value) => from + ((value - low) / span) * (to - from);
    scale.invert = (place) => low + ((place - from) / (to - from || 1)) * span;
    return scale;
  }

  function logarithmic([low, high], range) {
    const inner = linear([Math.log10(low), Math.log10(high)], range);
    return (value) => inner(Math.log10(value));
  }

  // Steps of 1, 2 or 5 times a power of ten.
  function ticks([low, high], wanted) {
    const span = high - low || Math.abs(high) || 1;
    const power = 10 ** Math.floor(Math.log10(span / wanted));
    const step = [1, 2, 5, 10].map((by) => by * power).find((size) => span / size <= wanted) || 10 * power;
    const found = [];
    for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n += 1)
      found.push(n * step || 0);
    return found;
  }

  function logTicks([low, high], wanted) {
    const first = Math.floor(Math.log10(low) + 1e-9);
    const last = Math.ceil(Math.log10(high) - 1e-9);
    const by = Math.max(1, Math.ceil((last - first) / wanted));
    const found = [];
    for (let power = first; power <= last; power += by) found.push(10 ** power);
    const inside = found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
    return inside.length > 1 ? inside : [low, high];
  }

  function extent(values) {
    let low = Infinity;
    let high = -Infinity;
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    return low <= high ? [low, high] : null;
  }

  // A little air; from zero where zero is near, since a share or a length is read from there.
  function padded([low, high]) {
    if (low === high) {
      const air = Math.abs(low) * 0.1 || 1;
      return low === 0 ? [0, 1] : [low - air, high + air];
    }
    const air = (high - low) * 0.06;
    const bottom = low >= 0 && low < (high - low) * 0.6 ? 0 : low - air;
    return [bottom, high === 0 ? 0 : high + air];
  }

  const positive = (values) => values.filter((value) => value > 0);

  function wantsLog(values) {
    const sorted = positive(values).sort((a, b) => a - b);
    if (sorted.length < 8 || sorted.length < values.length * 0.9) return false;
    const at = (share) => sorted[Math.floor(share * (sorted.length - 1))];
    return at(0.95) / at(0.05) > 50;
  }

  // TensorBoard's: an exponential mean, corrected for its start from nothing.
  function smoothed(values, weight) {
    if (weight <= 0) return values;
    let sum = 0;
    let share = 0;
    return values.map((value) => {
      sum = weight * sum + (1 - weight) * value;
      share = weight * share + (1 - weight);
      return sum / share;
    });
  }

  // At most the lowest and the highest point of each column of pixels: no eye sees more.
  function thinned(points, columns) {
    if (points.length <= 4 * columns) return points;
    const size = points.length / columns;
    const kept = [];
    for (let column = 0; column < columns; column += 1) {
      const part = points.slice(Math.floor(column * size), Math.floor((column + 1) * size));
      let low = part[0];
      let high = part[0];
      for (const point of part) {
        if (point[1] < low[1]) low = point;
        if (point[1] > high[1]) high = point;
      }
      kept.push(...(low[0] <= high[0] ? [low, high] : [high, low]));
    }
    return kept;
  }

  // The place of the largest x that is not beyond `step`, or of the first; xs ascend.
  function placeOf(xs, step) {
    let low = 0;
    let high = xs.length - 1;
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (xs[middle] <= step) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  function markerPath(kind, x, y, r) {
    const p = (dx, dy) => `${(x + dx * r).toFixed(1)} ${(y + dy * r).toFixed(1)}`;
    if (kind === "square") return `M${p(-0.9, -0.9)}L${p(0.9, -0.9)}L${p(0.9, 0.9)}L${p(-0.9, 0.9)}Z`;
    if (kind === "triangle") return `M${p(0, -1.2)}L${p(1.1, 0.9)}L${p(-1.1, 0.9)}Z`;
    if (kind === "down") return `M${p(0, 1.2)}L${p(1.1, -0.9)}L${p(-1.1, -0.9)}Z`;
    if (kind === "diamond") return `M${p(0, -1.3)}L${p(1.3, 0)}L${p(0, 1.3)}L${p(-1.3, 0)}Z`;
    if (kind === "cross") {
      const arm = [
        [-1.2, -0.4],
        [-0.4, -0.4],
        [-0.4, -1.2],
        [0.4, -1.2],
        [0.4, -0.4],
        [1.2, -0.4],
      ];
      const all = [...arm, ...arm.map(([a, b]) => [-a, -b])];
      return `M${all.map(([a, b]) => p(a, b)).join("L")}Z`;
    }
    return `M${p(-1, 0)}A${r} ${r} 0 1 0 ${p(1, 0)}A${r} ${r} 0 1 0 ${p(-1, 0)}Z`;
  }

  return {
    extent,
    linear,
    logTicks,
    logarithmic,
    look,
    markerPath,
    padded,
    placeOf,
    positive,
    smoothed,
    thinned,
    ticks,
    wantsLog,
  };
})();
