"""Attention by blocks: against einsums in float64 over several blocks, and what it holds in memory.

Inputs are drawn afresh in each run; a failure prints the seed.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtzero.models.attention import blocked, image_attention, prompt_attention

KV_HEADS, HEAD_DIM = 2, 16
SPLIT = {"whole": 0, "block": 14_000}
"""Two to eight blocks in each row below, and none divides it."""


@pytest.fixture(name="rng")
def _rng() -> np.random.Generator:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def drawn(rng: np.random.Generator, *lead: int, heads: int = 4, kv_heads: int = KV_HEADS) -> list[Any]:
    """Queries, keys and values; the queries great enough for sharp weights."""
    shapes = [(*lead, count, HEAD_DIM) for count in (heads, kv_heads, kv_heads)]
    return [scale * rng.normal(size=shape) for scale, shape in zip((2, 1, 1), shapes, strict=True)]


def attended64(query: Any, key: Any, value: Any, visible: np.ndarray, direction: np.ndarray) -> tuple:
    """Values, and the gradients of <values, direction>, written out; arrays (batch, length, heads, dim)."""
    kv_heads, scale = key.shape[2], query.shape[-1] ** -0.5
    grouped = [x.reshape(*x.shape[:2], kv_heads, -1, x.shape[-1]) for x in (query, direction)]
    query_, direction_ = grouped
    scores = np.einsum("bqknd,bskd->bknqs", query_, key) * scale
    scores = np.where(visible[:, None, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    values = np.einsum("bknqs,bskd->bqknd", weights, value)
    of_weights = np.einsum("bqknd,bskd->bknqs", direction_, value)
    of_scores = weights * (of_weights - (of_weights * weights).sum(axis=-1, keepdims=True)) * scale
    of_query = np.einsum("bknqs,bskd->bqknd", of_scores, key).reshape(query.shape)
    of_key = np.einsum("bknqs,bqknd->bskd", of_scores, query_)
    of_value = np.einsum("bknqs,bqknd->bskd", weights, direction_)
    return values.reshape(query.shape), of_query, of_key, of_value


def attended32(form: Callable, inputs: Any, direction: Any) -> tuple[Any, Any]:
    """Values and gradients of a form."""
    inputs, direction = jax.tree.map(jnp.float32, (inputs, direction))

    def both(inputs: Any, direction: Any) -> tuple[Any, Any]:
        values, pullback = jax.vjp(form, *inputs)
        return values, pullback(direction)

    return jax.jit(both)(inputs, direction)


def assert_close(actual: Any, expected: Any) -> None:
    """To 2e-5 of the greatest value."""
    np.testing.assert_allclose(actual, expected, atol=2e-5 * max(1.0, np.abs(expected).max()), rtol=0)


def check(form: Callable, inputs: Any, visible: np.ndarray, real: np.ndarray, rng: Any) -> None:
    direction = rng.normal(size=inputs[0].shape) * real[..., None, None]
    values, *gradients = attended64(*inputs, visible, direction)
    actual, actual_gradients = attended32(form, inputs, direction)
    assert_close(np.where(real[..., None, None], actual, 0), np.where(real[..., None, None], values, 0))
    jax.tree.map(assert_close, list(actual_gradients), gradients)
    assert np.all(np.isfinite(actual))


def test_images_by_blocks(rng):
    """One image with padding, three images, padding alone, in rows of 197 patches."""
    segments = np.ones((3, 197), int)
    segments[0, 150:], segments[1, 60:], segments[1, 130:], segments[2] = 0, 2, 3, 0
    inputs = drawn(rng, 3, 197, heads=2)
    check(
        lambda *x: blocked.image_attention(*x, jnp.asarray(segments), **SPLIT),
        inputs,
        segments[:, :, None] == segments[:, None],
        segments > 0,
        rng,
    )


@pytest.mark.parametrize("length", [95, 301])
def test_prompts_by_blocks(rng, length):
    mask = np.arange(length) < np.asarray([length, length // 2, 1])[:, None]
    causal = np.broadcast_to(np.tril(np.ones((length, length), bool)), (3, length, length))
    check(
        lambda *x: blocked.prompt_attention(*x, jnp.asarray(mask), **SPLIT),
        drawn(rng, 3, length),
        causal,
        mask,
        rng,
    )


def in_one_sequence(prompt: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.concatenate([prompt, rows.reshape(len(rows), -1, *rows.shape[3:])], axis=1)


def group_visible(mask: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """(batch, sequence, sequence) for [prompt, row, row, ...]."""
    batch, rows, length = segments.shape
    prompt = mask.shape[1]
    number = np.concatenate([np.zeros((batch, prompt)), segments.reshape(batch, -1)], axis=1)
    row = np.concatenate([np.full(prompt, -1), np.repeat(np.arange(rows), length)])
    same = (row[:, None] == row) & (number[:, :, None] == number[:, None])
    to_prompt = np.pad(mask, ((0, 0), (0, rows * length)))[:, None]
    causal = np.tril(np.ones((len(row), len(row)), bool))
    return causal & (same | to_prompt)


@pytest.mark.parametrize(
    ("prompt", "rows", "length", "block", "packed"),
    [
        (53, 6, 21, 10_000, False),
        (53, 6, 21, 10_000, True),
        (53, 3, 47, 5000, False),
        (40, 2, 270, 200_000, True),
    ],
    ids=["rows", "packed rows", "queries", "packed causal"],
)
def test_groups_by_blocks(rng, prompt, rows, length, block, packed):
    """Several rows to a block; several blocks to a row, short and long. The last prompt has no token."""
    mask = np.arange(prompt) < np.asarray([prompt, prompt // 2, 0])[:, None]
    segments = np.ones((3, rows, length), int)
    if packed:
        segments[:, :, length // 3 :], segments[:, 1, -length // 4 :] = 2, 0
    inputs = (drawn(rng, 3, prompt), drawn(rng, 3, rows, length))
    sequence = [in_one_sequence(*parts) for parts in zip(*inputs, strict=True)]
    real = in_one_sequence(mask[..., None, None], segments[..., None, None] > 0)
    direction = rng.normal(size=sequence[0].shape) * real
    # Padding of the prompt sees itself in the twin, and is not read.
    expected = attended64(
        *sequence, group_visible(mask, segments) | np.eye(real.shape[1], dtype=bool), direction
    )

    def form(prompt, completions):
        numbers = jnp.asarray(segments) if packed else None
        return blocked.group_attention(prompt, jnp.asarray(mask), completions, numbers, whole=0, block=block)

    split = direction[:, :prompt], direction[:, prompt:].reshape(inputs[1][0].shape)
    values, gradients = attended32(form, inputs, split)
    assert_close(in_one_sequence(*values) * real, expected[0] * real)
    for actual, known in zip(zip(*gradients, strict=True), expected[1:], strict=True):
        assert_close(in_one_sequence(*actual), known)


def test_a_query_that_sees_nothing_is_finite(rng):
    """No token of the prompt is real, and none of the rows'."""
    prompt, rows = (jax.tree.map(jnp.float32, drawn(rng, *lead)) for lead in ((1, 9), (1, 2, 5)))

    def total(prompt, rows):
        outs = blocked.group_attention(
            prompt, jnp.zeros((1, 9), bool), rows, jnp.zeros((1, 2, 5), int), **SPLIT
        )
        return sum(jnp.sum(x**2) for x in outs)

    assert all(
        np.all(np.isfinite(x)) for x in jax.tree.leaves(jax.jit(jax.grad(total, (0, 1)))(prompt, rows))
    )


def test_both_kernels_of_a_cpu_agree(rng):
    """At sizes beyond the threshold, as a model calls them."""
    query, key, value = (jnp.float32(x) for x in drawn(rng, 2, 210))
    mask = jnp.ones((2, 210), bool)
    blocks, einsums = (prompt_attention(query, key, value, mask, kernel=name) for name in ("auto", "xla"))
    np.testing.assert_allclose(blocks, einsums, atol=1e-5)


def test_bfloat16_keeps_its_dtype(rng):
    inputs = [jnp.bfloat16(x) for x in drawn(rng, 1, 100)]
    form = jax.jit(lambda *x: blocked.prompt_attention(*x, jnp.ones((1, 100), bool), **SPLIT))
    out, known = form(*inputs), form(*map(jnp.float32, inputs))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, known.astype(jnp.bfloat16))


def test_no_array_of_all_scores_is_held():
    """The gradient at 1296 patches takes less than a third of one such array, its ten operands included."""
    batch, patches, heads = 4, 1296, 4
    qkv = jax.ShapeDtypeStruct((batch, patches, heads, 32), jnp.float32)
    segments = jax.ShapeDtypeStruct((batch, patches), jnp.int32)

    def total(query, key, value, segments):
        return jnp.sum(image_attention(query, key, value, segments) ** 2)

    program = jax.jit(jax.grad(total, (0, 1, 2))).lower(qkv, qkv, qkv, segments).compile()
    assert program.memory_analysis().temp_size_in_bytes < batch * heads * patches**2 * 4 / 3
