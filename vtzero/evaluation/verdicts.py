"""Which scorers judge the outputs of a benchmark, and what each of them says. Knows text and items only."""

import re
from dataclasses import dataclass
from typing import Literal

from vtzero.evaluation.items import BenchmarkItem
from vtzero.evaluation.scorers import SCORERS, lenient, lenient_math, math, paper, strict

Scoring = Literal["choices", "paper_choices", "superclevr", "geoqa", "math"]
"""How a benchmark is scored: by the strict and lenient scorers, the paper's beside them, by R1-V's, or as
numbers."""


_NUMBER = re.compile(r"-?\d+(\.\d+)?")


@dataclass(frozen=True)
class Verdict:
    """Whether an output is correct: as this project counts, leniently, and as the paper counts.

    `correct_paper` is None where the paper has no such benchmark.
    """

    correct: bool
    correct_lenient: bool
    correct_paper: bool | None = None


def judge(output: str, item: BenchmarkItem, scoring: Scoring) -> Verdict:
    """The verdict on one output.

    "choices" and "paper_choices" are the strict and lenient scorers'; "superclevr" and "geoqa" are R1-V's own
    evaluations, of which the lenient verdict forgives missing tags too; "math" compares expressions.

    Raises `vtzero.rewards.symbolic.SymbolicError` when math-verify has no result.
    """
    if scoring == "math":
        return Verdict(math(output, item), lenient_math(output, item))
    if scoring in ("superclevr", "geoqa"):
        own = SCORERS[scoring](output, item)
        return Verdict(own, own or lenient(output, item))
    by_paper = paper(output, item) if scoring == "paper_choices" else None
    return Verdict(strict(output, item), lenient(output, item), by_paper)


def check_answer(item: BenchmarkItem, scoring: Scoring) -> None:
    """Raise ValueError when the item's own answer is none that its scorer can compare an output with."""
    if scoring == "superclevr" and not item.answer.isdecimal():
        raise ValueError(f"its answer {item.answer!r} is not a whole number")
    if scoring == "math" and not _NUMBER.fullmatch(item.answer):
        raise ValueError(f"its answer {item.answer!r} is not a number")
