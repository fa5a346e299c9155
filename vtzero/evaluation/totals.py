"""Accuracies with their intervals. Knows counts only."""

import math

_Z_95 = 1.959963984540054  # the normal distribution's 97.5 % quantile


def wilson_interval(correct: int, count: int, z: float = _Z_95) -> tuple[float, float]:
    """Wilson's score interval of a proportion, as fractions; 95 % unless `z` is another quantile.

    (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n). Source: Wilson, 1927.

    Raises ValueError unless 0 <= correct <= count and count >= 1.
    """
    if not 0 <= correct <= count or count < 1:
        raise ValueError(f"an interval needs at least one item and 0 <= correct <= n: {correct} of {count}")
    share, spread = correct / count, z * z / count
    middle = share + spread / 2
    half = math.sqrt(spread * (share * (1 - share) + spread / 4))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))
