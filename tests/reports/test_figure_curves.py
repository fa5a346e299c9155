"""What figures read of a report's payload: curves without their gaps, labels that are safe, honest means."""

import numpy as np
import pytest

from vtzero.reports.figure_curves import Accuracy, Curve, read_runs, smoothed, window


def run_of(**fields):
    return read_runs({"runs": [fields]})[0]


def labels_of(*labels):
    return [run.label for run in read_runs({"runs": [{"label": label} for label in labels]})]


def curve_of(values):
    return Curve(np.arange(1.0, len(values) + 1), np.array(values, float))


# --- curves ---


def test_a_curve_leaves_gaps_out():
    reward = [0.5, None, float("nan"), float("inf"), "0.3", True, 10**400, 0.7]
    curve = run_of(metrics={"step": list(range(1, 9)), "reward": reward}).curve("reward")
    assert curve.steps.tolist() == [1, 8]
    assert curve.values.tolist() == [0.5, 0.7]


def test_a_curve_is_in_the_order_of_its_steps():
    curve = run_of(metrics={"step": [3, 1, 2], "kl": [0.3, 0.1, 0.2]}).curve("kl")
    assert curve.values.tolist() == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    "metrics",
    [None, {}, {"step": None}, {"step": [1, 2]}, {"step": [1, 2], "kl": None}, {"step": [1], "kl": [0.1]}],
)
def test_what_has_no_two_points_is_no_curve(metrics):
    assert run_of(metrics=metrics).curve("kl") is None


def test_a_column_that_ends_early_is_drawn_as_far_as_it_goes():
    assert run_of(metrics={"step": [1, 2, 3], "kl": [0.1, 0.2]}).curve("kl").steps.tolist() == [1, 2]


# --- evaluations and time ---


def test_accuracies_are_in_the_order_of_their_steps():
    evaluations = [
        {"benchmark": "vsr", "step": 100, "accuracy": 60.0, "accuracy_interval": [50.0, 70.0]},
        {
            "benchmark": "vsr",
            "step": 0,
            "accuracy": 30.0,
            "accuracy_interval": None,
            "accuracy_lenient": 40.0,
        },
        {"benchmark": "vsr", "step": None, "accuracy": 1.0},
        {"benchmark": "vsr", "step": 50, "accuracy": None},
        {"benchmark": "blink", "step": 0, "accuracy": 7.0},
    ]
    run = run_of(evaluations=evaluations)
    first, last = Accuracy(0, 30.0, 30.0, 30.0, 40.0), Accuracy(100, 60.0, 50.0, 70.0)
    assert run.accuracies() == {"vsr": [first, last], "blink": [Accuracy(0, 7.0, 7.0, 7.0)]}
    assert list(run.progress()) == ["vsr"]


def test_phases_without_time_are_left_out():
    seconds = run_of(time_by_phase={"gen": 2.5, "ref": 0, "reward": None, "data": float("nan")}).seconds()
    assert seconds == {"gen": 2.5}


@pytest.mark.parametrize("payload", [{}, {"runs": None}, {"runs": []}])
def test_a_payload_may_be_empty(payload):
    assert read_runs(payload) == []


def test_a_run_may_be_empty():
    run = run_of()
    assert (run.label, run.curve("reward"), run.accuracies(), run.seconds()) == ("run 1", None, {}, {})


# --- labels ---


def test_a_label_is_one_visible_line():
    assert labels_of("\x1b[31mred\nnot \u202egreen") == ["\\x1b[31mred not \\u202egreen"]


def test_a_long_label_is_cut():
    (label,) = labels_of("a very long name " * 100_000)
    assert label == "a very long name a very lon…"


def test_equal_labels_are_told_apart():
    assert labels_of("GRPO", "GRPO", None, "", "GRPO (2)", "GRPO") == [
        *("GRPO", "GRPO (2)", "run 3", "run 4", "GRPO (2) (2)", "GRPO (3)")
    ]


def test_a_run_without_a_label_has_its_name():
    assert run_of(name="tiny").label == "tiny"


# --- smoothing ---


def test_a_mean_goes_as_far_back_as_forth():
    curve = curve_of([0, 0, 0, 6, 0, 0, 9])
    np.testing.assert_allclose(smoothed(curve, 3), [0, 0, 2, 2, 2, 3, 4.5])


def test_a_mean_is_over_steps_not_over_points():
    curve = Curve(np.array([1.0, 2.0, 10.0, 11.0]), np.array([1.0, 3.0, 10.0, 20.0]))
    np.testing.assert_allclose(smoothed(curve, 5), [2, 2, 15, 15])


def test_a_mean_of_one_step_is_the_value():
    curve = curve_of([3, 1, 4])
    np.testing.assert_array_equal(smoothed(curve, 1), curve.values)


def test_one_huge_value_does_not_drown_what_follows():
    curve = curve_of([1e30, *[0.05] * 20])
    np.testing.assert_allclose(smoothed(curve, 5)[4:], 0.05)


@pytest.mark.parametrize(("steps", "expected"), [(2, 1), (60, 1), (150, 7), (1500, 75), (15_000, 749)])
def test_the_window_grows_with_the_longest_run(steps, expected):
    assert window([curve_of([1, 2]), curve_of(range(steps))]) == expected
