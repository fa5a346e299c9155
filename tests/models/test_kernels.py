"""Every attention kernel against a plain einsum over whole sequences, in values and gradients.

The twin knows nothing of groups: prompt and rows are one sequence, and a dense mask, written token by token,
says what sees what. Inputs are drawn afresh in each run; a failure prints the seed.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtzero.models.attention import xla

KERNELS = {"xla": xla}


@pytest.fixture(name="rng")
def _rng() -> np.random.Generator:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def normal(rng: np.random.Generator, *shape: int) -> jax.Array:
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def plain_attention(query, key, value, visible):
    """Every score of every head in one einsum; `visible` is (batch, query, key)."""
    repeat = query.shape[2] // key.shape[2]
    key, value = (jnp.repeat(x, repeat, axis=2) for x in (key, value))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, precision="highest") / np.sqrt(query.shape[-1])
    weights = jax.nn.softmax(jnp.where(visible[:, None], scores, -1e30), axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value, precision="highest")


class Group(NamedTuple):
    """Inputs of `group_attention`; `segments` is None for the grid."""

    prompt: tuple[jax.Array, jax.Array, jax.Array]
    prompt_mask: jax.Array
    rows: tuple[jax.Array, jax.Array, jax.Array]
    segments: jax.Array | None


def draw_group(
    rng: np.random.Generator,
    *,
    real: tuple[int, ...] = (5, 3, 0),
    prompt: int = 5,
    rows: int = 3,
    length: int = 6,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 8,
    packed: bool = False,
) -> Group:
    batch = len(real)

    def qkv(*lead: int):
        return tuple(normal(rng, *lead, count, head_dim) for count in (heads, kv_heads, kv_heads))

    segments = None
    if packed:
        ends = np.sort(rng.integers(1, length + 1, (batch, rows, 3)), axis=-1)
        place = np.arange(length)
        number = (place[..., None] >= ends[:, :, None]).sum(-1) + 1
        segments = jnp.asarray(np.where(number == 4, 0, number), jnp.int32)
    mask = jnp.arange(prompt) < jnp.asarray(real)[:, None]
    return Group(qkv(batch, prompt), mask, qkv(batch, rows, length), segments)


def dense_visible(group: Group) -> np.ndarray:
    """What each token of the sequence [prompt, row, row, ...] sees, token by token."""
    batch, prompt = group.prompt_mask.shape
    rows, length = group.rows[0].shape[1:3]
    mask = np.asarray(group.prompt_mask)
    segments = np.ones((batch, rows, length)) if group.segments is None else np.asarray(group.segments)
    visible = np.zeros((batch, prompt + rows * length, prompt + rows * length), bool)
    for b, q in np.ndindex(visible.shape[:2]):
        if q < prompt:
            visible[b, q, : q + 1] = mask[b, : q + 1]
            continue
        row, place = divmod(q - prompt, length)
        visible[b, q, :prompt] = mask[b]
        start = prompt + row * length
        visible[b, q, start : q + 1] = segments[b, row, : place + 1] == segments[b, row, place]
    return visible


def plain_group(prompt, rows, visible):
    """`group_attention` by the plain einsum over the whole sequence."""

    def joined(first, second):
        return jnp.concatenate([first, second.reshape(len(first), -1, *second.shape[3:])], axis=1)

    out = plain_attention(*map(joined, prompt, rows), visible)
    split = prompt[0].shape[1]
    return out[:, :split], out[:, split:].reshape(rows[0].shape)


def real_places(group: Group) -> tuple[jax.Array, jax.Array]:
    """1 at the outputs that are read, 0 at padding."""
    rows = jnp.ones(group.rows[0].shape[:3]) if group.segments is None else group.segments > 0
    return group.prompt_mask[..., None, None], rows[..., None, None]


def check_group(rng: np.random.Generator, attend: Callable, group: Group, tolerance: float = 1e-5) -> None:
    """Values and gradients in every input equal to the twin's; all of them finite, padding's too."""
    keep = real_places(group)
    direction = [
        normal(rng, *x.shape) * real for x, real in zip((group.prompt[0], group.rows[0]), keep, strict=True)
    ]

    def scalar(form: Callable) -> Callable:
        def total(prompt, rows):
            out = form(prompt, rows)
            kept = [jnp.where(real, x, 0) for x, real in zip(out, keep, strict=True)]
            return sum(jnp.sum(x * d) for x, d in zip(kept, direction, strict=True)), (kept, out)

        return jax.jit(jax.grad(total, (0, 1), has_aux=True))

    visible = jnp.asarray(dense_visible(group))
    expected, (expected_out, _) = scalar(lambda p, r: plain_group(p, r, visible))(group.prompt, group.rows)
    attended = scalar(lambda p, r: attend(p, group.prompt_mask, r, group.segments))
    gradients, (kept, out) = attended(group.prompt, group.rows)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((gradients, out)))
    close = partial(assert_close, tolerance=tolerance)
    jax.tree.map(close, (kept, gradients), (expected_out, expected))


def assert_close(actual: jax.Array, expected: jax.Array, tolerance: float) -> None:
    """The greatest difference, as a share of the greatest value expected."""
    np.testing.assert_allclose(actual, expected, atol=tolerance * max(1.0, np.abs(expected).max()), rtol=0)


@pytest.mark.parametrize("packed", [False, True], ids=["grid", "packed"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (6, 1)])
@pytest.mark.parametrize("kernel", ["xla"])
def test_groups_equal_the_plain_einsum(rng, kernel, heads, kv_heads, packed):
    group = draw_group(rng, heads=heads, kv_heads=kv_heads, packed=packed)
    check_group(rng, KERNELS[kernel].group_attention, group)
