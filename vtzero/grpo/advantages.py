"""Group-relative advantages: rewards of a batch of groups in, advantages of the same shape out.

Pure functions of arrays, safe under `jax.jit`. Must not know where rewards come from, what a completion is,
or any configuration of a run.
"""

from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

ScaleRewards = Literal["group", "batch", "none"]


def group_advantages(
    rewards: Float[Array, "batch group"], scale: ScaleRewards = "group", epsilon: float = 1e-4
) -> Float[Array, "batch group"]:
    """Reward minus its group's mean, divided by a standard deviation.

    A_bg = (r_bg - mean_g(r_b)) / (std + epsilon), in float32, with the unbiased standard deviation (ddof = 1)

    - `scale="group"`: of the group (DeepSeekMath, arXiv 2402.03300, section 4.1.2);
    - `scale="batch"`: of every reward given, the mean staying the group's (TRL `scale_rewards="batch"`), so
      `rewards` must be those of the whole optimizer step;
    - `scale="none"`: nothing is divided (Dr. GRPO, arXiv 2503.20783).

    A reward that is not finite is an absent one: it counts in no mean and no standard deviation, and its
    advantage is 0. A group with fewer than two rewards, or with equal ones, has advantages of exactly 0. The
    result is always finite. `epsilon` is TRL's 1e-4 (`trl/trainer/grpo_trainer.py`).

    Raises ValueError for another `scale`.
    """
    if scale not in get_args(ScaleRewards):
        raise ValueError(f"scale is {scale!r}; it must be one of {', '.join(get_args(ScaleRewards))}")
    rewards = rewards.astype(jnp.float32)
    present = jnp.isfinite(rewards)
    deviations, group_std = _deviations_and_std(rewards, present, axis=-1)
    if scale == "none":
        return deviations
    if scale == "group":
        return deviations / (group_std + epsilon)
    _, batch_std = _deviations_and_std(rewards, present, axis=None)
    return deviations / (batch_std + epsilon)


def group_statistics(rewards: Float[Array, "batch group"]) -> dict[str, Float[Array, ""]]:
    """TRL's metrics of a batch of rewards, as float32 scalars.

    - `reward`: mean of the rewards that are present (NaN if there is none: then there is no such number);
    - `reward_std`: mean over groups of the group's unbiased standard deviation, whatever `scale_rewards` is;
    - `frac_reward_zero_std`: fraction of groups whose rewards are all equal, and that so teach nothing.

    A group with fewer than two rewards has a standard deviation of 0, as in TRL with one generation.
    """
    rewards = rewards.astype(jnp.float32)
    present = jnp.isfinite(rewards)
    _, group_std = _deviations_and_std(rewards, present, axis=-1)
    return {
        "reward": jnp.mean(rewards, where=present),
        "reward_std": jnp.mean(group_std),
        "frac_reward_zero_std": jnp.mean(group_std == 0, dtype=jnp.float32),
    }


def _deviations_and_std(
    rewards: Float[Array, "batch group"], present: Bool[Array, "batch group"], axis: int | None
) -> tuple[Float[Array, "batch group"], Float[Array, "#batch 1"]]:
    """Deviations from the mean over `axis` (0 where absent) and the unbiased standard deviation."""
    count = jnp.sum(present, axis=axis, keepdims=True)
    # The mean of equal float32 numbers can miss them by one rounding, which 1 / epsilon would blow up into an
    # advantage of about 1e-3; measured from the smallest of them, equal rewards are exact zeros.
    smallest = jnp.min(rewards, axis=axis, keepdims=True, where=present, initial=jnp.inf)
    above_smallest = jnp.where(present, rewards - smallest, 0.0)
    mean = jnp.sum(above_smallest, axis=axis, keepdims=True) / jnp.maximum(count, 1)
    deviations = jnp.where(present, above_smallest - mean, 0.0)
    squares = jnp.sum(jnp.square(deviations), axis=axis, keepdims=True)
    return deviations, jnp.sqrt(squares / jnp.maximum(count - 1, 1))
