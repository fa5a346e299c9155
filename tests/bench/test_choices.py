"""Short answers and filters: the plain forms say the same, and each choice has its row."""

import jax
import numpy as np
import pytest
from bench.small import CONFIG, MODEL, SHAPES
from fixtures.fast_compile import fast_compile

from vtzero.bench.choices import compare_filters, compare_short, kth_by_sorting, nucleus_by_sorting
from vtzero.bench.programs import Programs
from vtzero.grpo.packing import Cut, arrange
from vtzero.sampling.threshold import first_of_nucleus, kth_greatest


@pytest.fixture(scope="module")
def programs():
    return Programs(CONFIG, MODEL, SHAPES)


def test_short_answers_are_scored_alike_on_the_grid_and_cut(programs):
    cut = arrange(np.full((2, 2), 2), 4, Cut(2, 2))
    with fast_compile(), jax.set_mesh(programs.mesh):
        grid, short = (programs.made_up_rollout(2, packing) for packing in (None, cut))
        logps = [jax.jit(programs.score)(programs.weights, rollout) for rollout in (grid, short)]
    assert int(grid.mask.sum()) == 2 * 2 * 2
    np.testing.assert_allclose(logps[0][..., :2], logps[1][..., :2], atol=1e-6)
    assert float(np.abs(logps[0][..., :2]).min()) > 0.1


def test_sorting_finds_what_the_search_finds():
    logits = jax.random.normal(jax.random.key(np.random.default_rng().integers(2**31)), (6, 301))
    np.testing.assert_array_equal(kth_by_sorting(logits, 7), kth_greatest(logits, np.full((6, 1), 7)))
    least, _ = first_of_nucleus(logits, np.full((6, 1), np.float32(0.8)))
    np.testing.assert_array_equal(nucleus_by_sorting(logits, 0.8), least)


def test_each_choice_has_its_rows(programs):
    with fast_compile(), jax.set_mesh(programs.mesh):
        filters = compare_filters(4, 64, repeats=1)
        short = list(compare_short(programs, repeats=1))
    assert [(row.baseline_value, row.value) for row in filters] == [("sort", "search")] * 2
    assert [(row.key, row.phase) for row in short] == [
        ("answers of 2", "score"),
        ("answers of 2", "update"),
        ("answers of 1", "score"),
        ("answers of 1", "update"),
    ]
    for row in (*filters, *short):
        assert row.ratio > 0
        assert row.memory > 0
