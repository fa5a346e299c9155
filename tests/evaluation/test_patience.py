"""When an answer is worth asking twice, by hand and against batches that were counted out."""

import numpy as np
import pytest

from vtzero.evaluation.patience import answer_limit


def counted(lengths, limit, *, prompt, rows, rng, batches=4000):
    """The mean cost of a batch of answers drawn from `lengths`, and of asking the long ones again."""
    drawn = rng.choice(lengths, (batches, rows))
    again = (drawn > limit).sum() / rows / batches
    return prompt + np.minimum(drawn.max(axis=1), limit).mean() + again * (prompt + max(lengths))


def test_nothing_known_is_no_limit():
    assert answer_limit([], longest=700, prompt=100, rows=8) == 700


def test_answers_of_one_length_are_not_cut():
    assert answer_limit([43] * 64, longest=72, prompt=112, rows=64) == 72


def test_a_few_that_ramble_are_cut_behind_the_others():
    lengths = [100] * 95 + [1024] * 5
    assert answer_limit(lengths, longest=1024, prompt=600, rows=64) == 100


def test_most_that_ramble_are_not():
    assert answer_limit([100] * 24 + [1024] * 40, longest=1024, prompt=600, rows=64) == 1024


def test_a_batch_of_one_waits_for_nobody():
    assert answer_limit([100] * 95 + [1024] * 5, longest=1024, prompt=600, rows=1) == 1024


@pytest.mark.parametrize("turn", range(5))
def test_the_limit_is_as_cheap_as_any_by_count(turn):
    seed = np.random.SeedSequence().entropy
    print("turn", turn, "seed", seed)
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.geometric(1 / 60, 300), 512).tolist()
    settings = {"prompt": int(rng.integers(10, 400)), "rows": int(rng.integers(2, 65))}
    chosen = answer_limit(lengths, longest=512, **settings)
    cost = {limit: counted(lengths, limit, **settings, rng=rng) for limit in {*lengths[:40], 512, chosen}}
    # Within the noise of the count, and of the saving that is too small to be taken.
    assert cost[chosen] <= 1.08 * min(cost.values())
