"""The paper's tables as printed, and which of their cells their own arithmetic contradicts."""

import pytest

from vtzero.reports.paper import CV_BENCH, TABLES, contradictions, micro_average

ROWS = {row.name: row for rows in TABLES.values() for row in rows}
CONTRADICTED = {"Qwen2-VL-2B": ("Depth", "10.16"), "VisualThinker-R1-Zero": ("BLINK", "53.56")}


@pytest.mark.parametrize(
    ("name", "correct"),
    [
        ("Qwen2-VL-2B + SFT", 1526),
        ("VisualThinker-R1-Zero", 1569),
        ("Qwen2-VL-2B-Instruct", 1468),
        ("Instruct + RL, with reason", 1742),
        ("Instruct + RL, nothing frozen", 1677),
        ("Instruct + RL, vision frozen", 1803),
        ("Instruct + RL, LLM frozen", 1724),
    ],
)
def test_totals_are_micro_averages_of_2638_items(name, correct):
    row = ROWS[name]
    assert micro_average({part: row.cells[part] for part in CV_BENCH}) == pytest.approx(100 * correct / 2638)
    assert row.cells["Total"] == pytest.approx(100 * correct / 2638, abs=0.0101)


@pytest.mark.parametrize("name", ROWS)
def test_only_the_known_cells_are_contradicted(name):
    found = contradictions(ROWS[name])
    if name not in CONTRADICTED:
        assert not found
        return
    cell, value = CONTRADICTED[name]
    assert list(found) == [cell]
    assert value in found[cell]


def test_a_wrong_total_is_found_too():
    row = ROWS["Qwen2-VL-2B-Instruct"]
    assert list(contradictions(type(row)("x", {**row.cells, "Total": 56.64}))) == ["Total"]
