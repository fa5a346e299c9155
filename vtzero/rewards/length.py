"""Rewards of length: the paper's (Section 5.3) and DAPO's penalty. They know numbers of tokens only."""

from collections.abc import Sequence
from typing import Any

REWARD_PER_TOKEN = 0.001


def length_reward(
    completions: Sequence[str],
    completion_lengths: Sequence[int],
    terminated: Sequence[bool] | None = None,
    **_: Any,
) -> list[float]:
    """0.001 for each token of a completion's text, uncapped.

    `completion_lengths` count the stop token, which is no text: where `terminated` says that there is one, it
    earns nothing, as in the original, which counts the tokens of the decoded text. Source: `length_reward` in
    turningpoint-ai/VisualThinker-R1-Zero.
    """
    stops = [False] * len(completions) if terminated is None else terminated
    return [
        REWARD_PER_TOKEN * (length - bool(stop))
        for _, length, stop in zip(completions, completion_lengths, stops, strict=True)
    ]


def soft_overlong(
    completions: Sequence[str],
    completion_lengths: Sequence[int],
    *,
    max_completion_length: int,
    soft_punish_cache: int,
    **_: Any,
) -> list[float]:
    """0 up to the last `soft_punish_cache` tokens before the maximum, then linearly down to -1 there.

    With maximum L and cache C, a length n in (L - C, L] earns (L - C - n) / C, and a longer one -1; n counts
    the stop token. Sources: DAPO, arXiv 2503.14476, equation 13; TRL `get_soft_overlong_punishment`.

    Raises ValueError unless the cache is from 1 to the maximum.
    """
    if not 1 <= soft_punish_cache <= max_completion_length:
        raise ValueError(
            f"soft_punish_cache is {soft_punish_cache}; the reward soft_overlong needs it from 1 to "
            f"max_completion_length ({max_completion_length})"
        )
    unpunished = max_completion_length - soft_punish_cache
    return [
        max(-1.0, min(0.0, (unpunished - length) / soft_punish_cache))
        for _, length in zip(completions, completion_lengths, strict=True)
    ]
