"""Thresholds found by sums against the sorted row, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtzero.sampling.filters import apply_top_k, apply_top_k_top_p, apply_top_p
from vtzero.sampling.threshold import TOP_P_ROUNDING, kth_greatest

QWEN2_VOCAB = 151_936
# What the docstring of `first_of_nucleus` allows.
MASS_TOLERANCE = 3e-7
LARGEST, LEAST_NORMAL = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)


def quantised(logits):
    return np.round(logits * 4) / 4


def bfloat16_valued(logits):
    return np.array(jnp.asarray(logits, jnp.bfloat16).astype(jnp.float32))


def some_removed(logits):
    return np.where(np.arange(logits.shape[-1]) % 3 == 1, -np.inf, logits)


KINDS = {
    "plain": lambda x: 2 * x,
    "quantised": quantised,
    "bfloat16": bfloat16_valued,
    "some removed": some_removed,
    "peaked": lambda x: 30 * x,
    "flat": lambda x: 1e-3 * x,
    "all tied": np.zeros_like,
    "all removed": lambda x: np.full_like(x, -np.inf),
    "far from zero": lambda x: x + 1e4,
}


def logits_of(kind, seed, *shape):
    return KINDS[kind](np.random.default_rng(seed).normal(size=shape).astype(np.float32)).astype(np.float32)


def top_k_by_sorting(logits, top_k):
    vocab = logits.shape[-1]
    kept = np.where((top_k <= 0) | (top_k >= vocab), vocab, top_k)
    threshold = np.take_along_axis(np.sort(logits), vocab - kept[..., None], axis=-1)
    return np.where(logits < threshold, -np.inf, logits)


def assert_top_p_as_by_sorting(filtered, logits, top_p):
    """The tokens removed are the first in the order of (logit, id), as many as the mass allows."""
    order = np.argsort(logits, axis=-1, kind="stable")
    ascending = np.take_along_axis(logits, order, axis=-1)
    kept = np.take_along_axis(np.asarray(filtered), order, axis=-1)
    for row, stays, p in zip(ascending, kept, np.float32(top_p), strict=True):
        if p == 1 or row[-1] == -np.inf:
            np.testing.assert_array_equal(stays, row)
            continue
        mass = np.exp(row.astype(np.float64) - row[-1])
        before = np.concatenate([[0], np.cumsum(mass / mass.sum())])
        edge = 1 - np.float64(p) + TOP_P_ROUNDING
        first = np.flatnonzero(stays > -np.inf)[0]
        np.testing.assert_array_equal(stays, np.where(np.arange(row.size) < first, -np.inf, row))
        assert before[first] <= edge + MASS_TOLERANCE
        # With a logit of -inf there is nothing to remove.
        assert before[first + 1] > edge - MASS_TOLERANCE or first == row.size - 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab", [1, 2, 97, 1000])
def test_top_k_equals_the_sorted_row(kind, vocab):
    logits = logits_of(kind, vocab, 12, vocab)
    top_k = np.array([0, 1, 2, 3, 7, 50, vocab // 2, vocab - 1, vocab, vocab + 1, 2**31 - 1, 13])
    np.testing.assert_array_equal(apply_top_k(logits, top_k), top_k_by_sorting(logits, top_k))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab", [1, 2, 97, 1000])
def test_top_p_equals_the_sorted_row(kind, vocab):
    logits = logits_of(kind, vocab + 1, 12, vocab)
    top_p = np.array([1e-9, 1e-3, 0.1, 0.3, 0.5, 0.8, 0.9, 0.95, 0.99, 0.9999, 1 - 1e-7, 1.0])
    assert_top_p_as_by_sorting(apply_top_p(logits, top_p), logits, top_p)


@pytest.mark.parametrize("kind", ["plain", "quantised", "bfloat16", "some removed", "peaked", "all tied"])
def test_the_vocabulary_of_qwen2_is_filtered_as_by_sorting(kind):
    logits = logits_of(kind, 3, 4, QWEN2_VOCAB)
    top_k, top_p = np.array([1, 50, 20_000, 0]), np.array([0.8, 0.95, 0.9999, 0.5])
    after_top_k = top_k_by_sorting(logits, top_k)
    np.testing.assert_array_equal(apply_top_k(logits, top_k), after_top_k)
    assert_top_p_as_by_sorting(apply_top_p(logits, top_p), logits, top_p)
    assert_top_p_as_by_sorting(apply_top_k_top_p(logits, top_k, top_p), after_top_k, top_p)


def test_a_long_tail_beside_one_likely_token_is_not_lost_in_the_sum():
    # Each of the tail is less than half a unit of the sum in float32: added one by one, they would vanish.
    logits = np.full((3, QWEN2_VOCAB), -21.0, np.float32)
    logits[:, 0] = 0.0
    top_p = np.array([0.9999, 0.99995, 0.9])
    filtered = apply_top_p(logits, top_p)
    assert_top_p_as_by_sorting(filtered, logits, top_p)
    counts = np.isfinite(filtered).sum(-1)
    assert QWEN2_VOCAB // 10 < counts[0] < counts[1] < QWEN2_VOCAB
    assert counts[2] == 1


@pytest.mark.parametrize("rows", [(), (5,), (2, 3)])
def test_rows_of_any_shape_share_a_value_or_have_their_own(rows):
    logits = logits_of("quantised", 4, *rows, 40)
    flat = logits.reshape(-1, 40)
    for values in (3, np.arange(len(flat)).reshape(rows)):
        expected = top_k_by_sorting(flat, np.broadcast_to(values, rows).reshape(-1))
        np.testing.assert_array_equal(apply_top_k(logits, values), expected.reshape(logits.shape))
    together = apply_top_p(logits, 0.7)
    assert_top_p_as_by_sorting(together.reshape(-1, 40), flat, np.full(len(flat), 0.7))


def test_the_kth_greatest_is_exact_over_the_whole_range_of_float32():
    values = [-np.inf, -LARGEST, -1.5, -1.0, -LEAST_NORMAL, 0.0, LEAST_NORMAL, 1.0, 1 + 2**-23, LARGEST]
    row = np.random.default_rng(5).permutation(np.array(values, np.float32))
    found = np.array(kth_greatest(jnp.broadcast_to(row, (10, 10)), jnp.arange(1, 11)[:, None])[:, 0])
    # A CPU takes subnormals for 0.
    found[np.abs(found) < LEAST_NORMAL] = 0
    np.testing.assert_array_equal(found, np.sort(row)[::-1])


def test_zeros_of_either_sign_tie():
    logits = np.array([[0.0, -0.0, -0.0, 0.0, -1.0]], np.float32)
    np.testing.assert_array_equal(apply_top_k(logits, 1), [[0, 0, 0, 0, -np.inf]])
    np.testing.assert_array_equal(np.isfinite(apply_top_p(logits, 0.4)), [[False, False, True, True, False]])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_every_dtype_is_filtered_as_its_values_in_float32(dtype):
    logits = jnp.asarray(logits_of("plain", 6, 4, 300), dtype)
    values = np.array(logits.astype(jnp.float32))
    np.testing.assert_array_equal(apply_top_k(logits, 9), top_k_by_sorting(values, np.full(4, 9)))
    assert_top_p_as_by_sorting(apply_top_p(logits, 0.9), values, np.full(4, 0.9))


def test_a_row_is_filtered_the_same_wherever_and_beside_whatever_it_stands():
    logits, order = logits_of("bfloat16", 7, 8, 500), np.random.default_rng(8).permutation(8)
    filtered = apply_top_k_top_p(logits, 100, 0.9)
    np.testing.assert_array_equal(apply_top_k_top_p(logits[order], 100, 0.9), filtered[order])
    by_row = jax.vmap(lambda row: apply_top_k_top_p(row, 100, 0.9))(logits)
    np.testing.assert_array_equal(by_row, filtered)
