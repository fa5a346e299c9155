"""Short answers and filters: the plain forms say the same, and each choice has its row."""

from dataclasses import replace

import jax
import numpy as np
from bench.small import CONFIG, MODEL, SHAPES
from fixtures.fast_compile import fast_compile

from vtzero.bench.choices import _changed, compare_filters, compare_short, kth_by_sorting, nucleus_by_sorting
from vtzero.bench.comparisons import Difference
from vtzero.bench.programs import Programs
from vtzero.bench.shapes import config_shapes
from vtzero.sampling.threshold import first_of_nucleus, kth_greatest


def test_short_answers_are_scored_alike_on_the_grid_and_cut():
    programs = Programs(CONFIG, MODEL, SHAPES)
    logps = []
    with fast_compile(), jax.set_mesh(programs.mesh):
        drawn = programs.made_up_completions(2)
        for lengths in ((), (2,)):
            programs.change(completion_length_buckets=lengths)
            rollout, tokens = programs.rollout(programs.seen, drawn)
            assert (rollout.packing is None) == (lengths == ())
            assert int(tokens) == 2 * 2 * 2
            logps.append(np.asarray(programs.score(rollout)))
    np.testing.assert_allclose(logps[0][..., :2], logps[1][..., :2], atol=1e-6)
    assert float(np.abs(logps[0][..., :2]).min()) > 0.1


def test_sorting_finds_what_the_search_finds():
    logits = jax.random.normal(jax.random.key(np.random.default_rng().integers(2**31)), (6, 301))
    np.testing.assert_array_equal(kth_by_sorting(logits, 7), kth_greatest(logits, np.full((6, 1), 7)))
    least, _ = first_of_nucleus(logits, np.full((6, 1), np.float32(0.8)))
    np.testing.assert_array_equal(nucleus_by_sorting(logits, 0.8), least)


def test_each_choice_has_its_rows():
    config = replace(CONFIG, max_completion_length=64)  # shorter answers are not packed
    programs = Programs(config, MODEL, config_shapes(config, MODEL, image_size=(56, 56)))
    with fast_compile(), jax.set_mesh(programs.mesh):
        filters = compare_filters(4, 64, repeats=1)
        short = list(compare_short(programs, repeats=1))
    assert [(row.baseline_value, row.value) for row in filters] == [("sort", "search")] * 2
    assert [(row.key, row.value) for row in short if row.phase == "score"] == [
        ("answers of 32", "cut, answers of up to 32"),
        ("answers of 32", "packed, 1 rows of 64"),
        ("answers of 16", "cut, answers of up to 16"),
        ("answers of 16", "packed, 1 rows of 64"),
    ]
    assert [row.phase for row in short] == ["score", "update"] * 4
    for row in (*filters, *short):
        assert row.ratio > 0
        assert row.memory > 0


def test_a_change_that_cannot_be_made_is_a_row_that_says_why():
    programs = Programs(CONFIG, MODEL, SHAPES)
    before = Difference("short", "answers of 2", "grid", "packed", "update", baseline_seconds=1.0)
    (row,) = _changed(programs, 1, programs.made_up_completions(2), [before], {"attention": "splash"})
    assert row.baseline_seconds == 1.0
    assert "splash" in row.failed
    assert programs.config == CONFIG
