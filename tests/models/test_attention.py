"""Attention against jax.nn's and a naive one in numpy; the shared-prompt form against flattened sequences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtzero.models.attention import shared_prompt_attention
from vtzero.models.attention.xla import attention, causal_mask


def random_arrays(seed: int, *shapes: tuple[int, ...]) -> list[jax.Array]:
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def naive_attention(query: np.ndarray, key: np.ndarray, value: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """One query and one head at a time, over the keys that it may see, in float64."""
    out = np.zeros(query.shape)
    repeat = query.shape[2] // key.shape[2]
    for b, q, h in np.ndindex(query.shape[:3]):
        seen = mask[b, q]
        scores = np.einsum("sd,d->s", key[b, seen, h // repeat], query[b, q, h]) / np.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max())
        out[b, q, h] = np.einsum("s,sd->d", weights / weights.sum(), value[b, seen, h // repeat])
    return out


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (12, 2), (28, 4)])
def test_equal_to_jax_and_to_the_naive_form(heads, kv_heads):
    query, key, value = random_arrays(0, (2, 5, heads, 8), (2, 7, kv_heads, 8), (2, 7, kv_heads, 8))
    mask = np.random.default_rng(1).random((2, 5, 7)) < 0.5
    mask[..., 0] = True
    out = attention(query, key, value, jnp.asarray(mask))
    np.testing.assert_allclose(out, naive_attention(*map(np.float64, (query, key, value)), mask), atol=1e-5)
    library = jax.nn.dot_product_attention(query, key, value, mask=jnp.asarray(mask)[:, None])
    np.testing.assert_allclose(out, library, atol=1e-5)


def test_causal_mask_hides_the_future_and_the_padding():
    mask = jnp.asarray([[True, True, False]])
    assert causal_mask(mask).tolist() == [[[True, False, False], [True, True, False], [True, True, False]]]


def test_padding_changes_nothing_and_stays_finite():
    real, length = [5, 3], 5
    query, key, value, noise = random_arrays(2, *[(2, length, 4, 8)] * 4)
    mask = jnp.arange(length) < jnp.asarray(real)[:, None]
    out = attention(query, key, value, causal_mask(mask))
    garbled = [jnp.where(mask[..., None, None], x, 100 * noise) for x in (key, value)]
    same = attention(query, *garbled, causal_mask(mask))
    np.testing.assert_array_equal(out, same)
    for row, count in enumerate(real):
        alone = [x[row : row + 1, :count] for x in (query, key, value)]
        unpadded = attention(*alone, jnp.tril(jnp.ones((1, count, count), bool)))
        np.testing.assert_allclose(out[row, :count], unpadded[0], atol=1e-6)


def test_rows_that_see_nothing_are_finite_in_values_and_gradients():
    query, key, value = random_arrays(3, *[(1, 4, 2, 8)] * 3)
    mask = jnp.zeros((1, 4, 4), bool).at[0, :2, 0].set(True)

    def total(query, key, value):
        return attention(query, key, value, mask)[:, :2].sum()

    assert np.all(np.isfinite(attention(query, key, value, mask)))
    for gradient in jax.grad(total, (0, 1, 2))(query, key, value):
        assert np.all(np.isfinite(gradient))


def test_bfloat16_keeps_its_dtype_with_float32_scores():
    arrays = random_arrays(4, (1, 6, 4, 64), (1, 200, 2, 64), (1, 200, 2, 64))
    halves = [x.astype(jnp.bfloat16) for x in arrays]
    mask = np.ones((1, 6, 200), bool)
    out = attention(*halves, jnp.asarray(mask))
    assert out.dtype == jnp.bfloat16
    expected = naive_attention(*map(np.float64, halves), mask)
    np.testing.assert_allclose(np.float64(out), expected, atol=4e-3)


BATCH, GROUP, PROMPT, LENGTH, HEADS, KV_HEADS, HEAD_DIM = 2, 3, 6, 5, 6, 2, 8
PROMPT_MASK = jnp.asarray([[True] * 6, [True] * 4 + [False] * 2])
CAUSAL = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))


def group_arrays(seed: int) -> list[jax.Array]:
    """query, prompt_key, prompt_value, key, value."""
    prompt, own = (BATCH, PROMPT, KV_HEADS, HEAD_DIM), (BATCH, GROUP, LENGTH, KV_HEADS, HEAD_DIM)
    return random_arrays(seed, (BATCH, GROUP, LENGTH, HEADS, HEAD_DIM), prompt, prompt, own, own)


def shared(query, prompt_key, prompt_value, key, value):
    return shared_prompt_attention(query, prompt_key, prompt_value, PROMPT_MASK, key, value, CAUSAL)


def flattened(query, prompt_key, prompt_value, key, value):
    """Each completion of the group as a sequence of its own that carries a copy of the prompt's keys."""

    def repeated(x):
        return jnp.repeat(x, GROUP, axis=0)

    def rows(x):
        return x.reshape(BATCH * GROUP, *x.shape[2:])

    keys = jnp.concatenate([repeated(prompt_key), rows(key)], axis=1)
    values = jnp.concatenate([repeated(prompt_value), rows(value)], axis=1)
    to_prompt = jnp.broadcast_to(repeated(PROMPT_MASK)[:, None], (BATCH * GROUP, LENGTH, PROMPT))
    to_self = jnp.broadcast_to(CAUSAL, (BATCH * GROUP, LENGTH, LENGTH))
    mask = jnp.concatenate([to_prompt, to_self], axis=2)
    attended = jax.nn.dot_product_attention(rows(query), keys, values, mask=mask[:, None])
    return attended.reshape(query.shape)


def test_shared_prompt_equals_flattened():
    arrays = group_arrays(5)
    np.testing.assert_allclose(shared(*arrays), flattened(*arrays), atol=1e-5)


@pytest.mark.parametrize("name", range(5), ids=["query", "prompt_key", "prompt_value", "key", "value"])
def test_shared_prompt_gradients_equal_flattened(name):
    arrays = group_arrays(6)
    (direction,) = random_arrays(7, arrays[0].shape)
    gradient = jax.grad(lambda *a: jnp.sum(shared(*a) * direction), name)(*arrays)
    expected = jax.grad(lambda *a: jnp.sum(flattened(*a) * direction), name)(*arrays)
    assert np.linalg.norm(gradient - expected) < 1e-5 * np.linalg.norm(expected)


def test_completions_see_neither_each_other_nor_their_future():
    query, prompt_key, prompt_value, key, value = group_arrays(8)
    out = shared(query, prompt_key, prompt_value, key, value)
    changed = shared(query, prompt_key, prompt_value, key.at[:, 1, 3].add(1), value.at[:, 1, 3].add(1))
    moved = np.any(np.not_equal(out, changed), axis=(0, 3, 4))
    assert moved.tolist() == [[False] * 5, [False, False, False, True, True], [False] * 5]
