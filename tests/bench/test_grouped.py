"""Groups against the flattened form: the same numbers, and at least 90 % of what sharing can save."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from bench.small import MODEL
from fixtures.fast_compile import fast_compile
from flax import nnx

from vtzero.bench.grouped import REFERENCE, compare_grouped, flattened_decoder, grouped_decoder
from vtzero.bench.programs import made_up
from vtzero.models.qwen2_vl.weights import abstract_model


@pytest.fixture(scope="module")
def ratios():
    with fast_compile():
        return {(row.part, row.backward): row for row in compare_grouped(REFERENCE, repeats=None)}


def test_the_ideal_is_what_the_tokens_say():
    # G (P + R) / (P + G R) of a prompt of 400 and 8 answers of 200; an image is read once instead of 8 times.
    assert REFERENCE.ideal == {"decoder": pytest.approx(2.4), "vision": 8.0}


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("part", ["decoder", "vision"])
def test_groups_save_operations(ratios, part, backward):
    row = ratios[part, backward]
    assert row.flops >= 0.9 * row.ideal
    assert row.seconds is None


def test_both_forms_compute_the_same():
    graphdef, shapes = abstract_model(MODEL)
    random = np.random.default_rng(0)
    tokens = (random.normal(size=(2, 5, 16)), random.normal(size=(2, 3, 4, 16)))

    def both(tokens):
        params = jax.tree.map(lambda leaf: leaf * 10, made_up(shapes))  # attention is then uneven
        model = nnx.merge(graphdef, params)
        return grouped_decoder(model, tokens), flattened_decoder(model, tokens)

    with fast_compile():
        grouped, flattened = jax.jit(both)(jax.tree.map(np.float32, tokens))
    assert np.abs(grouped).max() > 0.1
    np.testing.assert_allclose(grouped, flattened, rtol=1e-4, atol=1e-4)


def test_times_are_measured_where_asked():
    case = replace(
        REFERENCE, model=MODEL, prompt=6, completion=3, group=2, patches=4
    )  # small: a time, not a claim
    with fast_compile():
        rows = compare_grouped(case, repeats=1)
    assert all(row.seconds > 0 for row in rows)
