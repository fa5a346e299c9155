"""Scoring a batch: weights, missing scores, and faulty reward functions that cost only their own samples."""

import numpy as np
import pytest

from vtzero.rewards import NamedReward, RewardFailure, load_reward, score


def length_of(completions, **_):
    return [len(text) for text in completions]


def raises_on_bad(completions, **_):
    if "bad" in completions:
        raise KeyError("no\nsuch key")
    return [1.0] * len(completions)


def scores(function, completions, **columns):
    result = score([NamedReward("f", function)], completions, columns)
    return result.per_function[0], result.failures


def test_total_is_the_weighted_sum() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(2, 5))
    weights = rng.normal(size=2)
    functions = [
        NamedReward("first", lambda completions, **_: list(first), weights[0]),
        NamedReward("second", lambda completions, **_: second, weights[1]),
    ]
    result = score(functions, ["x"] * 5, {})
    np.testing.assert_array_equal(result.per_function, [first, second])
    np.testing.assert_allclose(result.total, weights[0] * first + weights[1] * second, rtol=1e-12)
    assert result.per_function.dtype == result.total.dtype == np.float64
    assert result.failures == []


def test_given_weights_replace_the_functions_own() -> None:
    functions = [NamedReward("length", length_of, 5.0), NamedReward("ones", raises_on_bad, 7.0)]
    assert score(functions, ["ab", "abc"], {}, weights=[2.0, -1.0]).total.tolist() == [3.0, 5.0]


def test_no_score_of_one_function_is_no_total() -> None:
    functions = [
        NamedReward("some", lambda completions, **_: [None, float("nan"), 2.0], 0.0),
        NamedReward("length", length_of),
    ]
    result = score(functions, ["a", "b", "c"], {})
    np.testing.assert_array_equal(result.per_function, [[np.nan, np.nan, 2.0], [1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(result.total, [np.nan, np.nan, 1.0])
    # None is TRL's way to say that there is none; a number that is none is a mistake.
    (failure,) = result.failures
    assert (failure.function_name, failure.sample_index) == ("some", 1)
    assert "returned nan as score" in failure.reason


def test_a_raising_function_loses_only_the_offending_samples() -> None:
    values, failures = scores(raises_on_bad, ["good", "bad", "good", "bad"])
    np.testing.assert_array_equal(values, [1.0, np.nan, 1.0, np.nan])
    reason = "KeyError: 'no\\nsuch key'"
    assert failures == [RewardFailure("f", 1, reason), RewardFailure("f", 3, reason)]


def test_a_failure_leaves_other_functions_alone() -> None:
    result = score([NamedReward("f", raises_on_bad), NamedReward("length", length_of)], ["bad", "good"], {})
    np.testing.assert_array_equal(result.per_function, [[np.nan, 1.0], [3.0, 4.0]])
    np.testing.assert_array_equal(result.total, [np.nan, 5.0])


def test_an_exception_in_the_place_of_a_score_is_its_reason() -> None:
    calls: list[int] = []

    def some_fail(completions, **_):
        calls.append(len(completions))
        return [0.5, TimeoutError("took too long"), 1.0]

    values, failures = scores(some_fail, ["a", "b", "c"])
    np.testing.assert_array_equal(values, [0.5, np.nan, 1.0])
    assert failures == [RewardFailure("f", 1, "TimeoutError: took too long")]
    assert calls == [3]


def test_each_sample_alone_keeps_its_own_columns() -> None:
    def divide(completions, numerator, **_):
        return [value / len(text) for text, value in zip(completions, numerator, strict=True)]

    values, failures = scores(divide, ["ab", "", "abcd"], numerator=[4, 5, 6])
    np.testing.assert_array_equal(values, [2.0, np.nan, 1.5])
    assert failures == [RewardFailure("f", 1, "ZeroDivisionError: division by zero")]


@pytest.mark.parametrize("returned", [[], [1.0] * 2, [1.0] * 5])
def test_a_wrong_length_is_a_failure_of_every_sample(returned: list[float]) -> None:
    values, failures = scores(lambda completions, **_: returned, ["a", "b", "c"])
    assert np.isnan(values).all()
    assert [failure.sample_index for failure in failures] == [0, 1, 2]
    assert "scores for 1 completions" in failures[0].reason


def test_a_batch_call_that_fails_alone_is_recorded() -> None:
    values, failures = scores(lambda completions, **_: [0.5], ["a", "b"])
    assert values.tolist() == [0.5, 0.5]
    assert failures == [RewardFailure("f", None, "batch call failed: returned 1 scores for 2 completions")]


@pytest.mark.parametrize("returned", [None, 1.0, "11", {"a": 1.0, "b": 2.0}, b"11"])
def test_a_wrong_type_is_a_failure_of_every_sample(returned: object) -> None:
    values, failures = scores(lambda completions, **_: returned, ["a", "b"])
    assert np.isnan(values).all()
    assert [failure.sample_index for failure in failures] == [0, 1]
    assert type(returned).__name__ in failures[0].reason


@pytest.mark.parametrize("entry", ["1.0", [1.0], float("inf"), -np.inf, 1j, {}, np.array([1.0]), 10**400])
def test_a_wrong_entry_is_a_failure_of_its_sample(entry: object) -> None:
    values, failures = scores(lambda completions, **_: [1.0, entry, 2.0], ["a", "b", "c"])
    np.testing.assert_array_equal(values, [1.0, np.nan, 2.0])
    assert [failure.sample_index for failure in failures] == [1]


def test_numbers_of_every_kind_are_scores() -> None:
    values, failures = scores(
        lambda completions, **_: (True, 2, np.float32(0.5), np.int64(4), np.array(5.0)), ["x"] * 5
    )
    assert values.tolist() == [1.0, 2.0, 0.5, 4.0, 5.0]
    assert failures == []


def test_exit_and_broken_messages_do_not_end_the_run() -> None:
    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no message")

    def leave(completions, **_):
        raise SystemExit(3) if "exit" in completions else UnprintableError

    values, failures = scores(leave, ["exit", "other"])
    assert np.isnan(values).all()
    assert failures[0].reason == "SystemExit: 3"
    assert "UnprintableError" in failures[1].reason


def test_an_interrupt_does() -> None:
    def interrupt(completions, **_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scores(interrupt, ["a"])


def test_long_reasons_are_cut_to_one_line() -> None:
    def complain(completions, **_):
        raise ValueError("line\n" * 10_000)

    _, (failure,) = scores(complain, ["a"])
    assert "\n" not in failure.reason
    assert len(failure.reason) <= 400


def test_a_function_cannot_change_anothers_input() -> None:
    def vandal(completions, answer, **_):
        answer.clear()
        completions.append("more")
        return [0.0, 0.0]

    completions, columns = ["ab", "abc"], {"answer": ["x", "y"]}
    result = score([NamedReward("vandal", vandal), NamedReward("length", length_of)], completions, columns)
    assert result.per_function.tolist() == [[0.0, 0.0], [2.0, 3.0]]
    assert (completions, columns) == (["ab", "abc"], {"answer": ["x", "y"]})


def test_registered_rewards_together() -> None:
    names = ["accuracy_paper", "accuracy_strict", "format_paper", "length"]
    columns = {"prompts": ["<think>"] * 2, "answer": ["left", "left"], "completion_lengths": [10, 20]}
    completions = ["x</think><answer>left</answer>", "x</think><answer>\nLeft\n</answer>"]
    result = score([NamedReward(name, load_reward(name)) for name in names], completions, columns)
    np.testing.assert_allclose(result.per_function, [[1, 0], [1, 1], [1, 1], [0.01, 0.02]])
    np.testing.assert_allclose(result.total, [3.01, 2.02])


def test_an_empty_batch_has_empty_scores() -> None:
    result = score([NamedReward("length", length_of), NamedReward("f", raises_on_bad)], [], {"answer": []})
    assert result.per_function.shape == (2, 0)
    assert result.total.shape == (0,)


def test_wrong_calls_are_errors_not_failures() -> None:
    with pytest.raises(ValueError, match="no reward function"):
        score([], ["a"], {})
    with pytest.raises(ValueError, match="2 reward weights for 1 reward functions"):
        score([NamedReward("length", length_of)], ["a"], {}, weights=[1.0, 2.0])
    with pytest.raises(ValueError, match="column 'answer' has 2 values for 1 completions"):
        score([NamedReward("length", length_of)], ["a"], {"answer": ["x", "y"]})
