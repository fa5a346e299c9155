"""The paper's length reward and DAPO's penalty."""

import pytest

from vtzero.rewards.length import length_reward, soft_overlong


def test_a_thousandth_for_each_token() -> None:
    assert length_reward(["a", "b", "c"], [0, 1, 700], prompts=[""] * 3) == pytest.approx([0.0, 0.001, 0.7])


def test_lengths_of_another_number_of_completions_are_an_error() -> None:
    with pytest.raises(ValueError, match="longer"):
        length_reward(["a"], [1, 2])


def test_the_stop_token_is_no_text() -> None:
    rewards = length_reward(["a"] * 3, [1, 350, 700], terminated=[True, True, False])
    assert rewards == pytest.approx([0.0, 0.349, 0.7])


# By hand: TRL's get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20).
@pytest.mark.parametrize(
    ("length", "reward"),
    [
        (0, 0.0),
        (50, 0.0),
        (80, 0.0),
        (81, -0.05),
        (85, -0.25),
        (90, -0.5),
        (99, -0.95),
        (100, -1.0),
        (110, -1.0),
    ],
)
def test_soft_overlong(length: int, reward: float) -> None:
    settings = {"max_completion_length": 100, "soft_punish_cache": 20}
    assert soft_overlong(["a"], [length], prompts=["?"], **settings) == pytest.approx([reward])


def test_a_cache_as_long_as_the_maximum_falls_from_the_first_token() -> None:
    rewards = soft_overlong(["a"] * 3, [0, 1, 4], max_completion_length=4, soft_punish_cache=4)
    assert rewards == [0.0, -0.25, -1.0]


@pytest.mark.parametrize("cache", [0, -1, 101])
def test_a_cache_out_of_range_is_an_error(cache: int) -> None:
    with pytest.raises(ValueError, match=f"soft_punish_cache is {cache}"):
        soft_overlong(["a"], [5], max_completion_length=100, soft_punish_cache=cache)
