"""What a report's payload holds for its figures: curves, accuracies and seconds of each run, and smoothing.

Whatever is missing, null or no number in a payload is left out. Knows no file and draws nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from vtzero.terminal import one_line

LONGEST_LABEL = 28
_LARGEST = 1e200  # an axis around larger numbers overflows
_WINDOW_SHARE = 1 / 20  # of the steps drawn
_FEWEST_STEPS_A_MEAN = 5

Values = Float[np.ndarray, "points"]


@dataclass(frozen=True, eq=False)
class Curve:
    """Values over training steps, in their order."""

    steps: Values
    values: Values


@dataclass(frozen=True)
class Accuracy:
    """One evaluation in percent: strict accuracy with its 95 % interval, which may be empty, and lenient."""

    step: float
    percent: float
    low: float
    high: float
    lenient: float | None = None


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a payload; `place` counts them, `label` is short, visible and like no other's."""

    place: int
    label: str
    payload: Mapping[str, Any]

    def curve(self, metric: str) -> Curve | None:
        """A metric over steps; None where fewer than two steps have it."""
        metrics = self.payload.get("metrics") or {}
        columns = (metrics.get("step") or [], metrics.get(metric) or [])
        # Columns of a run in progress may end at different steps.
        points = [(number(step), number(value)) for step, value in zip(*columns, strict=False)]
        known = sorted((s, v) for s, v in points if s is not None and v is not None)
        return Curve(*np.array(known).T) if len(known) > 1 else None

    def accuracies(self) -> dict[str, list[Accuracy]]:
        """The evaluations of each benchmark by step."""
        found: dict[str, dict[float, Accuracy]] = {}
        for evaluation in self.payload.get("evaluations") or []:
            if (accuracy := _accuracy(evaluation)) is not None:
                found.setdefault(str(evaluation.get("benchmark")), {})[accuracy.step] = accuracy
        return {name: [steps[step] for step in sorted(steps)] for name, steps in found.items()}

    def progress(self) -> dict[str, list[Accuracy]]:
        """The evaluations of each benchmark that was asked at two steps or more."""
        return {name: found for name, found in self.accuracies().items() if len(found) > 1}

    def seconds(self) -> dict[str, float]:
        """Seconds of each phase that took any."""
        phases = (self.payload.get("time_by_phase") or {}).items()
        known = {str(name): number(seconds) for name, seconds in phases}
        return {name: seconds for name, seconds in known.items() if seconds is not None and seconds > 0}


def read_runs(payload: Mapping[str, Any]) -> list[Run]:
    """The runs of a report's payload; those of equal labels are told apart by a number."""
    runs: list[Run] = []
    taken: set[str] = set()
    for place, run in enumerate(payload.get("runs") or []):
        label = shown(run.get("label") or run.get("name")) or f"run {place + 1}"
        ways = (label, *(f"{label} ({again})" for again in range(2, place + 3)))
        unique = next(way for way in ways if way not in taken)
        taken.add(unique)
        runs.append(Run(place, unique, run))
    return runs


def shown(text: Any) -> str:
    """A label as a figure shows it: one visible line, cut where it is long."""
    line = one_line(str("" if text is None else text)[: 10 * LONGEST_LABEL])
    return line if len(line) <= LONGEST_LABEL else f"{line[: LONGEST_LABEL - 1].rstrip()}…"


def window(curves: Sequence[Curve]) -> int:
    """How many steps a mean over these curves takes, an odd number; 1 where they are too short to smooth."""
    span = max((curve.steps[-1] - curve.steps[0] for curve in curves), default=0)
    half = int(span * _WINDOW_SHARE / 2)
    return 2 * half + 1 if 2 * half + 1 >= _FEWEST_STEPS_A_MEAN else 1


def smoothed(curve: Curve, steps: int) -> Values:
    """At each point the mean over the `steps` steps around it, fewer at the two ends."""
    half = steps // 2
    first = np.searchsorted(curve.steps, curve.steps - half, side="left")
    last = np.searchsorted(curve.steps, curve.steps + half, side="right")
    # Not by differences of running sums: in them one huge value drowns all that follow.
    return np.array([curve.values[a:b].mean() for a, b in zip(first, last, strict=True)])


def number(value: Any) -> float | None:
    """A finite number that can be drawn, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        return None
    return float(value)


def _accuracy(evaluation: Mapping[str, Any]) -> Accuracy | None:
    step, percent = number(evaluation.get("step")), number(evaluation.get("accuracy"))
    if step is None or percent is None:
        return None
    interval = evaluation.get("accuracy_interval")
    bounds = interval if isinstance(interval, list | tuple) and len(interval) == 2 else (None, None)
    low, high = map(number, bounds)
    lenient = number(evaluation.get("accuracy_lenient"))
    if low is None or high is None:
        return Accuracy(step, percent, percent, percent, lenient)
    return Accuracy(step, percent, low, high, lenient)
