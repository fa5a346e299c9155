"""Accuracy rewards: the paper's, R1-V's, math-verify's, a strict one, and a lenient one that only reports.

In TRL's form. They know only text. Where math-verify cannot tell (see `symbolic.py`) and it would decide, the
score of that completion is the error, which the runner records.
"""

import re
from collections.abc import Sequence
from typing import Any

from vtzero.rewards.symbolic import Comparison, SymbolicError, compare
from vtzero.rewards.text import conclusion, last_option, normalized, tagged_answer, words

_STANDALONE_LETTER = re.compile(r"(?:^|\s|\[|\()([A-H])(?:\s|\]|\)|$)")
Score = float | SymbolicError


def accuracy_paper(completions: Sequence[str], answer: Sequence[str], **_: Any) -> list[Score]:
    """1.0 where the accuracy reward of VisualThinker-R1-Zero gives 1.0, quirks included, else 0.0.

    In order: math-verify finds the whole completion equal to `<answer>{answer}</answer>`; the first one-line
    tagged answer (the whole completion where there is none) is the answer, letter for letter; the last
    stand-alone capital A to H in it is the answer. Source: `accuracy_reward` in
    turningpoint-ai/VisualThinker-R1-Zero.
    """
    solutions = [f"<answer>{gold}</answer>" for gold in answer]
    as_text = [
        _is_said(completion, solution) or _ends_on_letter(completion, solution)
        for completion, solution in zip(completions, solutions, strict=True)
    ]
    # The completion comes first, as in the original: math-verify's comparison is not symmetric.
    return _or_equal(as_text, list(map(Comparison, completions, solutions)))


def accuracy_r1_v(
    completions: Sequence[str],
    answer: Sequence[str],
    solution: Sequence[str | None] | None = None,
    **_: Any,
) -> list[Score]:
    """1.0 where the accuracy reward of R1-V and its siblings gives 1.0, else 0.0.

    In order: math-verify finds the whole completion equal to the stored solution; the first one-line tagged
    answer (the whole completion where there is none) is the solution's, letter for letter. A solution is
    stored as `<answer> 3 </answer>`, whose spaces let math-verify read the number, so that prose which ends
    in the right number earns all of it. Without a column `solution` it is built like that from the answer.
    Source: `accuracy_reward` in Deep-Agent/R1-V, open-r1-multimodal and R1-Multimodal-Journey.
    """
    stored = solution if solution is not None else [None] * len(completions)
    solutions = [
        f"<answer> {gold} </answer>" if text is None else text
        for text, gold in zip(stored, answer, strict=True)
    ]
    as_text = [_is_said(completion, text) for completion, text in zip(completions, solutions, strict=True)]
    return _or_equal(as_text, list(map(Comparison, completions, solutions)))


def accuracy_math_verify(completions: Sequence[str], answer: Sequence[str], **_: Any) -> list[Score]:
    """1.0 where the tagged answer equals the answer as an expression or, as `strict_accuracy`, as text.

    Read is what the last closed `<answer>…</answer>` holds; of a completion without one, what follows its
    last `</think>`, and else all of it, in which math-verify takes the last expression. So "1/2", "0.5" and
    "$\\frac{1}{2}$" answer each other, and words are compared as words.
    """
    said = [tagged_answer(completion) for completion in completions]
    read = [
        conclusion(completion) if text is None else text
        for text, completion in zip(said, completions, strict=True)
    ]
    as_text = [
        strict_accuracy(completion, gold) == 1.0 for completion, gold in zip(completions, answer, strict=True)
    ]
    return _or_equal(as_text, list(map(Comparison, answer, read)))


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


def _or_equal(as_text: Sequence[bool], comparisons: Sequence[Comparison]) -> list[Score]:
    """1.0 where the text is right already or math-verify finds the two equal."""
    undecided = [number for number, right in enumerate(as_text) if not right]
    results = compare([comparisons[number] for number in undecided])
    scores: list[Score] = [float(right) for right in as_text]
    for number, result in zip(undecided, results, strict=True):
        scores[number] = result if isinstance(result, SymbolicError) else float(result)
    return scores


def _is_said(completion: str, solution: str) -> bool:
    return _one_line_answer(completion) == _one_line_answer(solution)


def _ends_on_letter(completion: str, solution: str) -> bool:
    letters = _STANDALONE_LETTER.findall(_one_line_answer(completion))
    return letters[-1:] == [_one_line_answer(solution)]


def _one_line_answer(text: str) -> str:
    """As the paper's pattern `<answer>(.*?)</answer>` without DOTALL, whose time grows with the square."""
    for line in text.split("\n"):
        inside, closed, _ = line.partition("<answer>")[2].partition("</answer>")
        if closed:
            return inside.strip()
    return text.strip()
