"""The rewards of answers to a person's question, by name. Knows how they are named, found and told."""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vtzero.data.processor import PreparedPrompt
from vtzero.inference.models import Resolved
from vtzero.rewards.registry import REWARDS, load_reward
from vtzero.rewards.runner import NamedReward, score

DEFAULT_REWARDS = ("accuracy_strict", "format_paper")


@dataclass(frozen=True)
class Verdict:
    """What the rewards said of one answer, by name; NaN where one gave no score, with why in `failures`."""

    rewards: Mapping[str, float] = field(default_factory=dict)
    failures: Sequence[str] = ()


class AnswerRewards:
    """Rewards that are loaded when they are first named; an own one keeps its process."""

    def __init__(self, chosen: Resolved):
        run = chosen.run
        self._settings = {"max_completion_length": chosen.max_completion_length}
        if run is not None and 0 < run.soft_punish_cache <= chosen.max_completion_length:
            self._settings["soft_punish_cache"] = run.soft_punish_cache
        self._loaded: dict[str, NamedReward] = {}

    def check(self, specs: Sequence[str], *, has_answer: bool) -> None:
        """Load the rewards of these names.

        Raises ValueError for one that does not exist, is named twice, or needs what nobody gave.
        """
        names = [_name(spec) for spec in specs]
        if doubled := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"reward {doubled!r} is named twice")
        for spec in specs:
            wanted = inspect.signature(REWARDS[spec]).parameters if spec in REWARDS else {}
            if "answer" in wanted and not has_answer:
                raise ValueError(f"reward {spec!r} needs the right answer; give it with --answer")
            if "soft_punish_cache" in wanted and "soft_punish_cache" not in self._settings:
                raise ValueError(
                    f"reward {spec!r} needs a run's soft_punish_cache; give its folder as --model"
                )
            if spec not in self._loaded:
                self._loaded[spec] = NamedReward(_name(spec), load_reward(spec, self._settings))

    def score(
        self, specs: Sequence[str], prompt: PreparedPrompt, text: str, length: int, *, ended: bool
    ) -> Verdict:
        """Score one answer with rewards that were checked; the columns are those of training."""
        if not specs:
            return Verdict()
        columns: dict[str, list[Any]] = {
            "prompts": [prompt.text],
            **({"answer": [prompt.answer]} if prompt.answer else {}),
            "options": [list(prompt.options)],
            "task": [prompt.task],
            "question": [prompt.example.question],
            "completion_lengths": [length],
            "terminated": [ended],
        }
        functions = [self._loaded[spec] for spec in specs]
        result = score(functions, [text], columns)
        scores = [float(values[0]) for values in result.per_function]
        names = [function.name for function in functions]
        return Verdict(
            dict(zip(names, scores, strict=True)),
            [f"{failure.function_name}: {failure.reason}" for failure in result.failures],
        )


def shown_score(name: str, value: float) -> str:
    """`format_paper 1`, or that there was no score."""
    return f"{name} no score" if math.isnan(value) else f"{name} {value:.4g}"


def _name(spec: str) -> str:
    return spec.rpartition(":")[2]
