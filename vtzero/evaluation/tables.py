"""The summary of an evaluation as a table for the terminal. Knows the summary's keys, and nothing of runs."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from vtzero.terminal import visible

MOST_TASKS = 20
"""Benchmarks of more tasks, such as VSR's relations, show one row for all; the summary has every task."""


def summary_table(
    summary: Mapping[str, Any], *, title: str | None = None, reason: str | None = None
) -> Table:
    """One row a task, and one for all items; below it what is not in the rows above.

    `summary` is what `results.summary` returns, `reason` why the first item was set aside. Percentages have
    two decimals, lengths are in tokens. The paper's scorer has a column where it spoke, CV-Bench's official
    score a row where it can be told.
    """
    with_paper = "accuracy_paper" in summary
    tasks = summary["tasks"] if len(summary["tasks"]) <= MOST_TASKS else {}
    table = Table(
        title=Text(visible(title)) if title else None, caption=_caption(summary, len(tasks), reason)
    )
    table.add_column("task")
    paper = ["paper %"] if with_paper else []
    for name in ("n", "accuracy %", "95 %", "lenient %", *paper, "mean length", "clipped %"):
        table.add_column(name, justify="right")
    for task, figures in tasks.items():
        table.add_row(Text(visible(task)), *_cells(figures, with_paper))
    table.add_section()
    table.add_row("all", *_cells(summary, with_paper))
    if "accuracy_official" in summary:
        table.add_row("official score", *_official_cells(summary, columns=len(table.columns) - 1))
    return table


def _caption(summary: Mapping[str, Any], shown: int, reason: str | None) -> str | None:
    rejected, tasks = summary["rejected"], len(summary["tasks"])
    said = f"; the first: {visible(reason)}" if reason else ""
    lines = [f"{rejected} rejected, in no figure above{said}"] if rejected else []
    if shown < tasks:
        lines.append(f"{tasks} tasks, each in the summary file")
    return "\n".join(lines) or None


def _cells(figures: Mapping[str, Any], with_paper: bool) -> list[str]:
    if not figures["n"]:
        return ["0", *["–"] * (6 if with_paper else 5)]
    low, high = figures["accuracy_interval"]
    return [
        str(figures["n"]),
        f"{figures['accuracy']:.2f}",
        f"{low:.1f} – {high:.1f}",
        f"{figures['accuracy_lenient']:.2f}",
        *([f"{figures['accuracy_paper']:.2f}"] if with_paper else []),
        f"{figures['mean_length']:.1f}",
        f"{100 * figures['clipped_ratio']:.1f}",
    ]


def _official_cells(figures: Mapping[str, Any], columns: int) -> list[str]:
    low, high = figures["accuracy_official_interval"]
    told = [str(figures["n"]), f"{figures['accuracy_official']:.2f}", f"{low:.1f} – {high:.1f}"]
    return told + ["–"] * (columns - len(told))
