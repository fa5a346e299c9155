// Which groups of a run match a filter, from its index alone; and the search of texts, step by step. No element.
"use strict";

const Selection = (() => {
  const NOTHING = { verdict: "all", truncated: false, aha: false, task: "", text: "", order: "step" };
  const ORDERS = {
    step: ["step", (group) => group.start],
    length: ["longest answer", (group, index) => -most(group, index.length)],
    spread: ["most mixed verdicts", (group, index) => Math.abs(share(group, index.right) - 0.5)],
    aha: ["most aha words", (group, index) => -sum(group, index.aha)],
  };
  const PATIENCE = 12; // milliseconds between breaths of the page while it searches

  // The index with its groups: rows [start, end) of one step and group number.
  function prepare(index) {
    const groups = [];
    const at = new Map();
    index.step.forEach((step, row) => {
      const before = groups[groups.length - 1];
      if (before && before.step === step && before.group === index.group[row]) {
        before.end = row + 1;
      } else {
        const group = { step, group: index.group[row], start: row, end: row + 1 };
        groups.push(group);
        at.set(`${step}/${group.group}`, group);
      }
    });
    return { ...index, groups, at, steps: [...new Set(index.step)], asked: asked(index, groups) };
  }

  // The groups of each question, where the index says which question a row has.
  function asked(index, groups) {
    const found = new Map();
    if (!index.question) return found;
    for (const group of groups) {
      const id = index.questions[index.question[group.start]];
      if (id && !found.has(id)) found.set(id, []);
      if (id) found.get(id).push(group);
    }
    return found;
  }

  const questionOf = (index, group) =>
    (index.question && index.questions[index.question[group.start]]) || null;

  function rowMatches(index, row, { verdict, truncated, aha, task }) {
    if (verdict === "right" && index.right[row] !== 1) return false;
    if (verdict === "wrong" && index.right[row] !== 0) return false;
    if (truncated && index.terminated[row] !== 0) return false;
    if (aha && !index.aha[row]) return false;
    return !task || index.tasks[index.task[row]] === task;
  }

  // Groups between two steps with at least one completion that matches; `rows` says which.
  function matching(index, filter, from, to) {
    const found = [];
    for (const group of index.groups) {
      if (group.step < from || group.step > to) continue;
      const rows = [];
      for (let row = group.start; row < group.end; row += 1)
        if (rowMatches(index, row, filter)) rows.push(row);
      if (rows.length) found.push({ ...group, rows });
    }
    return found;
  }

  function ordered(index, groups, order) {
    const key = ORDERS[order][1];
    const keyed = groups.map((group) => [key(group, index), group.start, group]);
    return keyed.sort((a, b) => a[0] - b[0] || a[1] - b[1]).map((one) => one[2]);
  }

  const values = (group, column) => column.slice(group.start, group.end).filter((value) => value !== null);
  const most = (group, column) => Math.max(0, ...values(group, column));
  const sum = (group, column) => values(group, column).reduce((total, value) => total + value, 0);
  const share = (group, column) =>
    values(group, column).length ? sum(group, column) / values(group, column).length : 2;

  const breath = () => new Promise((done) => setTimeout(done, 0));

  // The groups whose question, or a matching completion, contains the text, whatever its case. `report` is told
  // (groups found so far, steps read, steps in all); stops where `signal` is aborted.
  async function search(run, index, groups, text, report, signal) {
    const wanted = text.toLowerCase();
    const steps = [...new Set(groups.map((group) => group.step))].sort((a, b) => a - b);
    const found = [];
    let paused = performance.now();
    for (const [number, step] of steps.entries()) {
      const chunk = await Chunks.fresh(`r${run}-s${step}`);
      for (const group of groups) {
        if (group.step === step) found.push(...containing(index, chunk.groups[group.group], group, wanted));
      }
      if (performance.now() - paused > PATIENCE) {
        report(found, number + 1, steps.length);
        await breath();
        paused = performance.now();
      }
      if (signal.aborted) return found;
    }
    return found;
  }

  function containing(index, content, group, wanted) {
    const has = (text) => typeof text === "string" && text.toLowerCase().includes(wanted);
    if (has(content.question)) return [group];
    const rows = group.rows.filter((row) => has(content.completions[index.place[row]].text));
    return rows.length ? [{ ...group, rows }] : [];
  }

  return { NOTHING, ORDERS, matching, ordered, prepare, questionOf, search };
})();
