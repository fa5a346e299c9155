"""Which scorers judge the outputs of a benchmark, and what each of them says. Knows text and items only."""

import re
from dataclasses import dataclass
from typing import Literal

from vtzero.evaluation.items import BenchmarkItem
from vtzero.evaluation.scorers import SCORERS
from vtzero.rewards.accuracy import lenient_accuracy, strict_accuracy
from vtzero.rewards.symbolic import parse_math, verify_math
from vtzero.rewards.text import conclusion, tagged_answer, without_tags

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

    "choices" and "paper_choices" follow `is_correct`; "superclevr" and "geoqa" are R1-V's own evaluations,
    of which the lenient verdict forgives missing tags too; "math" follows `math_correct`.
    """
    if scoring == "math":
        return Verdict(*math_correct(output, item))
    strictly, leniently = is_correct(output, item)
    if scoring in ("superclevr", "geoqa"):
        own = SCORERS[scoring](output, item)
        return Verdict(own, own or leniently)
    return Verdict(
        strictly, leniently, SCORERS["paper"](output, item) if scoring == "paper_choices" else None
    )


def is_correct(output: str, item: BenchmarkItem) -> tuple[bool, bool]:
    """Whether an output answers an item, strictly and leniently.

    Items with choices go to the scorers of those names; open questions, which have nothing to choose from, to
    the accuracy rewards of those names.
    """
    if item.choices:
        return SCORERS["strict"](output, item), SCORERS["lenient"](output, item)
    return strict_accuracy(output, item.answer) == 1.0, lenient_accuracy(output, item.answer) == 1.0


def math_correct(output: str, item: BenchmarkItem) -> tuple[bool, bool]:
    """Whether math-verify finds an output's answer equal to the item's, strictly and leniently.

    Strictly, the answer is the last closed `<answer>…</answer>`; leniently, where that is wrong, the last
    expression after `</think>`, tags or not.
    """
    gold = parse_math(item.answer)
    said = tagged_answer(output)
    if said is not None and verify_math(gold=gold, target=parse_math(said)):
        return True, True
    return False, verify_math(gold=gold, target=parse_math(without_tags(conclusion(output))))


def check_answer(item: BenchmarkItem, scoring: Scoring) -> None:
    """Raise ValueError when the item's own answer is none that its scorer can compare an output with."""
    if scoring == "superclevr" and not item.answer.isdecimal():
        raise ValueError(f"its answer {item.answer!r} is not a whole number")
    if scoring == "math" and not _NUMBER.fullmatch(item.answer):
        raise ValueError(f"its answer {item.answer!r} is not a number")
