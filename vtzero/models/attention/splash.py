"""Attention by the splash kernel on TPU: no scores are held, and blocks that nobody sees are skipped.

Prompt and completions are one sequence with a static block mask. Knows arrays only; the kernel is jax's own
(`jax.experimental.pallas.ops.tpu.splash_attention`).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jaxtyping import Array, Bool, Float, Int

from vtzero.models.attention.devices import over_devices

BLOCKS = (512, 256, 128)
"""Sizes of a block, the best first; the kernel takes multiples of 128."""


def image_attention(
    query: Float[Array, "batch patches heads head_dim"],
    key: Float[Array, "batch patches heads head_dim"],
    value: Float[Array, "batch patches heads head_dim"],
    segments: Int[Array, "batch patches"],
    *,
    interpret: bool = False,
) -> Float[Array, "batch patches heads head_dim"]:
    """See `vtzero.models.attention.image_attention`."""

    def local(query: Array, key: Array, value: Array, segments: Array) -> Array:
        count = query.shape[1]
        block = _block_size(count)
        length = _rounded(count, block)
        padded = (_padded(x, length) for x in (query, key, value, segments))
        mask = splash.FullMask((length, length))
        return _attend(*padded, mask=mask, block=block, interpret=interpret)[:, :count]

    return over_devices(local, (query, key, value, segments), query)


def prompt_attention(
    query: Float[Array, "batch prompt heads head_dim"],
    key: Float[Array, "batch prompt kv_heads head_dim"],
    value: Float[Array, "batch prompt kv_heads head_dim"],
    mask: Bool[Array, "batch prompt"],
    *,
    interpret: bool = False,
) -> Float[Array, "batch prompt heads head_dim"]:
    """See `vtzero.models.attention.prompt_attention`."""

    def local(query: Array, key: Array, value: Array, mask: Array) -> Array:
        count = query.shape[1]
        block = _block_size(count)
        length = _rounded(count, block)
        padded = (_padded(x, length) for x in (query, key, value, mask.astype(jnp.int32)))
        return _attend(*padded, mask=GroupMask(length), block=block, interpret=interpret)[:, :count]

    return over_devices(local, (query, key, value, mask), query)


def group_attention(
    prompt: tuple[Array, Array, Array],
    prompt_mask: Bool[Array, "batch prompt"],
    completions: tuple[Array, Array, Array],
    segments: Int[Array, "batch rows length"] | None,
    *,
    interpret: bool = False,
) -> tuple[Float[Array, "batch prompt heads head_dim"], Float[Array, "batch rows length heads head_dim"]]:
    """See `vtzero.models.attention.group_attention`; rows of one completion each, so `segments` must be None.

    Raises ValueError for packed rows: the kernel hides one segment from all others, and a prompt is seen by
    all of them.
    """
    if segments is not None:
        raise ValueError(
            "attention 'splash' reads one completion a row, not packed rows: choose 'xla', or do not pack"
        )
    local = partial(_group, interpret=interpret)
    return over_devices(local, (prompt, prompt_mask, completions), (prompt[0], completions[0]))


def _group(
    prompt: tuple[Array, Array, Array],
    prompt_mask: Bool[Array, "batch prompt"],
    completions: tuple[Array, Array, Array],
    *,
    interpret: bool,
) -> tuple[Array, Array]:
    """One sequence, each part padded to whole blocks: prompt, completion 1, ..., completion G."""
    batch, rows, length = completions[0].shape[:3]
    prompt_length = prompt_mask.shape[1]
    block = _block_size(prompt_length, *(length,) * rows)
    mask = GroupMask(_rounded(prompt_length, block), rows, _rounded(length, block))

    def joined(prompt: Array, completion: Array) -> Array:
        own = _padded(completion, mask.length, axis=2).reshape(batch, -1, *completion.shape[3:])
        return jnp.concatenate([_padded(prompt, mask.prompt), own], axis=1)

    sequence = [joined(*parts) for parts in zip(prompt, completions, strict=True)]
    # Hides the prompt's padding. A completion's own needs no hiding: it comes after all that is read.
    real = jnp.concatenate(
        [_padded(prompt_mask, mask.prompt), jnp.ones((batch, rows * mask.length), bool)], axis=1
    )
    operands = (*sequence, real.astype(jnp.int32))
    attended = _attend(*operands, mask=mask, block=block, interpret=interpret)
    own = attended[:, mask.prompt :].reshape(batch, rows, mask.length, *attended.shape[2:])
    return attended[:, :prompt_length], own[:, :, :length]


@dataclass(frozen=True)
class GroupMask(splash.Mask):
    """A prompt and `rows` completions of `length` tokens in one sequence: each token sees those before it,
    but not another completion's. No array of the whole mask is ever made."""

    prompt: int
    rows: int = 0
    length: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """(queries, keys)."""
        return (self.prompt + self.rows * self.length,) * 2

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        query, key = (np.arange(size)[part] for size, part in zip(self.shape, index, strict=True))
        query, key = query[:, None], key[None]
        return (key <= query) & ((key < self.prompt) | (self._row(key) == self._row(query)))

    def _row(self, place: np.ndarray) -> np.ndarray:
        return (place - self.prompt) // max(self.length, 1)


def _attend(
    query: Float[Array, "batch length heads head_dim"],
    key: Float[Array, "batch length kv_heads head_dim"],
    value: Float[Array, "batch length kv_heads head_dim"],
    segments: Int[Array, "batch length"],
    *,
    mask: splash.Mask,
    block: int,
    interpret: bool,
) -> Float[Array, "batch length heads head_dim"]:
    # The kernel does not scale. In float32: a bfloat16 scale would itself be off by up to 0.2 %.
    scaled = (query.astype(jnp.float32) * query.shape[-1] ** -0.5).astype(query.dtype)
    heads_first = (jnp.swapaxes(x, 1, 2) for x in (scaled, key, value))
    kernel = _kernel(mask, query.shape[2], block, interpret)
    attended = jax.vmap(kernel)(*heads_first, splash.SegmentIds(segments, segments))
    return jnp.swapaxes(attended, 1, 2)


@lru_cache(maxsize=64)
def _kernel(mask: splash.Mask, heads: int, block: int, interpret: bool) -> Callable[..., Any]:
    """The kernel of one mask, made once: its block map takes host time, and every layer shares it."""
    sizes = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )

    def make() -> Callable[..., Any]:
        kernel = splash.make_splash_mha(
            splash.MultiHeadMask([mask] * heads),
            block_sizes=sizes,
            head_shards=1,
            q_seq_shards=1,
            interpret=interpret,
        )
        return jax.tree.map(np.asarray, kernel)

    # The maker puts its block map on a device. This thread may be tracing a program, for a mesh of devices
    # that are not here; a thread of its own knows neither.
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(make).result()


def _block_size(*lengths: int) -> int:
    """The largest block that pads the parts by at most an eighth more than the smallest does."""

    def padded(block: int) -> int:
        return sum(_rounded(length, block) for length in lengths)

    return next(block for block in BLOCKS if 8 * padded(block) <= 9 * padded(BLOCKS[-1]))


def _rounded(length: int, block: int) -> int:
    return -(-length // block) * block


def _padded(x: Array, length: int, axis: int = 1) -> Array:
    return jnp.pad(x, [(0, length - x.shape[axis]) if i == axis else (0, 0) for i in range(x.ndim)])
