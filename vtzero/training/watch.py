"""What ends a run that does no good: broken numbers in a row, too much set aside. Knows numbers alone.

What it remembers is saved with the run, so that one that was interrupted is ended where it would have been.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vtzero.failures import RunFailedError

LEAST = 200
"""A share is judged over so many, or a few more: below that one bad batch would end a run."""

GAP = "sampling/sampling_logp_difference/mean"


class BrokenRunError(RunFailedError):
    """A run whose steps do no good any more."""


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """How much a run bears.

    max_bad_steps: steps in a row that skip an update, or whose log-probabilities are too far apart.
    max_logp_difference: between sampler and trainer, mean over the tokens of a step; None for any.
    max_rejected_share: of the samples that are drawn.
    max_failed_share: of the completions, those that a reward should have scored and did not.
    """

    max_bad_steps: int = 5
    max_logp_difference: float | None = 0.05
    max_rejected_share: float = 0.5
    max_failed_share: float = 0.25


class Watch:
    """Looks at the metrics of one step after the other, the same in every process."""

    def __init__(self, settings: WatchSettings):
        self._settings = settings
        self._skipped, self._apart = 0, 0
        self._rejected = _Share()
        self._failed = _Share()

    def look(self, index: int, metrics: Mapping[str, float], *, samples: int, completions: int) -> list[str]:
        """Warnings about step `index`, which asked `samples` prompts for `completions` in all.

        Raises BrokenRunError when the run is to end.
        """
        rejected = int(metrics["rejected_samples"])
        self._rejected.add(rejected, samples + rejected)
        self._failed.add(int(metrics.get("failed_completions", 0)), completions)
        warnings = [*self._broken(index, metrics), *self._far_apart(index, metrics)]
        self._check_shares(index)
        return warnings

    def _broken(self, index: int, metrics: Mapping[str, float]) -> Iterator[str]:
        if not metrics["skipped_updates"]:
            self._skipped = 0
            return
        self._skipped += 1
        numbers = f"loss {metrics['loss']:g}, grad_norm {metrics['grad_norm']:g}"
        if self._skipped >= self._settings.max_bad_steps:
            raise BrokenRunError(
                f"step {index}: {numbers}; {_in_a_row(self._skipped)} skipped their updates (max_bad_steps). "
                "The last checkpoint is sound, and rejected.jsonl has the completions; "
                "look at them, and at learning_rate and dtype"
            )
        yield f"step {index}: {numbers}; the update is skipped"

    def _far_apart(self, index: int, metrics: Mapping[str, float]) -> Iterator[str]:
        bound, gap = self._settings.max_logp_difference, metrics.get(GAP, 0.0)
        if bound is None or gap <= bound:
            self._apart = 0
            return
        self._apart += 1
        what = (
            f"step {index}: sampler and trainer differ by {gap:.3g} a token in their log-probabilities, "
            f"more than max_logp_difference {bound:g}"
        )
        if self._apart >= self._settings.max_bad_steps:
            raise BrokenRunError(
                f"{what}, in {_in_a_row(self._apart)} (max_bad_steps). What is trained is not what was "
                "sampled: try dtype float32 or attention xla, or allow more"
            )
        yield what

    def _check_shares(self, index: int) -> None:
        for share, limit, what, look_at in (
            (self._rejected, "max_rejected_share", "samples were set aside", "the data"),
            (self._failed, "max_failed_share", "completions had a reward that failed", "the rewards"),
        ):
            if share.value() > (allowed := getattr(self._settings, limit)):
                raise BrokenRunError(
                    f"step {index}: {share.bad} of the last {share.all} {what}, more than {limit} "
                    f"{allowed:g}; rejected.jsonl has the reasons. Mend {look_at}, or raise {limit}"
                )

    def state(self) -> dict[str, Any]:
        """What is remembered, in JSON's types."""
        return {
            "skipped": self._skipped,
            "apart": self._apart,
            "rejected": self._rejected.state(),
            "failed": self._failed.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Remember what `state` gave."""
        self._skipped, self._apart = int(state["skipped"]), int(state["apart"])
        self._rejected, self._failed = _Share(state["rejected"]), _Share(state["failed"])


class _Share:
    """The share of bad ones among the last `LEAST`, or the few more that came with the oldest of them."""

    def __init__(self, steps: Any = ()) -> None:
        self._steps = deque((int(bad), int(every)) for bad, every in steps)

    @property
    def bad(self) -> int:
        return sum(bad for bad, _ in self._steps)

    @property
    def all(self) -> int:
        return sum(every for _, every in self._steps)

    def add(self, bad: int, every: int) -> None:
        self._steps.append((bad, every))
        while self.all - self._steps[0][1] >= LEAST:
            self._steps.popleft()

    def value(self) -> float:
        """Not a number, and so above no limit, before there are enough."""
        return self.bad / self.all if self.all >= LEAST else math.nan

    def state(self) -> list[list[int]]:
        return [list(step) for step in self._steps]


def _in_a_row(count: int) -> str:
    return "this step" if count == 1 else f"{count} steps in a row"
