"""What a training method is to the loop: one step at a time, and a data position to save."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

from vtzero.data.example import Rejected
from vtzero.training.completions import CompletionRow
from vtzero.training.state import TrainState


@dataclass(frozen=True)
class FailedReward:
    """A reward that was not given, and why: of a prompt's completion, counted from 0 in its group.

    Without a completion the call for the whole batch failed, and each completion was scored alone.
    """

    id: str
    completion: int | None
    reason: str


@dataclass(frozen=True)
class StepReport:
    """What step `index` did: metrics by name, rows for the completions file, and what was set aside."""

    index: int
    metrics: dict[str, float]
    completions: Sequence[CompletionRow] = ()
    rejected: Sequence[Rejected] = ()
    failures: Sequence[FailedReward] = ()


class Method(Protocol):
    """GRPO or supervised fine-tuning.

    A step returns while its update is still being computed. Its report is made when the next step has given
    the devices work, so that they never wait for it.
    """

    def declare(self, state: TrainState) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Every program that the steps will run, by name; each is compiled by calling what comes with it."""

    def step(self, state: TrainState, index: int) -> tuple[TrainState, StepReport | None]:
        """Begin step `index` (from 1); the new state, the old one being donated, and the report of the step
        before, if it was not given yet."""

    def finish(self) -> StepReport | None:
        """Wait for the step that was begun; its report, if it was not given yet."""

    def data_state(self) -> Mapping[str, Any]:
        """The position of the data stream, in JSON's types."""

    def restore_data(self, state: Mapping[str, Any]) -> None:
        """Continue the data stream where `data_state` stood."""

    def close(self) -> None:
        """Stop whatever prepares ahead."""


class Clock:
    """Seconds of each phase of a step, under verl's names (`timing_s/gen`, …)."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, phase: str) -> None:
        """Count the time since the last lap towards `phase`."""
        now = perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now

    def go_on_from(self, other: "Clock") -> None:
        """Count from where `other` ended, if that is later: the devices were busy until then."""
        self._last = max(self._last, other._last)

    def metrics(self) -> dict[str, float]:
        """`timing_s/PHASE` of each phase, and `timing_s/step`, their sum."""
        phases = {f"timing_s/{phase}": seconds for phase, seconds in self.seconds.items()}
        return phases | {"timing_s/step": sum(self.seconds.values())}
