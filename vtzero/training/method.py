"""What a training method is to the loop: one step at a time, and a data position to save."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from jaxtyping import Float

from vtzero.data.example import Rejected
from vtzero.training.completions import CompletionRow
from vtzero.training.state import TrainState

Value = TypeVar("Value")


@dataclass(frozen=True)
class FailedReward:
    """A reward that was not given, and why: of a prompt's completion, counted from 0 in its group.

    Without a completion the call for the whole batch failed, and each completion was scored alone.
    """

    id: str
    completion: int | None
    reason: str


@dataclass(frozen=True)
class Learned:
    """A sample of a step, and what was to be learned of it."""

    id: str
    completions: Sequence[str] = ()


@dataclass(frozen=True)
class StepReport:
    """What step `index` did: metrics by name, rows for the completions file, and what was set aside.

    `skipped` are the samples of a step that was to be learned from and was not; `samples` has a number of
    each completion, by the name of what it is.
    """

    index: int
    metrics: dict[str, float]
    completions: Sequence[CompletionRow] = ()
    rejected: Sequence[Rejected] = ()
    failures: Sequence[FailedReward] = ()
    skipped: Sequence[Learned] = ()
    samples: Mapping[str, Float[np.ndarray, " completions"]] = field(default_factory=dict)


class Stops(Protocol):
    """Whether a step is to be given up."""

    def agreed(self) -> bool:
        """Whether any process was asked to stop; all must call it, and get one answer."""

    def arrived(self, values: Any) -> bool:
        """Wait for arrays, in every process; False as soon as any was asked to stop; all must call it."""

    def unless_asked(self, do: Callable[[], Value]) -> Value | None:
        """What `do` returns; None as soon as this process is asked to stop."""


class Never:
    """Where nobody can ask for a stop."""

    def agreed(self) -> bool:
        return False

    def arrived(self, values: Any) -> bool:
        jax.block_until_ready(values)
        return True

    def unless_asked(self, do: Callable[[], Value]) -> Value | None:
        return do()


NEVER = Never()


class Method(Protocol):
    """GRPO or supervised fine-tuning.

    A step returns while its update is still being computed. Its report is made when the next step has given
    the devices work, so that they never wait for it. `tell` is called with each phase that begins.
    """

    tell: Callable[[str], None]

    def declare(self, state: TrainState) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Every program that the steps will run, by name; each is compiled by calling what comes with it."""

    def step(
        self, state: TrainState, index: int, stops: Stops = NEVER
    ) -> tuple[TrainState, StepReport | None]:
        """Begin step `index` (from 1); the new state, the old one being donated, and the report of the step
        before, if it was not given yet.

        Where a stop is agreed on before the update, it raises `Stopped`, and the state is as it was.
        """

    def finish(self) -> StepReport | None:
        """Wait for the step that was begun; its report, if it was not given yet."""

    def data_state(self) -> Mapping[str, Any]:
        """The position of the data stream, in JSON's types."""

    def restore_data(self, state: Mapping[str, Any]) -> None:
        """Continue the data stream where `data_state` stood."""

    def close(self) -> None:
        """Stop whatever prepares ahead."""


def when_ready(values: Any) -> float:
    """Wait for arrays, and the moment (`perf_counter`) at which they were there."""
    jax.block_until_ready(values)
    return perf_counter()


def tell_nobody(phase: str) -> None:
    """Where nobody wants to know which phase runs."""


class Clock:
    """Seconds of each phase of a step, under verl's names (`timing_s/gen`, …).

    A step begins when the update before it has ended, so that the steps add up to the time that passed: what
    the host does while the devices work counts for nothing.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, phase: str, at: float | None = None) -> None:
        """Count the time since the last lap, until now or the moment `at`, towards `phase`."""
        now = perf_counter() if at is None else max(at, self._last)
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now

    def go_on_from(self, moment: float) -> None:
        """Count from this moment on, if it is later: what came before counts towards another step."""
        self._last = max(self._last, moment)

    def metrics(self) -> dict[str, float]:
        """`timing_s/PHASE` of each phase, and `timing_s/step`, their sum."""
        phases = {f"timing_s/{phase}": seconds for phase, seconds in self.seconds.items()}
        return phases | {"timing_s/step": sum(self.seconds.values())}
