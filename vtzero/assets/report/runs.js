// What a payload says of its runs, made even: titles, looks, series without gaps, evaluations in order. Pure: no element.
"use strict";

const Runs = (() => {
  const { isNumber } = Numbers;
  const SCORINGS = [
    ["accuracy", "strict"],
    ["accuracy_lenient", "lenient"],
    ["accuracy_paper", "paper's"],
  ];
  const WORDS = new Set(["name", "label", "status"]);

  function read(payload) {
    const runs = (payload.runs || []).map((run, number) => even(run, number));
    for (const run of runs) {
      const twins = runs.filter((other) => other.label === run.label);
      run.title =
        run.label && twins.length === 1 ? run.label : run.name || run.label || `run ${run.number + 1}`;
    }
    return runs;
  }

  function even(run, number) {
    const out = { ...run, number, look: Scales.look(number), metrics: run.metrics || {} };
    for (const word of WORDS)
      out[word] = run[word] === null || run[word] === undefined ? "" : String(run[word]);
    out.evaluations = [...(run.evaluations || [])].sort((a, b) => (a.step || 0) - (b.step || 0));
    out.warnings = run.warnings || [];
    return out;
  }

  // A metric's numbers with their steps, in order; what is missing is left out. Null where there are none.
  function series(run, name) {
    const steps = run.metrics.step || [];
    const points = [];
    (run.metrics[name] || []).forEach((value, i) => {
      if (isNumber(value) && isNumber(steps[i])) points.push([steps[i], value]);
    });
    if (!points.length) return null;
    points.sort((a, b) => a[0] - b[0]);
    return { x: points.map((point) => point[0]), y: points.map((point) => point[1]) };
  }

  function last(run, name) {
    const found = series(run, name);
    return found ? found.y[found.y.length - 1] : null;
  }

  // Over all steps, as those that were logged let expect.
  function sum(run, name) {
    const found = series(run, name);
    if (!found) return null;
    const logged = found.y.reduce((total, value) => total + value, 0);
    return (logged / found.y.length) * run.last_step;
  }

  function metricNames(runs) {
    const names = new Set(runs.flatMap((run) => Object.keys(run.metrics)));
    names.delete("step");
    return [...names].filter((name) => runs.some((run) => series(run, name))).sort();
  }

  const benchmarks = (runs) => [
    ...new Set(runs.flatMap((run) => run.evaluations.map((one) => one.benchmark))),
  ];

  const scorings = (runs) =>
    SCORINGS.filter(([key]) => runs.some((run) => run.evaluations.some((one) => isNumber(one[key]))));

  const evaluations = (run, benchmark) => run.evaluations.filter((one) => one.benchmark === benchmark);

  // The evaluation before training, or null, and the last one, or null: a run may have only one.
  function ends(run, benchmark) {
    const own = evaluations(run, benchmark);
    // A model that was only evaluated, whatever its step, is at its end.
    const before = own.length > 1 && own[0].step === 0 ? own[0] : null;
    const after = own.length && own[own.length - 1] !== before ? own[own.length - 1] : null;
    return { before, after };
  }

  // {name, look, evaluation} of each bar: the bases, once where runs share one, then the runs at their end.
  function rows(runs, benchmark) {
    const bases = [];
    const trained = [];
    for (const run of runs) {
      const { before, after } = ends(run, benchmark);
      if (before && !bases.some((base) => same(base.evaluation, before)))
        bases.push({ run, evaluation: before });
      if (after) trained.push({ name: run.title, look: run.look, evaluation: after });
    }
    const look = { colour: "var(--muted-bar)" };
    const name = ({ run }) => (bases.length > 1 ? `base of ${run.title} (step 0)` : "base (step 0)");
    return [...bases.map((base) => ({ name: name(base), look, evaluation: base.evaluation })), ...trained];
  }

  const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

  return { SCORINGS, benchmarks, ends, evaluations, last, metricNames, read, rows, scorings, series, sum };
})();
