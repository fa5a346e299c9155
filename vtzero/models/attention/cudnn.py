"""Attention by cuDNN's flash kernel on NVIDIA GPUs, which holds no scores.

All but packed rows are brought to the form that cuDNN computes best: causal or not, right-padded, with no
bias. A bias would be a whole (query, key) array again, with a gradient that nobody reads. Lengths are padded
to even ones: jax refuses to train odd ones. Knows arrays only; the rest is jax's public function.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vtzero.models.attention.devices import over_devices

Implementation = Literal["cudnn", "xla"]
_FOREIGN = 128.0
"""Its square, over the square root of head_dim, is what a score loses for each digit in which two segments'
numbers differ: 1,800 at 80 dimensions, far below where exp is 0. A power of two, exact in bfloat16."""


def image_attention(
    query: Float[Array, "batch patches heads head_dim"],
    key: Float[Array, "batch patches heads head_dim"],
    value: Float[Array, "batch patches heads head_dim"],
    segments: Int[Array, "batch patches"],
    *,
    implementation: Implementation = "cudnn",
) -> Float[Array, "batch patches heads head_dim"]:
    """See `vtzero.models.attention.image_attention`."""

    def local(query: Array, key: Array, value: Array, segments: Array) -> Array:
        even = [_even(x) for x in (query, key, value, segments)]
        attended = jax.nn.dot_product_attention(
            *_marked(*even), scale=query.shape[-1] ** -0.5, implementation=implementation
        )
        return attended[:, : query.shape[1], :, : query.shape[-1]]

    return over_devices(local, (query, key, value, segments), query)


def prompt_attention(
    query: Float[Array, "batch prompt heads head_dim"],
    key: Float[Array, "batch prompt kv_heads head_dim"],
    value: Float[Array, "batch prompt kv_heads head_dim"],
    mask: Bool[Array, "batch prompt"],
    *,
    implementation: Implementation = "cudnn",
) -> Float[Array, "batch prompt heads head_dim"]:
    """See `vtzero.models.attention.prompt_attention`."""

    def local(query: Array, key: Array, value: Array, mask: Array) -> Array:
        lengths = mask.sum(axis=1, dtype=jnp.int32)
        return _causal(query, key, value, lengths, implementation)

    return over_devices(local, (query, key, value, mask), query)


def group_attention(
    prompt: tuple[Array, Array, Array],
    prompt_mask: Bool[Array, "batch prompt"],
    completions: tuple[Array, Array, Array],
    segments: Int[Array, "batch rows length"] | None,
    *,
    implementation: Implementation = "cudnn",
) -> tuple[Float[Array, "batch prompt heads head_dim"], Float[Array, "batch rows length heads head_dim"]]:
    """See `vtzero.models.attention.group_attention`."""
    shared = (prompt[1], prompt[2], prompt_mask)
    if segments is None:
        local = partial(_single_rows, implementation=implementation)
        attended = over_devices(local, (shared, completions), completions[0])
    else:
        local = partial(_packed_rows, implementation=implementation)
        attended = over_devices(local, (shared, completions, segments), completions[0])
    return prompt_attention(*prompt, prompt_mask, implementation=implementation), attended


def _single_rows(
    shared: tuple[Array, Array, Array],
    completions: tuple[Array, Array, Array],
    *,
    implementation: Implementation,
) -> Float[Array, "batch rows length heads head_dim"]:
    """Each row as a sequence of its own that begins with a copy of the prompt (`shared`: key, value, mask).

    The row is written where the prompt's real tokens end, so that all padding comes last and one causal
    kernel sees what it should, under one softmax:

        prompt prompt prompt row row row row  padding padding

    The copy's queries are zeros, and what they give is left out: cuDNN aligns the diagonal with the first
    key and has no other way to let a query begin after the prompt. That costs (prompt length)^2 / 2 products.
    """
    query, key, value = completions
    prompt_key, prompt_value, prompt_mask = shared
    batch, rows, length = query.shape[:3]
    before = prompt_mask.sum(axis=1, dtype=jnp.int32)
    unread = jnp.zeros((*prompt_key.shape[:2], *query.shape[3:]), query.dtype)
    attended = _causal(
        _after_prompt(unread, query, before),
        _after_prompt(prompt_key, key, before),
        _after_prompt(prompt_value, value, before),
        jnp.repeat(before + length, rows),
        implementation,
    )
    attended = attended.reshape(batch, rows, *attended.shape[1:])
    return jax.vmap(partial(jax.lax.dynamic_slice_in_dim, slice_size=length, axis=1))(attended, before)


def _packed_rows(
    shared: tuple[Array, Array, Array],
    completions: tuple[Array, Array, Array],
    segments: Int[Array, "batch rows length"],
    *,
    implementation: Implementation,
) -> Float[Array, "batch rows length heads head_dim"]:
    """Each row after a copy of the prompt, under a whole mask: cuDNN knows no segments.

    `image_attention` does without, but its marks on top of a decoder's 128 dimensions would need Hopper: jax
    takes no more than 128 on GPUs before it.
    """
    query, key, value = (_even(x, axis=2) for x in completions)
    prompt_key, prompt_value, prompt_mask = (_even(x) for x in shared)
    batch, rows, length = query.shape[:3]
    numbers = _even(segments, axis=2)
    own = (numbers[..., :, None] == numbers[..., None, :]) & jnp.tril(jnp.ones((length, length), bool))
    visible = jnp.concatenate(
        [jnp.broadcast_to(prompt_mask[:, None, None], (*own.shape[:3], prompt_mask.shape[1])), own], axis=-1
    )

    def joined(prompt: Array, row: Array) -> Array:
        copies = jnp.broadcast_to(prompt[:, None], (batch, rows, *prompt.shape[1:]))
        return _flat(jnp.concatenate([copies, row], axis=2))

    attended = jax.nn.dot_product_attention(
        _flat(query),
        joined(prompt_key, key),
        joined(prompt_value, value),
        mask=_flat(visible)[:, None],
        implementation=implementation,
    )
    return attended.reshape(query.shape)[:, :, : segments.shape[2]]


def _after_prompt(
    prompt: Float[Array, "batch prompt heads head_dim"],
    rows: Float[Array, "batch rows length heads head_dim"],
    before: Int[Array, " batch"],
) -> Float[Array, "batch*rows prompt+length heads head_dim"]:
    """A copy of the prompt for every row, and the row from slot `before` on."""
    batch, count, length = rows.shape[:3]
    room = jnp.pad(prompt, ((0, 0), (0, length), (0, 0), (0, 0)))
    sequences = jnp.broadcast_to(room[:, None], (batch, count, *room.shape[1:]))
    placed = jax.vmap(partial(jax.lax.dynamic_update_slice_in_dim, axis=1))(sequences, rows, before)
    return _flat(placed)


def _causal(
    query: Float[Array, "batch length heads head_dim"],
    key: Float[Array, "batch length kv_heads head_dim"],
    value: Float[Array, "batch length kv_heads head_dim"],
    lengths: Int[Array, " batch"],
    implementation: Implementation,
) -> Float[Array, "batch length heads head_dim"]:
    attended = jax.nn.dot_product_attention(
        _even(query),
        _even(key),
        _even(value),
        is_causal=True,
        # A row that is all padding still sees one key: a softmax over none is not a number.
        key_value_seq_lengths=jnp.maximum(lengths, 1),
        implementation=implementation,
    )
    return attended[:, : query.shape[1]]


def _marked(
    query: Float[Array, "batch length heads head_dim"],
    key: Float[Array, "batch length heads head_dim"],
    value: Float[Array, "batch length heads head_dim"],
    segments: Int[Array, "batch length"],
) -> tuple[Array, Array, Array]:
    """Queries and keys with dimensions more, in which a score across two segments falls and others stay.

    A segment's number is written in binary, a pair of dimensions for each digit: (digit, 1 - digit) in a
    query, (digit - 1, -digit) in a key. Equal digits multiply to 0, unequal ones to -1.
    """
    # There are at most as many segments as places.
    digits = (segments[..., None] >> jnp.arange(segments.shape[1].bit_length())) & 1
    asks = jnp.concatenate([digits, 1 - digits], axis=-1) * _FOREIGN
    answers = jnp.concatenate([digits - 1, -digits], axis=-1) * _FOREIGN

    def mark(x: Array, marks: Array) -> Array:
        spread = jnp.broadcast_to(marks[:, :, None], (*x.shape[:-1], marks.shape[-1]))
        return _padded(jnp.concatenate([x, spread.astype(x.dtype)], axis=-1), 8, axis=-1)

    query = mark(query, asks)
    room = query.shape[-1] - value.shape[-1]
    return query, mark(key, answers), jnp.pad(value, ((0, 0), (0, 0), (0, 0), (0, room)))


def _flat(x: Array) -> Array:
    return x.reshape(-1, *x.shape[2:])


def _even(x: Array, axis: int = 1) -> Array:
    return _padded(x, 2, axis)


def _padded(x: Array, multiple: int, axis: int) -> Array:
    """`x` with zeros at the end of `axis`, to a multiple of so many."""
    room = [(0, 0)] * x.ndim
    room[axis] = (0, -x.shape[axis] % multiple)
    return jnp.pad(x, room)
