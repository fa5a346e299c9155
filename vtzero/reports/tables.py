"""The paper's Tables 3, 4 and 5 with the rows of our own runs below them. Knows no file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from rich.table import Table
from rich.text import Text

from vtzero.evaluation.totals import Scored as ScoredItem
from vtzero.evaluation.totals import Total, has_official, micro_total, official_total
from vtzero.reports.paper import COLUMNS, CV_BENCH, TABLES, PaperRow, contradictions
from vtzero.reports.results import Result
from vtzero.terminal import visible

_MARKS = "*†‡§"
_PARTED = ("cv_bench", "scenes")
"""Benchmarks with the four question families of CV-Bench, a column each; others are a column as a whole."""


@dataclass(frozen=True)
class Cell:
    """Accuracies in percent, one a run (seed), over `n` items each, and the mean of their 95 % intervals.

    Runs answer the same items, so that more runs do not make the interval narrower.
    """

    values: tuple[float, ...]
    n: int
    interval: tuple[float, float]

    def text(self) -> str:
        """Mean, and the deviation between runs where there are several."""
        spread = f" ± {stdev(self.values):.2f}" if len(self.values) > 1 else ""
        return f"{mean(self.values):.2f}{spread}"


@dataclass(frozen=True)
class Row:
    """Our figures of one label on one benchmark with its parts, or on those that are a column each."""

    label: str
    benchmarks: tuple[str, ...]
    cells: Mapping[str, Cell]


def our_rows(results: Sequence[Result]) -> list[Row]:
    """Evaluations grouped by label, and by the benchmark that fills the columns of the question families."""
    rows = []
    for label in dict.fromkeys(result.label for result in results):
        own = [result for result in results if result.label == label]
        parted = [name for name in _PARTED if any(result.benchmark == name for result in own)]
        for benchmark in parted or [""]:
            others = [s for s in own if s.benchmark not in _PARTED]
            chosen = [s for s in own if s.benchmark == benchmark] + (others if benchmark != "scenes" else [])
            names = tuple(dict.fromkeys(result.benchmark for result in chosen))
            rows.append(Row(label, names, _cells(chosen)))
    return rows


def _cells(results: Sequence[Result]) -> dict[str, Cell]:
    groups: dict[str, list[Total]] = {}
    for result in results:
        for column, items in _columns(result).items():
            groups.setdefault(column, []).append(micro_total(items))
    cells = {column: _cell(runs) for column, runs in groups.items()}
    whole = [result.items for result in results if has_official(result.items)]
    if whole:
        cells["official"] = _cell([official_total(items) for items in whole])
    return cells


def _columns(result: Result) -> dict[str, list[ScoredItem]]:
    every = list(result.items)
    if result.benchmark not in _PARTED:
        return {result.benchmark.upper(): every}
    parts = {name: [item for item in every if item[0] == name] for name in CV_BENCH}
    return {name: items for name, items in parts.items() if items} | {"Total": every}


def _cell(runs: Sequence[Total]) -> Cell:
    low, high = (mean(run.interval[side] for run in runs) for side in (0, 1))
    return Cell(tuple(run.accuracy for run in runs), runs[0].n, (low, high))


def paper_table(number: int, results: Sequence[Result], scorer: str) -> Table:
    """The table as printed, its contradicted cells marked and explained below, and our rows.

    Raises ValueError for a table that is none of the paper's results.
    """
    if number not in TABLES:
        known = ", ".join(map(str, TABLES))
        raise ValueError(f"there is no table {number}; the tables of results are {known}")
    columns = list(COLUMNS[number])
    rows = our_rows(results)
    columns += ["official"] if any("official" in row.cells for row in rows) else []
    notes: list[str] = []
    table = Table(
        title=f"Table {number}: accuracy in percent (paper as printed; ours by the {scorer} scorer)"
    )
    for name in ("", *columns):
        table.add_column(name, justify="right" if name else "left", overflow="fold")
    for paper_row in TABLES[number]:
        table.add_row(Text(paper_row.name), *_printed(paper_row, columns, notes))
    table.add_section()
    for row in rows:
        cells = [row.cells[name].text() if name in row.cells else "" for name in columns]
        table.add_row(Text(visible(f"ours: {row.label} ({', '.join(row.benchmarks)})")), *cells)
        bounds = [_interval(row.cells.get(name)) for name in columns]
        table.add_row(Text("  n, 95 %", style="dim"), *bounds)
    table.caption = Text("\n".join(notes)) if notes else None
    return table


def _printed(row: PaperRow, columns: Sequence[str], notes: list[str]) -> list[str]:
    found = contradictions(row)
    cells = []
    for name in columns:
        text = f"{row.cells[name]:.2f}" if name in row.cells else ""
        if name in found:
            mark = _MARKS[len(notes) % len(_MARKS)]
            notes.append(f"{mark} {row.name}: {found[name]}")
            text += mark
        cells.append(text)
    return cells


def _interval(cell: Cell | None) -> str:
    if cell is None:
        return ""
    runs = f"{len(cell.values)} × " if len(cell.values) > 1 else ""
    return f"{runs}{cell.n}, {cell.interval[0]:.1f}–{cell.interval[1]:.1f}"


def table_figures(number: int, results: Sequence[Result], scorer: str) -> dict[str, Any]:
    """The same in JSON's types: the paper's rows with their contradictions, and ours."""
    return {
        "table": number,
        "scorer": scorer,
        "paper": [
            {"row": row.name, "cells": dict(row.cells), "contradicted": contradictions(row)}
            for row in TABLES[number]
        ],
        "ours": [
            {
                "row": row.label,
                "benchmarks": list(row.benchmarks),
                "cells": {name: _cell_figures(cell) for name, cell in row.cells.items()},
            }
            for row in our_rows(results)
        ],
    }


def _cell_figures(cell: Cell) -> dict[str, Any]:
    return {
        "accuracy": mean(cell.values),
        "runs": list(cell.values),
        "n": cell.n,
        "interval": list(cell.interval),
    }
