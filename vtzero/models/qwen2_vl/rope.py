"""Rotary positions of Qwen2-VL: 2-D in the vision encoder, multimodal (M-RoPE) in the decoder.

Positions are pure functions of token ids and image grids, computed on the host with numpy; no module
remembers a position. Angles and rotations are computed on the device, in float32.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Grid = tuple[int, int, int]
"""(time, height, width) of one image, in patches: transformers' `image_grid_thw`."""


def rotate(
    x: Float[Array, "*batch length heads head_dim"],
    cos: Float[Array, "*batch length head_dim"],
    sin: Float[Array, "*batch length head_dim"],
) -> Float[Array, "*batch length heads head_dim"]:
    """Rotate the two halves of each head by the given angles, in float32; returned in the dtype of x."""
    full = x.astype(jnp.float32)
    first, second = jnp.split(full, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return (full * cos[..., None, :] + turned * sin[..., None, :]).astype(x.dtype)


def mrope_cos_sin(
    positions: Int[Array, "3 *batch length"], head_dim: int, theta: float, section: tuple[int, int, int]
) -> tuple[Float[Array, "*batch length head_dim"], Float[Array, "*batch length head_dim"]]:
    """Cosine and sine of M-RoPE: frequencies are dealt to time, height and width by `section`.

    Source: Qwen2-VL paper, section 2.1; transformers' `Qwen2VLRotaryEmbedding`.
    """
    frequencies = theta ** -(jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    axis = np.repeat(np.arange(3), section)
    chosen = jnp.moveaxis(positions, 0, -1)[..., axis].astype(jnp.float32)
    return _both_halves(chosen * frequencies)


def vision_cos_sin(
    positions: Int[Array, "*batch patches 2"], head_dim: int, theta: float
) -> tuple[Float[Array, "*batch patches head_dim"], Float[Array, "*batch patches head_dim"]]:
    """Cosine and sine of the vision encoder: half of the frequencies follow the row, half the column."""
    half = head_dim // 2
    frequencies = theta ** -(jnp.arange(0, half, 2, dtype=jnp.float32) / half)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return _both_halves(angles.reshape(*positions.shape[:-1], half))


def _both_halves(angles: Float[Array, "*batch half"]) -> tuple[Array, Array]:
    doubled = jnp.concatenate([angles, angles], axis=-1)
    return jnp.cos(doubled), jnp.sin(doubled)


def patch_positions(grid: Grid, merge_size: int) -> Int[np.ndarray, "patches 2"]:
    """(row, column) of each patch, in the order of Qwen2-VL's image processor: merge block by merge block."""
    time, height, width = grid
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    both = np.stack([rows, columns], axis=-1)
    blocks = both.reshape(height // merge_size, merge_size, width // merge_size, merge_size, 2)
    ordered = blocks.transpose(0, 2, 1, 3, 4).reshape(-1, 2)
    return np.tile(ordered, (time, 1)).astype(np.int32)


def prompt_positions(
    ids: Sequence[int] | Int[np.ndarray, " length"],
    grids: Sequence[Grid],
    image_token_id: int,
    merge_size: int,
) -> tuple[Int[np.ndarray, "3 length"], int]:
    """M-RoPE positions of one unpadded prompt, and the position at which its completion starts.

    Text advances by one on all three axes; an image's tokens stand at its place in time and spread over
    height and width; the next text starts after the larger of the two. Equal to transformers'
    `get_rope_index` (its `rope_deltas` is the returned start minus the prompt's length).

    Raises ValueError when the image tokens in `ids` do not match `grids`.
    """
    ids = np.asarray(ids)
    positions = np.zeros((3, len(ids)), np.int32)
    start = index = 0
    remaining = list(grids)
    while index < len(ids):
        if ids[index] != image_token_id:
            positions[:, index] = start
            start, index = start + 1, index + 1
            continue
        if not remaining:
            raise ValueError("the prompt has more image tokens than its images fill")
        time, height, width = remaining.pop(0)
        shape = (time, height // merge_size, width // merge_size)
        count = int(np.prod(shape))
        if index + count > len(ids) or np.any(ids[index : index + count] != image_token_id):
            raise ValueError(f"an image of grid {(time, height, width)} needs {count} image tokens in a row")
        positions[:, index : index + count] = np.indices(shape).reshape(3, -1) + start
        start, index = start + max(shape[1:]), index + count
    if remaining:
        raise ValueError(f"{len(remaining)} images have no image tokens in the prompt")
    return positions, start
