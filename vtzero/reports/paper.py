"""The tables of the paper as printed (arXiv 2503.05132v2), and an audit of them by their own arithmetic.

Numbers and arithmetic only: knows no run and no file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

CV_BENCH = ("Count", "Relation", "Depth", "Distance")
BLINK = ("Relative_Depth", "Spatial_Relation")
COUNTS: Mapping[str, int] = {
    "Count": 788,
    "Relation": 650,
    "Depth": 600,
    "Distance": 600,
    "Relative_Depth": 124,
    "Spatial_Relation": 143,
}
"""Items of each part: CV-Bench's test split, and BLINK's validation split."""

COLUMNS: Mapping[int, tuple[str, ...]] = {
    3: (*CV_BENCH, "Total", "BLINK", "VSR"),
    4: (*CV_BENCH, "Total"),
    5: (*CV_BENCH, "Total"),
}


@dataclass(frozen=True)
class PaperRow:
    """A row of a table as printed, in percent; `parts` are figures printed elsewhere that make up a cell."""

    name: str
    cells: Mapping[str, float]
    parts: Mapping[str, float] = field(default_factory=dict)


def _row(name: str, *cv_bench: float, parts: tuple[float, float] | None = None, **more: float) -> PaperRow:
    cells = dict(zip((*CV_BENCH, "Total"), cv_bench, strict=True)) | more
    return PaperRow(name, cells, dict(zip(BLINK, parts, strict=True)) if parts else {})


TABLES: Mapping[int, tuple[PaperRow, ...]] = {
    3: (
        _row("Qwen2-VL-2B", 54.69, 22.46, 0.16, 31.66, 31.38, BLINK=6.74, VSR=0.0),
        _row("Qwen2-VL-2B + SFT", 60.02, 68.92, 55.00, 45.83, 57.84, BLINK=52.43, VSR=35.80),
        _row(
            "VisualThinker-R1-Zero",
            59.64,
            66.76,
            54.16,
            56.66,
            59.47,
            parts=(50.80, 55.94),
            BLINK=53.18,
            VSR=62.32,
        ),
    ),
    4: (
        _row("Qwen2-VL-2B-Instruct", 45.43, 68.92, 58.66, 51.66, 55.64),
        _row("Instruct + RL, with reason", 69.54, 61.84, 66.50, 65.50, 66.03),
    ),
    5: (
        _row("Instruct + RL, nothing frozen", 61.68, 71.08, 61.50, 60.00, 63.57),
        _row("Instruct + RL, vision frozen", 64.21, 78.00, 65.67, 66.00, 68.34),
        _row("Instruct + RL, LLM frozen", 62.05, 72.46, 65.17, 62.17, 65.35),
    ),
}


def correct_count(percent: float, count: int) -> int:
    """How many of `count` items give a printed percentage; the paper both truncates and rounds."""
    return round(percent * count / 100)


def micro_average(parts: Mapping[str, float]) -> float:
    """The percentage over all items of parts whose percentages are printed."""
    correct = sum(correct_count(percent, COUNTS[name]) for name, percent in parts.items())
    return 100 * correct / sum(COUNTS[name] for name in parts)


def contradictions(row: PaperRow) -> dict[str, str]:
    """Cells that the row's own figures contradict, and what follows from them.

    A total that is not the micro average of its parts by more than the two printed decimals is wrong, or one
    of its parts is: where a part that lacks a leading digit explains the difference, the part is named.
    """
    found = {}
    parts = {name: row.cells[name] for name in CV_BENCH if name in row.cells}
    if parts and not _agrees(row.cells["Total"], micro_average(parts)):
        cell, value = _dropped_digit(parts, row.cells["Total"]) or ("Total", micro_average(parts))
        found[cell] = f"{cell} is printed {row.cells[cell]:.2f}; the other cells give {value:.2f}"
    if row.parts and not _agrees(row.cells["BLINK"], micro_average(row.parts)):
        of = " and ".join(f"{percent:.2f}" for percent in row.parts.values())
        value = micro_average(row.parts)
        found["BLINK"] = f"BLINK is printed {row.cells['BLINK']:.2f}; its parts, {of}, give {value:.2f}"
    return found


def _agrees(printed: float, computed: float) -> bool:
    return abs(printed - computed) < 0.0101


def _dropped_digit(parts: Mapping[str, float], total: float) -> tuple[str, float] | None:
    for name, percent in parts.items():
        for tens in range(10, 100, 10):
            mended = {**parts, name: percent + tens}
            if percent < 10 and _agrees(total, micro_average(mended)):
                return name, percent + tens
    return None
