"""Logs of a run: what is written, what an interruption leaves, and TRL's metrics against plain formulas."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.tensorboard_files import scalars

from vtzero.training.completions import CompletionRow, read_completions, write_completions
from vtzero.training.metrics import (
    MetricsLog,
    RejectedLog,
    aha_metrics,
    length_metrics,
    read_metrics,
    reward_metrics,
)


def lines(path: Path) -> list[dict[str, Any]]:
    """Strict JSON: Python's reader would take NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def write_steps(folder: Path, first: int, last: int, resume_step: int | None = None) -> None:
    log = MetricsLog(folder, tensorboard=False, resume_step=resume_step)
    for step in range(first, last + 1):
        log.write(step, {"loss": step / 3})
    log.close()


def test_a_line_a_step(tmp_path: Path) -> None:
    write_steps(tmp_path / "new" / "run", 1, 2)
    assert lines(tmp_path / "new" / "run" / "metrics.jsonl") == [
        {"step": 1, "loss": 1 / 3},
        {"step": 2, "loss": 2 / 3},
    ]


def test_a_line_is_there_before_the_log_is_closed(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, tensorboard=False)
    log.write(1, {"loss": 0.5})
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.5}]
    log.close()


def test_numbers_of_every_library_are_written_as_numbers(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, tensorboard=False)
    log.write(np.int64(3), {"a": np.float32(0.5), "b": jnp.float32(0.25), "c": np.array(2), "d": 7})  # type: ignore[arg-type, dict-item]
    log.close()
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 3, "a": 0.5, "b": 0.25, "c": 2, "d": 7}]


def test_what_json_cannot_hold_is_null(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.write(1, {"nan": math.nan, "inf": math.inf, "low": -math.inf, "fine": 1.5})
    log.close()
    assert lines(tmp_path / "metrics.jsonl") == [
        {"step": 1, "nan": None, "inf": None, "low": None, "fine": 1.5}
    ]
    assert scalars(tmp_path) == [(1, "fine", 1.5)]


def test_tensorboard_shows_the_same(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.write(1, {"loss": 0.5, "rewards/accuracy/mean": 0.25})
    log.write(2, {"loss": 0.125})
    log.close()
    assert scalars(tmp_path) == [(1, "loss", 0.5), (1, "rewards/accuracy/mean", 0.25), (2, "loss", 0.125)]


def test_tensorboard_can_be_left_out(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 1)
    assert not (tmp_path / "tensorboard").exists()


def test_a_resumed_run_writes_what_an_uninterrupted_one_does(tmp_path: Path) -> None:
    write_steps(tmp_path / "whole", 1, 9)
    write_steps(tmp_path / "resumed", 1, 6)
    write_steps(tmp_path / "resumed", 5, 9, resume_step=4)
    whole, resumed = (tmp_path / name / "metrics.jsonl" for name in ("whole", "resumed"))
    assert resumed.read_bytes() == whole.read_bytes()


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 3)
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    for cut in range(1, len(whole.splitlines()[-1]) + 1):
        (tmp_path / "metrics.jsonl").write_bytes(whole[:-cut])
        assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]
        write_steps(tmp_path, 3, 3)
        assert (tmp_path / "metrics.jsonl").read_bytes() == whole


def test_without_a_step_to_resume_from_nothing_whole_is_lost(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 2)
    write_steps(tmp_path, 3, 3)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3]


def test_resuming_removes_later_completions(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write_completions(tmp_path, step, [CompletionRow("question", "answer", {}, 0.0, 0.0, 3, True)])
    MetricsLog(tmp_path, tensorboard=False, resume_step=2).close()
    assert [row["step"] for row in read_completions(tmp_path)] == [1, 2]


@pytest.mark.parametrize("line", ["{broken", '{"loss": 1}', "[1]", '{"step": null}', "\0\0"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"metrics.jsonl:2: not a JSON object with a step; remove the line"):
        MetricsLog(tmp_path, resume_step=1)
    assert path.read_bytes() == before


def test_a_metric_that_is_no_number_is_named(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, tensorboard=False)
    with pytest.raises(ValueError, match="metric 'loss' is 'high', not a number"):
        log.write(1, {"loss": "high"})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="a metric is called 'step'"):
        log.write(1, {"step": 2.0})
    log.close()
    assert read_metrics(tmp_path) == []


def test_no_metrics_yet(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


def test_rejections_are_kept_with_their_reasons(tmp_path: Path) -> None:
    log = RejectedLog(tmp_path)
    log.write(1, "sat:3", "sample", "image is missing")
    log.write(2, "sat:4", "reward", "raised ValueError: \n“odd”", function="accuracy")
    log.close()
    assert lines(tmp_path / "rejected.jsonl") == [
        {"step": 1, "id": "sat:3", "kind": "sample", "reason": "image is missing"},
        {
            "step": 2,
            "id": "sat:4",
            "kind": "reward",
            "reason": "raised ValueError: \n“odd”",
            "function": "accuracy",
        },
    ]
    RejectedLog(tmp_path, resume_step=1).close()
    assert [record["id"] for record in lines(tmp_path / "rejected.jsonl")] == ["sat:3"]


def test_length_metrics_are_trls() -> None:
    lengths = np.array([[3, 8, 5], [8, 1, 8]])
    terminated = np.array([[True, False, True], [True, True, False]])
    assert length_metrics(lengths, terminated, max_length=8) == pytest.approx(
        {
            "completions/mean_length": 33 / 6,
            "completions/min_length": 1,
            "completions/max_length": 8,
            "completions/clipped_ratio": 2 / 6,
            "completions/mean_terminated_length": 17 / 4,
            "completions/min_terminated_length": 1,
            "completions/max_terminated_length": 8,
        }
    )


def test_lengths_without_a_terminated_completion() -> None:
    metrics = length_metrics(np.array([4, 4]), np.array([False, False]), max_length=4)
    assert metrics["completions/clipped_ratio"] == 1
    assert [metrics[f"completions/{name}_terminated_length"] for name in ("mean", "min", "max")] == [0, 0, 0]


@pytest.mark.parametrize("lengths", [[5, 3], [-1, 3], []])
def test_impossible_lengths_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="lengths"):
        length_metrics(np.array(lengths, int), np.ones(len(lengths), bool), max_length=4)


def test_reward_metrics_leave_absent_scores_out() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=(2, 20))
    scores[0, ::3] = np.nan
    present = [float(value) for value in scores[0] if not np.isnan(value)]
    assert reward_metrics(["accuracy", "format"], scores) == pytest.approx(
        {
            "rewards/accuracy/mean": statistics.mean(present),
            "rewards/accuracy/std": statistics.stdev(present),
            "rewards/format/mean": statistics.mean(scores[1].tolist()),
            "rewards/format/std": statistics.stdev(scores[1].tolist()),
        }
    )


def test_reward_metrics_of_one_score_and_of_none() -> None:
    metrics = reward_metrics(["one", "none"], np.array([[np.nan, 2.0], [np.nan, np.nan]]))
    assert (metrics["rewards/one/mean"], metrics["rewards/one/std"]) == (2, 0)
    assert math.isnan(metrics["rewards/none/mean"])
    assert math.isnan(metrics["rewards/none/std"])


def test_reward_metrics_need_a_name_each() -> None:
    with pytest.raises(ValueError, match="1 reward names for 2 rows"):
        reward_metrics(["accuracy"], np.zeros((2, 3)))


def test_aha_words_are_counted_over_all_completions() -> None:
    found = [["wait", "check", "wait"], [], ["wait", "possibl"]]
    nothing = {"aha/aha": 0.0, "aha/verify": 0.0, "aha/yet": 0.0}
    assert aha_metrics(found) == nothing | {"aha/wait": 3.0, "aha/check": 1.0, "aha/possibl": 1.0}
