"""Accuracy rewards: the paper's, a strict one, and a lenient one that is only reported.

Each is a function of one completion and its answer, and a list version in TRL's form. They know only text.
"""

import re
from collections.abc import Sequence
from typing import Any

from vtzero.rewards.symbolic import parse_math, verify_math
from vtzero.rewards.text import conclusion, last_option, normalized, tagged_answer, words

_ONE_LINE_ANSWER = re.compile(r"<answer>(.*?)</answer>")  # the paper's: without DOTALL
_STANDALONE_LETTER = re.compile(r"(?:^|\s|\[|\()([A-H])(?:\s|\]|\)|$)")


def accuracy_paper(completions: Sequence[str], answer: Sequence[str], **_: Any) -> list[float]:
    """The accuracy reward of VisualThinker-R1-Zero, one score a completion; see `paper_accuracy`."""
    return [paper_accuracy(completion, gold) for completion, gold in zip(completions, answer, strict=True)]


def accuracy_strict(completions: Sequence[str], answer: Sequence[str], **_: Any) -> list[float]:
    """Whether the tagged answer is the answer, one score a completion; see `strict_accuracy`."""
    return [strict_accuracy(completion, gold) for completion, gold in zip(completions, answer, strict=True)]


def accuracy_lenient(
    completions: Sequence[str],
    answer: Sequence[str],
    options: Sequence[Sequence[str] | None] | None = None,
    **_: Any,
) -> list[float]:
    """Whether it says the right words, tags or not, one score a completion; see `lenient_accuracy`."""
    offered = options if options is not None else [None] * len(completions)
    return [
        lenient_accuracy(completion, gold, choices)
        for completion, gold, choices in zip(completions, answer, offered, strict=True)
    ]


def paper_accuracy(completion: str, answer: str) -> float:
    """1.0 where the paper's reward gives 1.0, quirks included.

    In order: math-verify finds the whole completion equal to `<answer>{answer}</answer>`; the first one-line
    tagged answer (the whole completion where there is none) is the answer, letter for letter; the last
    stand-alone capital A to H in it is the answer. Source: `accuracy_reward` in
    turningpoint-ai/VisualThinker-R1-Zero.
    """
    solution = f"<answer>{answer}</answer>"
    if _symbolic_match(completion, solution):
        return 1.0
    said, gold = _one_line_answer(completion), _one_line_answer(solution)
    letters = _STANDALONE_LETTER.findall(said)
    return float(said == gold or letters[-1:] == [gold])


def strict_accuracy(completion: str, answer: str) -> float:
    """1.0 where the last closed `<answer>…</answer>` holds the answer as text, else 0.0.

    Case, white space, line breaks and a final full stop do not count; nothing else is forgiven. An empty
    answer is never right, so that a model earns nothing by saying nothing.
    """
    said, gold = tagged_answer(completion), normalized(answer)
    return float(said is not None and gold != "" and normalized(said) == gold)


def lenient_accuracy(completion: str, answer: str, options: Sequence[str] | None = None) -> float:
    """1.0 where a completion ends on the right words, whatever its tags, or where `strict_accuracy` is 1.0.

    With options: the one stated last after `</think>` (in the whole completion where nothing follows that
    tag) is the answer. Without: the completion's last words are the answer's words.
    """
    if strict_accuracy(completion, answer) == 1.0:
        return 1.0
    if options:
        gold = normalized(answer)
        return float(gold != "" and last_option(conclusion(completion), options) == gold)
    gold_words = words(answer)
    return float(bool(gold_words) and words(completion)[-len(gold_words) :] == gold_words)


def _symbolic_match(completion: str, solution: str) -> bool:
    target = parse_math(solution)
    # Nothing equals a solution that does not parse, which is the usual case: spare the completion.
    return bool(target) and verify_math(gold=parse_math(completion), target=target)


def _one_line_answer(text: str) -> str:
    match = _ONE_LINE_ANSWER.search(text)
    return (match.group(1) if match else text).strip()
