"""Plans, searches and changes as tables on the screen. Figures in, text out."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from vtzero.planning.chips import GIB
from vtzero.planning.prediction import OF_BANDWIDTH, OF_LINKS, OF_PEAK
from vtzero.planning.verdict import SPARE


def show_step(figures: dict[str, Any]) -> None:
    """A step on a slice, a row for each program."""
    mesh = _mesh(figures["mesh"])
    held = ", ".join(f"{name} {_bytes(size)}" for name, size in figures["held"].items())
    chosen = ", the fewest that fit" if figures["micro_batches_chosen"] else ""
    title = f"{figures['topology']}: {mesh}; micro-batches {figures['micro_batches']}{chosen}; "
    columns = "program, runs, a chip needs, of it made, fits, FLOP, through memory, received, predicted"
    columns += ", compiled in, with"
    table = _table(
        f"{title}a chip of {_bytes(figures['memory_of_a_chip'])} holds {held}; the rollout's cache is "
        f"{_bytes(figures['cache'])}",
        columns.split(", "),
    )
    for row in figures["programs"]:
        table.add_row(
            row["name"],
            str(row["runs"]),
            "refused" if row["refused"] else _bytes(row["memory"]),
            _bytes(row["temporaries"]),
            "yes" if row["fits"] else "no",
            f"{row['flops']:.2e}",
            _bytes(row["moved_bytes"]),
            _bytes(row["received_bytes"]),
            _seconds(row["predicted_seconds"]),
            f"{row['compile_seconds']:.0f} s",
            _bytes(row["host_memory"]),
        )
    table.add_row(
        *("together", "", "", "", "yes" if figures["fits"] else "no", f"{figures['flops']:.2e}"),
        _bytes(figures["moved_bytes"]),
        _bytes(figures["received_bytes"]),
        _seconds(figures["predicted_seconds"]),
    )
    _print(table)
    for row in figures["programs"]:
        if row["refused"]:
            print(f"{row['name']} was refused: {row['refused']}")


def show_search(topology: str, rows: Sequence[dict[str, Any]], compiled: int, most: int = 20) -> None:
    """The candidates of a slice, the best first."""
    table = _table(
        f"{topology}: {len(rows)} meshes and micro-batches, {compiled} of them compiled",
        ("mesh", "micro-batches", "state", "holds at least", "needs", "predicted", "estimated before"),
    )
    for row in rows[:most]:
        table.add_row(
            _mesh(row["mesh"]),
            str(row["micro_batches"]),
            row["state"],
            _bytes(row["least_memory"]),
            _bytes(row["memory"]),
            _seconds(row["predicted_seconds"]),
            _seconds(row["estimated_seconds"]),
        )
    _print(table)
    if len(rows) > most:
        print(f"and {len(rows) - most} more (--json has them)")


def show_changes(rows: Sequence[dict[str, Any]], hint: str) -> None:
    """What was tried where a step did not fit, and what did fit."""
    table = _table("It does not fit. Tried, in this order:", ("slice", "flags", "state"))
    for row in rows:
        table.add_row(row["topology"], row["flags"], row["state"])
    _print(table)
    if not any(row["state"] == "fits" for row in rows):
        print("None of these fits; raise --compile-at-most to try more, or lower max_completion_length.")
    if hint:
        print(hint)


def show_assumptions() -> None:
    """What the figures mean."""
    print(
        f"Predicted: the greater of operations at {OF_PEAK:.0%} of the published peak and bytes at "
        f"{OF_BANDWIDTH:.0%} of the bandwidth, and what is received at {OF_LINKS:.0%} of the links with "
        f"nothing hidden. FLOP and bytes through memory are of all chips, the rest of one. "
        f"Fits: {SPARE:.0%} of the memory to spare."
    )


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, box=None, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _print(table: Table) -> None:
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


def _mesh(axes: dict[str, int]) -> str:
    return ", ".join(f"{axis} {size}" for axis, size in axes.items())


def _bytes(size: float | None) -> str:
    if size is None:
        return "-"
    return f"{size / GIB:,.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:,.2f} MiB"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:,.2f} s"
