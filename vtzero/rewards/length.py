"""The paper's length reward (Section 5.3). It knows lengths in tokens and no tokenizer."""

from collections.abc import Sequence
from typing import Any

REWARD_PER_TOKEN = 0.001


def length_reward(completions: Sequence[str], completion_lengths: Sequence[int], **_: Any) -> list[float]:
    """0.001 for each token of a completion, uncapped.

    Source: `length_reward` in turningpoint-ai/VisualThinker-R1-Zero.
    """
    return [REWARD_PER_TOKEN * length for _, length in zip(completions, completion_lengths, strict=True)]
