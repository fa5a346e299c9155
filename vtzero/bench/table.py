"""What was measured as tables for a person and as one dictionary for a script."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from vtzero.bench.comparisons import Difference
from vtzero.bench.grouped import Ratio
from vtzero.bench.growth import Growth
from vtzero.bench.phases import Phase
from vtzero.training.ceilings import Limits, Measured


def phase_figures(phase: Phase, limits: Limits, peak: Limits | None, devices: int) -> dict[str, Any]:
    """A phase against what the devices could do; `peak` is what their maker says, None where unknown.

    `floor_seconds` is the greater of its operations over the ceiling and its bytes over the bandwidth.
    """
    seconds = max(phase.seconds, 1e-9)
    floor = max(phase.flops / limits.flops, phase.bytes / limits.bandwidth) / devices
    return asdict(phase) | {
        "tokens_per_second": phase.tokens / seconds,
        "completions_per_second": phase.completions / seconds,
        "mfu": phase.flops / (seconds * devices * limits.flops),
        "mfu_published": phase.flops / (seconds * devices * peak.flops) if peak else None,
        "bandwidth": phase.bytes / (seconds * devices * limits.bandwidth),
        "floor_seconds": floor,
        "times_floor": seconds / floor,
    }


def phase_table(rows: Sequence[dict[str, Any]]) -> Table:
    """One row a phase."""
    columns = ["time", "tokens/s", "completions/s", "MFU", "MFU (published)", "bandwidth", "floor", "x floor"]
    table = _table("phase", [*columns, "memory"])
    for row in rows:
        table.add_row(
            row["name"],
            seconds(row["seconds"]),
            f"{row['tokens_per_second']:,.0f}",
            f"{row['completions_per_second']:,.2f}",
            percent(row["mfu"]),
            percent(row["mfu_published"]),
            percent(row["bandwidth"]),
            seconds(row["floor_seconds"]),
            f"{row['times_floor']:.1f}",
            size(row["memory"]),
        )
    return table


def ceiling_figures(measured: Measured, peak: Limits | None) -> dict[str, Any]:
    """The ceilings, and each measurement that they are the best of."""
    limits = measured.limits
    return {
        "flops_per_second": limits.flops,
        "bytes_per_second": limits.bandwidth,
        "matmul": {str(side): value for side, value in measured.matmul.items()},
        "memory": dict(measured.memory),
        "published": asdict(peak) if peak else None,
    }


def ceiling_table(measured: Measured, peak: Limits | None) -> Table:
    """One row a measurement."""
    table = _table("ceiling", ["measured", "of the published"])
    for side, value in measured.matmul.items():
        table.add_row(
            f"product of {side} x {side}",
            f"{value / 1e12:,.3f} TFLOP/s",
            percent(value / peak.flops if peak else None),
        )
    for name, value in measured.memory.items():
        table.add_row(
            f"memory, {name}", f"{value / 1e9:,.1f} GB/s", percent(value / peak.bandwidth if peak else None)
        )
    return table


def growth_figures(row: Growth) -> dict[str, Any]:
    return asdict(row) | {"overhead": row.overhead}


def growth_table(rows: Sequence[Growth]) -> Table:
    """One row a length."""
    table = _table(
        "tokens so far", ["time a token", "cache of full length", "cache of just that", "overhead", "floor"]
    )
    for row in rows:
        times = (seconds(time) for time in (row.seconds, row.fixed, row.exact))
        table.add_row(str(row.length), *times, percent(row.overhead), seconds(row.floor))
    return table


def grouped_figures(row: Ratio) -> dict[str, Any]:
    return asdict(row) | {"seconds": row.seconds}


def grouped_table(rows: Sequence[Ratio]) -> Table:
    """One row a part and direction."""
    table = _table("flattened / grouped", ["ideal", "operations", "time", "grouped", "flattened"])
    for row in rows:
        direction = "and backward" if row.backward else "forward"
        table.add_row(
            f"{row.case}: {row.part} {direction}",
            f"{row.ideal:.2f}",
            f"{row.flops:.2f}",
            "" if row.seconds is None else f"{row.seconds:.2f}",
            seconds(row.grouped_seconds),
            seconds(row.flattened_seconds),
        )
    return table


def difference_figures(row: Difference) -> dict[str, Any]:
    return asdict(row) | {"ratio": row.ratio}


def difference_table(rows: Sequence[Difference]) -> Table:
    """One row a change and phase."""
    table = _table("change", ["phase", "before", "after", "after / before", "memory before", "after"])
    for row in rows:
        change = f"{row.key}: {_value(row.baseline_value)} -> {_value(row.value)}"
        if row.failed:
            table.add_row(change, row.phase, seconds(row.baseline_seconds), f"failed: {row.failed}")
            continue
        table.add_row(
            change,
            row.phase,
            seconds(row.baseline_seconds),
            seconds(row.seconds),
            "" if row.ratio is None else f"{row.ratio:.2f}",
            size(row.baseline_memory),
            size(row.memory),
        )
    return table


def seconds(value: float | None) -> str:
    """A time in the unit that suits it."""
    if value is None:
        return ""
    return f"{value:,.2f} s" if value >= 1 else f"{value * 1e3:,.3g} ms"


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}".replace("%", " %")


def size(value: int | None) -> str:
    """Bytes in MiB or GiB."""
    if value is None:
        return ""
    return f"{value / 2**30:,.1f} GiB" if value >= 2**30 else f"{value / 2**20:,.1f} MiB"


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def _table(first: str, others: Sequence[str]) -> Table:
    table = Table(box=None, header_style="bold")
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right")
    return table
