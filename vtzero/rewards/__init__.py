"""Rewards: text in, number out.

A reward function has TRL's form, `reward(completions, **columns) -> list[float | None]`: one entry a
completion, with the columns `prompts`, `answer`, `completion_lengths`, `terminated` and whatever else the
data set carries. `None` and NaN mean "no score"; an exception in the place of a score says why there is none.

Nothing here knows models, tokenizers, run configuration or jax.
"""

from vtzero.rewards.registry import REWARDS, load_reward
from vtzero.rewards.runner import NamedReward, RewardFailure, RewardResult, score

__all__ = ["REWARDS", "NamedReward", "RewardFailure", "RewardResult", "load_reward", "score"]
