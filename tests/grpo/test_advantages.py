"""Advantages against hand-computed numbers and against TRL's published formulas written in torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from vtzero.grpo.advantages import group_advantages, group_statistics

EPSILON = 1e-4
TWO_GROUPS = jnp.array([[1.0, 0.0, 0.0, 1.0], [2.0, 4.0, 4.0, 6.0]])


def random_rewards(batch: int, group: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(1.0, 2.0, (batch, group)).astype(np.float32)


def with_absent(rewards: np.ndarray, seed: int) -> np.ndarray:
    """The rewards with about a third of them NaN."""
    absent = np.random.default_rng(seed).random(rewards.shape) < 0.3
    return np.where(absent, np.float32(np.nan), rewards)


def test_group_scale_by_hand():
    # Means 0.5 and 4; unbiased standard deviations sqrt(1/3) = 0.5773503 and sqrt(8/3) = 1.6329932.
    expected = [[0.8658755, -0.8658755, -0.8658755, 0.8658755], [-1.2246700, 0.0, 0.0, 1.2246700]]
    np.testing.assert_allclose(group_advantages(TWO_GROUPS, "group"), expected, rtol=1e-6)


def test_batch_scale_by_hand():
    # All eight: sum 18, sum of squares 74, so the unbiased variance is (74 - 18^2/8) / 7 = 4.7857143.
    expected = [[0.2285477, -0.2285477, -0.2285477, 0.2285477], [-0.9141909, 0.0, 0.0, 0.9141909]]
    np.testing.assert_allclose(group_advantages(TWO_GROUPS, "batch"), expected, rtol=1e-6)


def test_no_scale_by_hand():
    expected = [[0.5, -0.5, -0.5, 0.5], [-2.0, 0.0, 0.0, 2.0]]
    np.testing.assert_allclose(group_advantages(TWO_GROUPS, "none"), expected, rtol=1e-6)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_equals_trl_on_random_rewards(scale):
    rewards = random_rewards(5, 8, seed=0)
    flat = torch.from_numpy(rewards).view(-1)
    advantages = flat - flat.view(-1, 8).mean(dim=1).repeat_interleave(8)
    if scale == "group":
        advantages = advantages / (flat.view(-1, 8).std(dim=1).repeat_interleave(8) + EPSILON)
    if scale == "batch":
        advantages = advantages / (flat.std() + EPSILON)
    actual = group_advantages(jnp.asarray(rewards), scale)
    np.testing.assert_allclose(actual, advantages.view(5, 8).numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_absent_rewards_are_left_out(scale):
    rewards = with_absent(random_rewards(6, 8, seed=1), seed=2)
    batch_std = torch.from_numpy(rewards[~np.isnan(rewards)]).std()
    actual = group_advantages(jnp.asarray(rewards), scale)
    for row, advantages in zip(rewards, np.asarray(actual), strict=True):
        present = torch.from_numpy(row[~np.isnan(row)])
        divisor = {"group": present.std() + EPSILON, "batch": batch_std + EPSILON, "none": 1.0}[scale]
        expected = ((present - present.mean()) / divisor).numpy()
        np.testing.assert_allclose(advantages[~np.isnan(row)], expected, rtol=1e-6, atol=1e-6)
        assert (advantages[np.isnan(row)] == 0).all()


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("absent", [np.nan, np.inf, -np.inf])
def test_groups_without_two_rewards_get_zeros(scale, absent):
    rewards = jnp.array([[absent, absent, absent], [absent, 3.0, absent], [1.0, 2.0, absent]])
    advantages = np.asarray(group_advantages(rewards, scale))
    assert (advantages[:2] == 0).all()
    assert advantages[2, 0] < 0 < advantages[2, 1]
    assert advantages[2, 2] == 0


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_all_absent_is_zero(scale):
    assert (np.asarray(group_advantages(jnp.full((2, 3), jnp.nan), scale)) == 0).all()


@pytest.mark.parametrize("group", [3, 7, 8, 13])
def test_equal_rewards_have_no_advantage_at_all(group):
    values = random_rewards(64, 1, seed=group)
    rewards = jnp.asarray(np.repeat(values, group, axis=1))
    assert (np.asarray(group_advantages(rewards, "group")) == 0).all()
    assert group_statistics(rewards)["frac_reward_zero_std"] == 1.0


def test_a_group_of_one_has_no_advantage():
    assert (np.asarray(group_advantages(jnp.array([[1.0], [5.0]]), "group")) == 0).all()


def test_float32_out_under_jit():
    rewards = jnp.asarray(random_rewards(3, 4, seed=3), jnp.bfloat16)
    advantages = jax.jit(group_advantages, static_argnames="scale")(rewards, scale="group")
    assert advantages.dtype == jnp.float32
    np.testing.assert_allclose(
        advantages, group_advantages(rewards.astype(jnp.float32)), rtol=1e-6, atol=1e-6
    )


def test_epsilon_is_added_to_the_standard_deviation():
    advantages = group_advantages(jnp.array([[0.0, 2.0]]), "group", epsilon=1.0)
    np.testing.assert_allclose(advantages, [[-1 / (2**0.5 + 1), 1 / (2**0.5 + 1)]], rtol=1e-6)


def test_unknown_scale_is_named():
    with pytest.raises(ValueError, match="scale is 'std'"):
        group_advantages(TWO_GROUPS, "std")


def test_statistics_by_hand():
    rewards = jnp.array([[1.0, 0.0, 0.0, 1.0], [2.0, 4.0, 4.0, 6.0], [3.0, 3.0, 3.0, 3.0]])
    statistics = group_statistics(rewards)
    np.testing.assert_allclose(statistics["reward"], 30 / 12, rtol=1e-6)
    np.testing.assert_allclose(statistics["reward_std"], (0.5773503 + 1.6329932 + 0) / 3, rtol=1e-6)
    np.testing.assert_allclose(statistics["frac_reward_zero_std"], 1 / 3, rtol=1e-6)


def test_statistics_leave_absent_rewards_out():
    rewards = jnp.array([[1.0, jnp.nan, 3.0], [jnp.nan, jnp.nan, 5.0], [jnp.nan, jnp.nan, jnp.nan]])
    statistics = group_statistics(rewards)
    np.testing.assert_allclose(statistics["reward"], 3.0, rtol=1e-6)
    np.testing.assert_allclose(statistics["reward_std"], 2**0.5 / 3, rtol=1e-6)
    np.testing.assert_allclose(statistics["frac_reward_zero_std"], 2 / 3, rtol=1e-6)


def test_statistics_equal_trl_on_random_rewards():
    rewards = random_rewards(6, 8, seed=4)
    statistics = group_statistics(jnp.asarray(rewards))
    tensor = torch.from_numpy(rewards)
    np.testing.assert_allclose(statistics["reward"], tensor.mean(), rtol=1e-6)
    np.testing.assert_allclose(statistics["reward_std"], tensor.std(dim=1).mean(), rtol=1e-6)


def test_no_reward_at_all_has_no_mean():
    assert np.isnan(group_statistics(jnp.full((2, 3), jnp.nan))["reward"])
