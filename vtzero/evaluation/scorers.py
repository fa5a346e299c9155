"""Scorers: whether a model's output answers a benchmark item.

A scorer is `scorer(output, item) -> bool` and a pure function, so that stored outputs can be scored again.
`strict` is what this project reports; `paper` repeats the published evaluation, free credit included;
`superclevr` and `geoqa` are R1-V's. They know text and items, no model.
"""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from vtzero.evaluation.extraction import choice_text, last_stated_choice, paper_answer, resolve_choice
from vtzero.evaluation.items import BenchmarkItem
from vtzero.rewards.symbolic import equal
from vtzero.rewards.text import conclusion, tagged_answer, without_tags

_LETTERS = "ABCDEF"
_PAPER_LETTERS = (*_LETTERS, *_LETTERS.lower(), *(f"({letter})" for letter in _LETTERS.lower() + _LETTERS))
_TAGGED_INTEGER = re.compile(r"<answer>\s*(\d+)\s*</answer>")


def strict(output: str, item: BenchmarkItem, *, require_tags: bool = True) -> bool:
    """Whether the last closed `<answer>…</answer>` names the right choice, and nothing else.

    It may hold the letter ("C", "(C)"), the choice's text, or both where they agree; case, white space and
    punctuation do not count. With `require_tags=False` an output without answer tags is taken as a whole
    (after `</think>`), for models that were asked for a bare answer.
    """
    said = tagged_answer(output)
    if said is None and not require_tags:
        said = without_tags(conclusion(output))
    return said is not None and _is_right(resolve_choice(said, item.choices), item)


def lenient(output: str, item: BenchmarkItem) -> bool:
    """Whether the output settles on the right choice, tags or not; True wherever `strict` is."""
    return strict(output, item) or _is_right(last_stated_choice(conclusion(output), item.choices), item)


def paper(output: str, item: BenchmarkItem) -> bool:
    """Whether the paper's evaluation counts the output as correct.

    math-verify extracts an expression, a letter A to F (bare or in brackets) or a choice's text, and compares
    it with the gold choice and letter as strings. Untagged prose that contains the article "a" counts as
    choice A. Source: the evaluation scripts of turningpoint-ai/VisualThinker-R1-Zero.
    """
    index = gold_index(item)
    text, letter = item.choices[index], chr(ord("A") + index)
    gold = (text.lower(), text, letter, letter.lower(), f"({letter.lower()})", f"({letter})")
    return equal(gold, paper_answer(output), strings=(*_PAPER_LETTERS, *item.choices))


def superclevr(output: str, item: BenchmarkItem) -> bool:
    """Whether the first tagged integer is the answer. Source: Deep-Agent/R1-V, evaluation on SuperCLEVR."""
    match = _TAGGED_INTEGER.search(output)
    return match is not None and int(match.group(1)) == int(item.answer)


def geoqa(output: str, item: BenchmarkItem) -> bool:
    """Whether math-verify finds output and answer equal. Source: Deep-Agent/R1-V, evaluation on GeoQA."""
    return equal(output, item.answer)


Scorer = Callable[[str, BenchmarkItem], bool]

SCORERS: Mapping[str, Scorer] = MappingProxyType(
    {"strict": strict, "lenient": lenient, "paper": paper, "superclevr": superclevr, "geoqa": geoqa}
)


def gold_index(item: BenchmarkItem) -> int:
    """The index of the right choice.

    Raises:
        ValueError: the item's answer names none of its choices.
    """
    index = resolve_choice(item.answer, item.choices)
    if index is None:
        raise ValueError(
            f"item {item.id!r}: its answer {item.answer!r} names none of its choices {list(item.choices)}; "
            "correct the benchmark file, or use a scorer for open questions"
        )
    return index


def _is_right(index: int | None, item: BenchmarkItem) -> bool:
    gold = item.choices[gold_index(item)]
    return index is not None and choice_text(item.choices[index]) == choice_text(gold)
