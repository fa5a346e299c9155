"""What a benchmark question is to the scorers. It knows no image, no prompt and no model."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class BenchmarkItem:
    """One question of a benchmark.

    Attributes:
        id: unique in its benchmark.
        task: the part of the benchmark that its accuracy is counted under, for instance "Depth".
        question: as asked, without the choices.
        choices: the texts of the choices in the order of their letters; empty for an open question.
        answer: a letter such as "(C)", or the text of a choice; for an open question the answer itself.
    """

    id: str
    task: str
    question: str
    choices: Sequence[str]
    answer: str
