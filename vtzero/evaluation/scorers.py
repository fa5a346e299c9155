"""Scorers: whether a model's output answers a benchmark item.

A scorer is `scorer(output, item) -> bool` and a pure function, so that stored outputs can be scored again.
`strict` is what this project reports, with answer tags required unless told otherwise; `paper` repeats the
published evaluation, free credit included; `superclevr` and `geoqa` are R1-V's. They know text and items, no
model.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from vtzero.evaluation.extraction import choice_text, last_stated_choice, paper_answer, resolve_choice
from vtzero.evaluation.items import BenchmarkItem
from vtzero.evaluation.statements import stated_choice
from vtzero.rewards.accuracy import lenient_accuracy
from vtzero.rewards.symbolic import equal
from vtzero.rewards.text import conclusion, normalized, tagged_answer, without_tags

_LETTERS = "ABCDEF"
_PAPER_LETTERS = (*_LETTERS, *_LETTERS.lower(), *(f"({letter})" for letter in _LETTERS.lower() + _LETTERS))
_TAGGED_INTEGER = re.compile(r"<answer>\s*(\d+)\s*</answer>")


def strict(output: str, item: BenchmarkItem, *, require_tags: bool = True) -> bool:
    """Whether the output's one explicit choice is the right one; see `strict_choice`.

    An open question is answered by its very words, case, white space and a final full stop aside.
    """
    if item.choices:
        return _is_right(strict_choice(output, item.choices, require_tags=require_tags), item)
    said = tagged_answer(output)
    if said is None and not require_tags:
        said = without_tags(conclusion(output))
    return said is not None and _same_words(said, item.answer)


def strict_choice(output: str, choices: Sequence[str], *, require_tags: bool = True) -> int | None:
    """The index of the choice that an output makes explicitly; `None` where it makes none.

    It is what the last closed `<answer>…</answer>` names, which may be the letter ("C", "(C)"), the choice's
    text, or both where they agree; case, white space and punctuation do not count. With `require_tags=False`
    an output without such tags is read as prose: a letter or a choice's text that it states. "A or B" is no
    choice, and neither is an article ("a chair").
    """
    said = tagged_answer(output)
    if said is not None:
        return resolve_choice(said, choices)
    return None if require_tags else stated_choice(output, choices)


def lenient(output: str, item: BenchmarkItem) -> bool:
    """Whether the output ends on the right choice, tags or not; True wherever `strict` with tags is.

    An open question is answered by the output's last words.
    """
    if not item.choices:
        return lenient_accuracy(output, item.answer) == 1.0
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
    return match is not None and _whole(match.group(1)) == _whole(item.answer)


def _whole(digits: str) -> str:
    """As int() reads digits of any script; it refuses more than 4,300 of them, which a model may write."""
    return "".join(str(unicodedata.decimal(digit)) for digit in digits).lstrip("0")


def geoqa(output: str, item: BenchmarkItem) -> bool:
    """Whether math-verify finds output and answer equal. Source: Deep-Agent/R1-V, evaluation on GeoQA."""
    return equal(output, item.answer)


def math(output: str, item: BenchmarkItem) -> bool:
    """Whether math-verify finds the last closed `<answer>…</answer>` equal to the answer."""
    said = tagged_answer(output)
    return said is not None and equal(item.answer, said)


def lenient_math(output: str, item: BenchmarkItem) -> bool:
    """Whether the last expression after `</think>` is the answer, tags or not; True wherever `math` is."""
    return math(output, item) or equal(item.answer, without_tags(conclusion(output)))


Scorer = Callable[[str, BenchmarkItem], bool]

SCORERS: Mapping[str, Scorer] = MappingProxyType(
    {
        "strict": strict,
        "lenient": lenient,
        "paper": paper,
        "superclevr": superclevr,
        "geoqa": geoqa,
        "math": math,
    }
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


def _same_words(said: str, answer: str) -> bool:
    return normalized(answer) != "" and normalized(said) == normalized(answer)


def _is_right(index: int | None, item: BenchmarkItem) -> bool:
    gold = item.choices[gold_index(item)]
    return index is not None and choice_text(item.choices[index]) == choice_text(gold)
