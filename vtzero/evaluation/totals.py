"""Totals of scored items, each with its count and a 95 % interval. Knows counts alone, no text and no model.

A scored item is (task, source, correct); `source` is CV-Bench's column of that name, and empty elsewhere.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_Z_95 = 1.959963984540054  # the normal distribution's 97.5 % quantile

OFFICIAL_WEIGHTS: Mapping[str, float] = {"ADE20K": 0.25, "COCO": 0.25, "Omni3D": 0.5}
"""What the accuracy on each source counts for in CV-Bench's official score."""

Scored = tuple[str, str, bool]


@dataclass(frozen=True)
class Total:
    """How many of `n` items are correct; `accuracy` and its 95 % `interval` are in percent."""

    n: int
    correct: int
    accuracy: float
    interval: tuple[float, float]


def wilson_interval(correct: int, count: int, z: float = _Z_95) -> tuple[float, float]:
    """Wilson's score interval of a proportion, as fractions; 95 % unless `z` is another quantile.

    (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n). Source: Wilson, 1927.

    Raises ValueError unless 0 <= correct <= count and count >= 1.
    """
    if not 0 <= correct <= count or count < 1:
        raise ValueError(f"an interval needs at least one item and 0 <= correct <= n: {correct} of {count}")
    share, spread = correct / count, z * z / count
    middle = share + spread / 2
    half = math.sqrt(spread * (share * (1 - share) + spread / 4))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def micro_total(scored: Sequence[Scored]) -> Total:
    """The share of all items that are correct: the "Total" of the paper's tables.

    Raises ValueError where there is no item.
    """
    correct = sum(right for _, _, right in scored)
    low, high = wilson_interval(correct, len(scored))
    return Total(len(scored), correct, 100 * correct / len(scored), (100 * low, 100 * high))


def task_totals(scored: Sequence[Scored]) -> dict[str, Total]:
    """`micro_total` of each task, in the order in which tasks occur."""
    tasks: dict[str, list[Scored]] = {}
    for item in scored:
        tasks.setdefault(item[0], []).append(item)
    return {task: micro_total(items) for task, items in tasks.items()}


def has_official(scored: Sequence[Scored]) -> bool:
    """Whether the items come from CV-Bench's three sources, all of them and no other."""
    return {source for _, source, _ in scored} == set(OFFICIAL_WEIGHTS)


def official_total(scored: Sequence[Scored]) -> Total:
    """CV-Bench's official score: ½ ((ADE20K + COCO) / 2 + Omni3D) of the accuracies on its three sources.

    The interval of this weighted mean of independent proportions is recovered from their Wilson limits,
    sum(w p) ± sqrt(sum(w² (p - limit)²)), which holds near 0 and 100 % too. Sources: Tong et al.,
    "Cambrian-1", 2024; Zou, Huang and Zhang, "A note on confidence interval estimation for a linear function
    of binomial proportions", 2009.

    Raises ValueError unless the items come from exactly these three sources.
    """
    if not has_official(scored):
        sources = {source for _, source, _ in scored}
        raise ValueError(
            f"CV-Bench's official score needs items of the sources {', '.join(OFFICIAL_WEIGHTS)}, "
            f"found {', '.join(sorted(repr(source) for source in sources)) or 'no item'}"
        )
    shares = {name: micro_total([item for item in scored if item[1] == name]) for name in OFFICIAL_WEIGHTS}
    accuracy = sum(weight * shares[name].accuracy for name, weight in OFFICIAL_WEIGHTS.items())
    below, above = (_reach(shares, side) for side in (0, 1))
    correct = sum(share.correct for share in shares.values())
    return Total(len(scored), correct, accuracy, (max(0.0, accuracy - below), min(100.0, accuracy + above)))


def _reach(shares: Mapping[str, Total], side: int) -> float:
    reaches = (
        OFFICIAL_WEIGHTS[name] * (total.accuracy - total.interval[side]) for name, total in shares.items()
    )
    return math.hypot(*reaches)
