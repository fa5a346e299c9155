"""What the model reads: a padded batch of prompts with their images, as one pytree of arrays."""

from dataclasses import dataclass
from typing import Literal

import jax
from jaxtyping import Array, Bool, Float, Int

Seen = Literal["encoded", "features"]
"""How far images have come through the vision encoder: the fields of `Prompts` that hold it."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Prompts:
    """A batch of prompts, right-padded, each with its own patches (never one flat list sliced by position).

    `segments` numbers the images of a sample from 1 (0 is padding); patches attend within their segment.
    Image features fill the sample's image tokens in order. `start` is the M-RoPE position of the first
    completion token. A batch without images has zero patches. With `features`, what the vision encoder made
    of the patches, it is not run again and the patches are not read; with `encoded`, what it made of them
    before its merger, only that is run.
    """

    ids: Int[Array, "batch prompt"]
    mask: Bool[Array, "batch prompt"]
    positions: Int[Array, "3 batch prompt"]
    start: Int[Array, " batch"]
    patches: Float[Array, "batch patches patch_dim"]
    patch_positions: Int[Array, "batch patches 2"]
    segments: Int[Array, "batch patches"]
    features: Float[Array, "batch tokens width"] | None = None
    encoded: Float[Array, "batch patches embed"] | None = None
