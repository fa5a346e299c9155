"""How answers look on a terminal, or in a file: text that grows, a line of figures below it, a last line.

Whatever a model wrote passes through `vtzero.terminal`. Knows figures and text: no model and no questions.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from vtzero.data.processor import Processor
from vtzero.inference.rewards import Verdict, shown_score
from vtzero.inference.text import GrowingText, Majority, token_line
from vtzero.terminal import one_line, visible


def say(line: str) -> None:
    """A line about answers, paler than they are where the terminal has colours."""
    Console().print(Text(line, style="dim"), soft_wrap=True)


def say_compiling() -> None:
    """Tell a person why nothing moves; a file need not know."""
    if sys.stderr.isatty():
        Console(stderr=True).print(Text("compiling for a prompt of this size …", style="dim"))


class AnswerLines:
    """One answer: its number, its text as it grows (`raw`: a line a token), and its figures."""

    def __init__(self, processor: Processor, number: int, *, raw: bool):
        self._processor, self._number, self._raw = processor, number, raw
        self._text = GrowingText(processor)
        self._begun, self._count = False, 0

    def grow(self, ids: Sequence[int], logps: Sequence[float], *, whole: bool) -> None:
        """Show what the answer's ids, all from its start, add to what is shown already."""
        if not self._raw:
            piece = self._text.more(ids, whole=whole)
            if piece or whole:
                self._write(piece)
            return
        for place in range(self._count, len(ids)):
            self._write(f"\n{token_line(self._processor, place, ids[place], logps[place])}")
        self._count = len(ids)

    def end(self, length: int, truncated: bool, seconds: float, verdict: Verdict) -> None:
        """The line of figures."""
        parts = [f"{length} tokens{', cut short' if truncated else ''}"]
        parts += [f"{seconds:.2f} s", f"{_rate(length, seconds)} tokens/s"]
        parts += [shown_score(name, value) for name, value in verdict.rewards.items()]
        print(flush=True)
        say(f"    {', '.join(parts)}")
        for failure in verdict.failures:
            say(f"    {one_line(failure)}")

    def _write(self, text: str) -> None:
        if not self._begun:
            # What goes on after `<think>` begins with a space of its own.
            text = f"[{self._number}]{'' if text[:1].isspace() else ' '}{text}"
        self._begun = True
        print(visible(text), end="", flush=True)


@dataclass(frozen=True)
class Summary:
    """All answers to a question: their number, tokens in all, the seconds until the last was drawn.

    `mean_rewards` are over the answers that have a score. `majority_is_right` is None where nobody knows.
    """

    count: int
    tokens: int
    seconds: float
    mean_rewards: Mapping[str, float]
    majority: Majority
    majority_is_right: bool | None
    seed: int

    def figures(self) -> dict[str, Any]:
        """In JSON's types."""
        means = {name: None if math.isnan(value) else value for name, value in self.mean_rewards.items()}
        return {
            "mean_length": self.tokens / self.count,
            "mean_rewards": means,
            "majority": self.majority.answer,
            "votes": self.majority.votes,
            "majority_is_right": self.majority_is_right,
            "seconds": self.seconds,
        }


def summary_line(summary: Summary) -> str:
    """The last line: means, agreement, seed and speed."""
    means = [f"{summary.tokens / summary.count:.1f} tokens"]
    means += [shown_score(name, value) for name, value in summary.mean_rewards.items()]
    agreement = "no answer among them" if summary.majority.answer is None else "no two agree"
    if summary.majority.votes > 1:
        right = {True: ", which is right", False: ", which is wrong", None: ""}[summary.majority_is_right]
        agreement = f"{summary.majority.votes} of {summary.count} say {summary.majority.answer!r}{right}"
    speed = f"{_rate(summary.tokens, summary.seconds)} tokens/s"
    return one_line(f"mean of {summary.count}: {', '.join(means)}; {agreement}; seed {summary.seed}, {speed}")


def _rate(tokens: int, seconds: float) -> str:
    return f"{tokens / max(seconds, 1e-9):,.0f}"
