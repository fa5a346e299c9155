"""When an answer is worth asking twice, by hand and against batches that were counted out."""

import json
from pathlib import Path

import numpy as np
import pytest

from vtzero.evaluation.items import BenchmarkItem
from vtzero.evaluation.patience import answer_limit
from vtzero.evaluation.questions import Batch, Question
from vtzero.evaluation.runner import _Rounds, _Said


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


ROWS, LONGEST = 64, 1024


def question(number: int) -> Question:
    return Question(number, BenchmarkItem(str(number), "", "", (), ""), "", None)


def batches_of(lengths: list[int]) -> tuple[list[list[int]], list[int]]:
    """Tokens of each row, batch by batch, where answers have these lengths; and which answers are through."""
    asked = [question(number) for number in range(len(lengths))]
    batches = (Batch(asked[start : start + ROWS], []) for start in range(0, len(asked), ROWS))
    rounds = _Rounds(batches, prompt_length=400, batch_size=ROWS, longest=LONGEST)
    decoded, through = [], []
    for batch, limit in rounds:
        drawn = [min(lengths[one.number], limit) for one in batch.questions]
        said = [
            (one, _Said("", "", tokens, tokens == lengths[one.number]))
            for one, tokens in zip(batch.questions, drawn, strict=True)
        ]
        decoded.append(drawn)
        through += [one.number for one, _ in rounds.through(said, limit)]
    return decoded, through


@pytest.mark.skipif(not REAL.exists(), reason="no real outputs here")
def test_real_answers_take_half_the_steps():
    outputs = [row["model_output"] for row in json.loads(REAL.read_text())["results"]]
    # A word is about 1.3 tokens: what counts is how unequal the lengths are.
    lengths = [min(max(round(1.3 * len(output.split())), 1), LONGEST) for output in outputs]
    assert len(lengths) == 754
    decoded, through = batches_of(lengths)
    plain = [max(lengths[start : start + ROWS]) for start in range(0, len(lengths), ROWS)]
    steps = sum(max(drawn) for drawn in decoded)
    print(f"{steps} decoded tokens a row in {len(decoded)} batches, {sum(plain)} in {len(plain)} without")
    assert sorted(through) == list(range(754))
    assert steps < 0.5 * sum(plain)
    assert len(decoded) - len(plain) <= 2
