"""What a run says in words: the figures of a step, a completion whatever is in it, what was reached."""

import math
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from vtzero.training import told
from vtzero.training.completions import CompletionRow
from vtzero.training.told import (
    Pace,
    completion_lines,
    completion_object,
    duration,
    evaluation_line,
    finite,
    result_lines,
    step_line,
)

METRICS = {
    "reward": 1.25,
    "rewards/length/mean": 7.0,
    "rewards/accuracy_strict/std": 9.0,
    "rewards/accuracy_strict/mean": 0.5,
    "completions/mean_length": 38.04,
    "perf/total_num_tokens": 6000.0,
    "perf/time_per_step": 2.0,
}
REWARDS = {"accuracy": 1.0, "format": math.nan}


def row(completion: str, question: str = "How many?", answer: str = "2") -> CompletionRow:
    scores = {"rewards": REWARDS, "reward": 1.0, "advantage": 0.5, "length": 7, "terminated": True}
    return CompletionRow(f"User: {question}", completion, question=question, answer=answer, **scores)


def test_a_step_in_one_line():
    line = step_line(3, 150, METRICS, left=3725.0)
    assert line == "step 3/150  reward 1.25  accuracy 0.50  length 38.0  tokens/s 3,000  left 1:02:05"


def test_a_method_that_lacks_figures_shows_those_it_has():
    assert step_line(1, 2, {"loss": 0.5}, left=None) == "step 1/2  loss 0.5000"


def test_what_a_step_did_without_is_told():
    assert step_line(1, 2, {"loss": 0.5, "rejected_samples": 3.0, "reward_failures": 0.0}, left=None) == (
        "step 1/2  loss 0.5000  set aside 3"
    )
    assert step_line(1, 2, {"reward_failures": 2.0}, left=None) == "step 1/2  failed rewards 2"


def test_what_an_evaluation_did_without_is_told():
    measured = {"accuracy": 50.0, "accuracy_lenient": 75.0, "mean_length": 9.5, "n": 4, "rejected": 0}
    assert evaluation_line(4, measured).endswith("(4 items)")
    assert evaluation_line(4, measured | {"rejected": 2}).endswith("(4 items, 2 set aside)")


def test_durations():
    assert [duration(seconds) for seconds in (0, 59.6, 3600, 360_000)] == [
        "0:00:00",
        "0:01:00",
        "1:00:00",
        "100:00:00",
    ]


def test_what_is_left_goes_by_the_last_steps(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(told, "perf_counter", lambda: now[0])
    pace = Pace(100)
    pace.ended(10)
    assert pace.left() is None
    now[0] = 4.0
    pace.ended(12)
    assert pace.left() == 176.0
    now[0] = 5.0
    assert pace.left() == 175.0


def test_a_completion_is_shown_with_its_question_answer_and_rewards():
    assert completion_lines(5, row("It is 2.\nSure.")) == [
        "step 5, a completion of 7 tokens:",
        "  question    How many?",
        "  answer      2",
        "  completion  It is 2.",
        "              Sure.",
        "  reward      1.00  (accuracy 1.00  format nan)  advantage 0.50",
    ]


def test_where_the_question_is_not_known_the_prompt_is_shown():
    unknown = replace(row("2"), prompt="User: How many?", question="")
    assert "  question    User: How many?" in completion_lines(1, unknown)


@pytest.mark.parametrize(
    "text",
    [
        "\x1b[31mred\x1b[0m \x07 \r overwritten",
        "\u202egnitirw",
        "x" * 10_000_000,
        "line\n" * 100_000,
        "[bold]not markup[/bold] :smile:",
        "",
    ],
)
def test_whatever_a_model_writes_is_some_visible_lines(text):
    lines = completion_lines(1, row(text, text, text))
    assert len(lines) < 30
    assert max(map(len, lines)) <= 100
    assert all(letter.isprintable() for line in lines for letter in line)


def test_of_a_long_answer_the_beginning_and_the_end_are_kept():
    text = "\n".join(f"line {number}" for number in range(40))
    lines = completion_lines(1, row(text))
    assert "  completion  line 0" in lines
    assert f"{'':14}[… 28 lines …]" in lines
    assert f"{'':14}line 39" in lines


def test_of_a_long_prompt_the_end_is_kept_where_the_question_stands():
    prompt = "\n".join([*map(str, range(40)), "User: where?", "Assistant:"])
    lines = completion_lines(1, row("there", prompt))
    assert f"{'':14}User: where?" in lines
    assert "  question    [… 36 lines …]" in lines


FIGURES = {
    "steps": 150,
    "seconds": 114.2,
    "accuracy_before": 0.0,
    "accuracy_after": 88.25,
    "mean_length_before": 9.9,
    "mean_length_after": 43.1,
}


def test_the_end_says_what_was_reached_and_where_things_are():
    done, model, report = result_lines(FIGURES, Path("runs/my tiny"))
    assert done == (
        "done: 150 steps, which took 0:01:54; held-out accuracy 0.0 -> 88.2 % strict, "
        "mean length 9.9 -> 43.1 tokens"
    )
    assert "runs/my tiny/export" in model
    assert shlex.split(report)[1:] == ["vtzero", "report", "runs/my tiny"]


def test_a_run_without_evaluation_ends_too():
    assert result_lines({"steps": 2, "seconds": 1.0}, Path("run"))[0] == "done: 2 steps, which took 0:00:01"


def test_json_knows_no_nan():
    content = {"a": math.nan, "b": [math.inf, 1.5, "x"], "c": {"d": -math.inf, "e": 3}}
    assert finite(content) == {"a": None, "b": [None, 1.5, "x"], "c": {"d": None, "e": 3}}
    assert finite(completion_object(row("2")))["rewards"] == {"accuracy": 1.0, "format": None}
