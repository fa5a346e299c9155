"""The summary of an evaluation as a table for the terminal. Knows the summary's keys, and nothing of runs."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text


def summary_table(summary: Mapping[str, Any], *, title: str | None = None) -> Table:
    """One row a task, and one for all items; below it how many were set aside, if any.

    `summary` is what `runner.summary` returns. Percentages have two decimals, lengths are in tokens.
    """
    rejected = summary["rejected"]
    caption = f"{rejected} rejected, in no figure above" if rejected else None
    table = Table(title=Text(title) if title else None, caption=caption)
    table.add_column("task")
    for name in ("n", "accuracy %", "95 %", "lenient %", "mean length", "clipped %"):
        table.add_column(name, justify="right")
    for task, figures in summary["tasks"].items():
        table.add_row(Text(task), *_cells(figures))
    table.add_section()
    table.add_row("all", *_cells(summary))
    return table


def _cells(figures: Mapping[str, Any]) -> list[str]:
    if not figures["n"]:
        return ["0", "–", "–", "–", "–", "–"]
    low, high = figures["accuracy_interval"]
    return [
        str(figures["n"]),
        f"{figures['accuracy']:.2f}",
        f"{low:.1f} – {high:.1f}",
        f"{figures['accuracy_lenient']:.2f}",
        f"{figures['mean_length']:.1f}",
        f"{100 * figures['clipped_ratio']:.1f}",
    ]
