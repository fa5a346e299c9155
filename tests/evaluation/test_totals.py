"""Totals against values worked out by hand, and the official score's interval against simulation."""

import numpy as np
import pytest

from vtzero.evaluation.totals import micro_total, official_total, task_totals


def scored(**counts: tuple[int, int]) -> list[tuple[str, str, bool]]:
    return [
        ("2D" if source != "Omni3D" else "3D", source, number < correct)
        for source, (correct, count) in counts.items()
        for number in range(count)
    ]


def test_the_official_score_is_not_the_micro_average() -> None:
    items = scored(ADE20K=(8, 10), COCO=(5, 20), Omni3D=(30, 40))
    official, micro = official_total(items), micro_total(items)
    # ½ ((80 + 25) / 2 + 75) = 63.75, and 43 of 70.
    assert official.accuracy == pytest.approx(63.75)
    assert micro.accuracy == pytest.approx(100 * 43 / 70)
    assert (official.n, official.correct) == (micro.n, micro.correct) == (70, 43)
    assert official.interval[0] < official.accuracy < official.interval[1]


def test_the_papers_total() -> None:
    # Table 3, GRPO: 470 + 434 + 325 + 340 of 788 + 650 + 600 + 600; the paper cuts 59.4769 off to 59.47.
    total = micro_total(scored(Count=(470, 788), Relation=(434, 650), Depth=(325, 600), Distance=(340, 600)))
    assert (total.n, total.correct) == (2638, 1569)
    assert total.accuracy == pytest.approx(59.4769, abs=1e-4)
    assert total.interval == pytest.approx((57.5910, 61.3352), abs=1e-4)


def test_tasks_in_the_order_of_the_items() -> None:
    parts = task_totals([("b", "", True), ("a", "", False), ("b", "", False)])
    assert [(task, part.correct, part.n) for task, part in parts.items()] == [("b", 1, 2), ("a", 0, 1)]


@pytest.mark.parametrize(("share", "low", "high"), [(0, 0.0, 20.0), (1, 80.0, 100.0)])
def test_the_official_interval_stays_a_percentage_at_the_ends(share: int, low: float, high: float) -> None:
    total = official_total(scored(ADE20K=(20 * share, 20), COCO=(20 * share, 20), Omni3D=(20 * share, 20)))
    assert total.accuracy == 100 * share
    assert low <= total.interval[0] < total.interval[1] <= high


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (0.9, 0.2, 0.6), (0.97, 0.95, 0.98)])
def test_the_official_interval_holds_the_truth_in_95_of_100_draws(shares: tuple[float, ...]) -> None:
    draw, counts = np.random.default_rng(7), (60, 40, 90)
    truth = 100 * (shares[0] / 4 + shares[1] / 4 + shares[2] / 2)
    held = 0
    for _ in range(1000):
        right = [int(draw.binomial(count, share)) for count, share in zip(counts, shares, strict=True)]
        names = ("ADE20K", "COCO", "Omni3D")
        low, high = official_total(
            scored(**dict(zip(names, zip(right, counts, strict=True), strict=True)))
        ).interval
        held += low <= truth <= high
    assert 930 <= held <= 975


@pytest.mark.parametrize("sources", [("ADE20K", "COCO"), ("ADE20K", "COCO", "Omni3D", "ARKit"), ("",), ()])
def test_the_official_score_needs_its_three_sources(sources: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="needs items of the sources ADE20K, COCO, Omni3D, found"):
        official_total([("Depth", source, True) for source in sources])


def test_no_item_has_no_total() -> None:
    with pytest.raises(ValueError, match="at least one item"):
        micro_total([])
