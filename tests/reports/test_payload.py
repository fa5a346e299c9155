"""What a page is told of runs is JSON, and short."""

import json
import math
from itertools import pairwise

import pytest

from vtzero.reports.payload import payload, short
from vtzero.reports.run_folder import RunRecord


def test_every_part_of_a_run_is_told(tmp_path):
    run = RunRecord(
        name="runs/a",
        label="a",
        folder=tmp_path,
        recipe={"method": "sft", "max_steps": 4},
        metrics={"step": [1, 2], "loss": [1 / 3, math.nan], "timing_s/gen": [1.0, 2.0]},
        evaluations=[{"benchmark": "scenes", "step": 2, "accuracy": 50.0}],
        rejected={"sample": 2},
    )
    told = json.loads(json.dumps(payload([run], [{"rows": 3}]), allow_nan=False))["runs"][0]
    assert told["metrics"] == {"step": [1, 2], "loss": [0.333333, None], "timing_s/gen": [1.0, 2.0]}
    assert (told["method"], told["max_steps"], told["last_step"]) == ("sft", 4, 2)
    assert told["status"] == "not finished"
    assert told["time_by_phase"] == {"gen": 3.0}
    assert told["rejected"] == {"sample": 2, "reward": 0, "update": 0}
    assert told["completions"] == {"rows": 3}
    assert told["recipe_differs"] == []


def test_a_long_run_is_drawn_by_part_of_its_steps(tmp_path):
    steps = list(range(1, 10_001))
    run = RunRecord(name="a", label="a", folder=tmp_path, metrics={"step": steps, "loss": steps})
    told = payload([run], [None])["runs"][0]
    drawn = told["metrics"]["step"]
    assert told["metrics"]["loss"] == drawn
    assert (drawn[0], drawn[-1], len(drawn)) == (1, 10_000, 2000)
    assert {after - before for before, after in pairwise(drawn)} == {5, 6}
    assert told["warnings"] == ["of 10,000 logged steps 2,000 are drawn, evenly"]


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, None), (math.inf, None), (7, 7), (0.1 + 0.2, 0.3), (1234567.89, 1234570.0), (1e-12, 1e-12)],
)
def test_numbers_have_six_digits(value, told):
    assert short(value) == told
