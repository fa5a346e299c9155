"""The paper's length reward."""

import pytest

from vtzero.rewards.length import length_reward


def test_a_thousandth_for_each_token() -> None:
    assert length_reward(["a", "b", "c"], [0, 1, 700], prompts=[""] * 3) == pytest.approx([0.0, 0.001, 0.7])


def test_lengths_of_another_number_of_completions_are_an_error() -> None:
    with pytest.raises(ValueError, match="longer"):
        length_reward(["a"], [1, 2])
