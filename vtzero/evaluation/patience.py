"""How long a batch of answers may run before those that go on are asked again, together.

A batch decodes until its longest answer ends, and one that rambles makes all others' rows wait. Asked again
among its like it says the same, since no row depends on another. Numbers only: no model and no arrays of it.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

# Of the time of all batches, prompts included; less is not worth asking anything twice.
_LEAST_SAVING = 0.05


def answer_limit(lengths: Sequence[int], *, longest: int, prompt: int, rows: int) -> int:
    """Tokens an answer should get at first, given the lengths of those that are known; else `longest`.

    Time is counted in decoded tokens of a batch of `rows`, of which reading its prompts costs `prompt` (what
    it costs where products are the limit, as on a CPU; less on accelerators). A limit L costs a batch its
    longest answer, but at most L, and for each answer that is longer its share of a batch of such:
    E[min(longest of rows, L)] + P(length > L) (prompt + greatest length).
    """
    if not lengths:
        return longest
    known, counts = np.unique(np.asarray(lengths), return_counts=True)
    below = np.cumsum(counts) / len(lengths)
    costs = _expected_end(known, below, rows) + (1 - below) * (prompt + known[-1])
    best = int(np.argmin(costs))
    saving = (costs[-1] - costs[best]) / (prompt + costs[-1])
    return int(known[best]) if saving >= _LEAST_SAVING else longest


def _expected_end(
    known: Int[np.ndarray, " lengths"], below: Float[np.ndarray, " lengths"], rows: int
) -> Float[np.ndarray, " lengths"]:
    """For each limit among the `known` lengths, the mean number of tokens after which a batch ends."""
    over = 1 - below**rows  # that a batch has an answer longer than this
    steps = np.diff(known, prepend=0)
    return np.cumsum(steps * np.concatenate([[1.0], over[:-1]]))
