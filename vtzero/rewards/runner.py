"""Runs reward functions over a batch, so that a faulty one costs its own samples and nothing else.

A sample that could not be scored is NaN with a recorded reason, never a silent 0. This module knows neither
what the functions measure nor how advantages are made from the scores.
"""

import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from vtzero.rewards.own import OwnRewardError, OwnRewardTimeoutError, listed, reason_of
from vtzero.rewards.registry import RewardFunction

MOST_TIMEOUTS = 3
"""In a row, of the calls for single samples: a function that always hangs would take its limit for each."""
Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class NamedReward:
    """A reward function with the name it is logged under and its weight in the total."""

    name: str
    function: RewardFunction
    weight: float = 1.0


@dataclass(frozen=True)
class RewardFailure:
    """Why a reward function gave no score.

    `sample_index` counts from 0 in the batch. `None`: the call for the whole batch failed, and each sample
    alone could then be scored.
    """

    function_name: str
    sample_index: int | None
    reason: str


@dataclass(frozen=True)
class RewardResult:
    """Scores of a batch, float64; NaN where there is no score.

    `per_function` is in the order of the functions. `total` is their weighted sum, NaN where any of them is
    NaN.
    """

    per_function: Float[np.ndarray, "functions samples"]
    total: Float[np.ndarray, " samples"]
    failures: list[RewardFailure]


def score(
    functions: Sequence[NamedReward],
    completions: Sequence[str],
    columns: Columns,
    weights: Sequence[float] | None = None,
) -> RewardResult:
    """Scores each completion with each function.

    A function that raises, or returns something other than one score a completion, is called again for each
    sample alone, so that only the offending samples are lost. One that knows which they are returns the
    exception in the place of the score, and is not called again.

    Args:
        functions: at least one.
        completions: the texts to score, one a sample.
        columns: name -> one value a sample; passed to each function by keyword.
        weights: one a function; by default each function's own.

    Raises:
        ValueError: no function, or weights or a column of another length.
    """
    _check(functions, completions, columns, weights)
    failures: list[RewardFailure] = []
    per_function = np.array(
        [_scores(reward, completions, columns, failures) for reward in functions], np.float64
    )
    by_function = [reward.weight for reward in functions] if weights is None else weights
    total = np.sum(np.asarray(by_function, np.float64)[:, None] * per_function, axis=0)
    return RewardResult(per_function, total, failures)


class _BadResultError(OwnRewardError):
    """A reward function returned something that is not one score a completion."""


def _check(
    functions: Sequence[NamedReward],
    completions: Sequence[str],
    columns: Columns,
    weights: Sequence[float] | None,
) -> None:
    if not functions:
        raise ValueError("no reward function: name at least one")
    if weights is not None and len(weights) != len(functions):
        raise ValueError(
            f"{len(weights)} reward weights for {len(functions)} reward functions: give one each"
        )
    for name, values in columns.items():
        if len(values) != len(completions):
            raise ValueError(f"column {name!r} has {len(values)} values for {len(completions)} completions")


def _scores(
    reward: NamedReward, completions: Sequence[str], columns: Columns, failures: list[RewardFailure]
) -> list[float]:
    try:
        results = _call(reward, completions, columns)
    except (Exception, SystemExit) as error:
        return _scores_one_by_one(reward, completions, columns, failures, error)
    return [_score(reward, index, result, failures) for index, result in enumerate(results)]


def _scores_one_by_one(
    reward: NamedReward,
    completions: Sequence[str],
    columns: Columns,
    failures: list[RewardFailure],
    batch_error: BaseException,
) -> list[float]:
    scores, failed_before, timeouts = [], len(failures), 0
    for index, (completion, own_columns) in enumerate(_samples(completions, columns)):
        try:
            if timeouts >= MOST_TIMEOUTS:
                raise OwnRewardTimeoutError(
                    f"was not called after {MOST_TIMEOUTS} in a row that took too long"
                )
            (result,) = _call(reward, [completion], own_columns)
            timeouts = 0
            scores.append(_score(reward, index, result, failures))
        except (Exception, SystemExit) as error:
            timeouts = timeouts + 1 if isinstance(error, TimeoutError) else 0
            failures.append(RewardFailure(reward.name, index, reason_of(error)))
            scores.append(math.nan)
    if len(failures) == failed_before:
        failures.append(RewardFailure(reward.name, None, f"batch call failed: {reason_of(batch_error)}"))
    return scores


def _samples(completions: Sequence[str], columns: Columns) -> Iterator[tuple[str, Columns]]:
    for index, completion in enumerate(completions):
        yield completion, {name: [values[index]] for name, values in columns.items()}


def _call(reward: NamedReward, completions: Sequence[str], columns: Columns) -> list[Any]:
    """The only place that runs a reward function, on copies, so that it cannot change another's input."""
    own_columns = {name: list(values) for name, values in columns.items()}
    results: Any = reward.function(list(completions), **own_columns)
    scores = listed(results)
    if len(scores) != len(completions):
        raise _BadResultError(f"returned {len(scores)} scores for {len(completions)} completions")
    return scores


def _score(reward: NamedReward, index: int, result: Any, failures: list[RewardFailure]) -> float:
    try:
        return _number(result)
    except Exception as error:
        failures.append(RewardFailure(reward.name, index, reason_of(error)))
        return math.nan


def _number(result: Any) -> float:
    if isinstance(result, Exception):
        raise result
    value = result.item() if getattr(result, "ndim", None) == 0 else result  # a scalar of numpy or torch
    if value is None:
        return math.nan
    if not isinstance(value, numbers.Real):
        raise _BadResultError(f"returned a {type(value).__name__} as score, not a finite number or None")
    if not math.isfinite(value):
        raise _BadResultError(f"returned {value} as score, not a finite number or None")
    return float(value)
