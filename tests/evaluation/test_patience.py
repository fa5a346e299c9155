"""When an answer is worth asking twice, by hand and against batches that were counted out."""

import json
from functools import partial
from pathlib import Path

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


REAL = Path(__file__).parents[3] / "shared" / "real" / "r1v" / "geoqa_test_qwen2vl_7b_instruct.json"


def steps(lengths, rows, limit_of):
    """Decoded tokens of all batches, one after the other, and how many batches there are."""
    known, waiting, total, batches = [], [], 0, 0

    def ask(batch, limit):
        nonlocal total, batches
        total, batches = total + min(max(batch), limit), batches + 1
        known.extend(length for length in batch if length <= limit)
        waiting.extend(length for length in batch if length > limit)

    for start in range(0, len(lengths), rows):
        ask(lengths[start : start + rows], limit_of(known + [1024] * len(waiting)))
        if len(waiting) >= rows:
            again, waiting[:] = waiting[:rows], waiting[rows:]
            ask(again, 1024)
    while waiting:
        again, waiting[:] = waiting[:rows], waiting[rows:]
        ask(again, 1024)
    return total, batches


@pytest.mark.skipif(not REAL.exists(), reason="no real outputs here")
def test_real_answers_take_half_the_steps():
    outputs = [row["model_output"] for row in json.loads(REAL.read_text())["results"]]
    # A word is about 1.3 tokens: what counts is how unequal the lengths are.
    lengths = [min(max(round(1.3 * len(output.split())), 1), 1024) for output in outputs]
    patient, more = steps(lengths, 64, partial(answer_limit, longest=1024, prompt=400, rows=64))
    plain, batches = steps(lengths, 64, lambda _: 1024)
    assert len(lengths) == 754
    assert patient < 0.5 * plain
    assert more - batches <= 2
