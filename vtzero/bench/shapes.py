"""The shapes of a benchmark: a config's batch of groups with every length full, and arrays of them."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from vtzero.config import ConfigError, RunConfig
from vtzero.models.qwen2_vl.config import Qwen2VLConfig, VisionConfig
from vtzero.models.qwen2_vl.costs import Lengths
from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.models.qwen2_vl.rope import Grid, patch_positions, prompt_positions


@dataclass(frozen=True)
class Shapes:
    """A batch of equal groups; `grids` are the patches (time, height, width) of each prompt's images."""

    batch: int
    prompt: int
    group: int
    completion: int
    grids: tuple[Grid, ...] = ()

    @property
    def patches(self) -> int:
        """Of all images of one prompt."""
        return sum(math.prod(grid) for grid in self.grids)

    @property
    def lengths(self) -> Lengths:
        """What there is to do."""
        images = tuple(math.prod(grid) for grid in self.grids) * self.batch
        completions = ((self.completion,) * self.group,) * self.batch
        return Lengths(images, (self.prompt,) * self.batch, completions)


def config_shapes(
    config: RunConfig,
    model: Qwen2VLConfig,
    *,
    most_patches: int | None = None,
    prompt_length: int | None = None,
    image_size: tuple[int, int] | None = None,
) -> Shapes:
    """The shapes of a config's step; an image of `image_size` (width, height), or as large as training meets.

    That is `config.max_pixels`, else `most_patches` of the model's own image settings, and in both cases no
    more than half of the prompt.

    Raises ConfigError when the images leave no room for a question.
    """
    prompt = prompt_length or config.max_prompt_length
    images = 1 if config.max_images is None else config.max_images
    if image_size is not None:
        grid = resized_grid(image_size, model.vision)
    else:
        grid = _largest_grid(config, model.vision, most_patches, prompt // (2 * max(images, 1)))
    tokens = images * (math.prod(grid) // model.vision.merge_count + 2)
    if tokens >= prompt:
        raise ConfigError(
            f"the images of a prompt take {tokens} of its {prompt} tokens; give a smaller --image-size "
            "or a greater --prompt-length"
        )
    return Shapes(
        config.prompts_per_step,
        prompt,
        config.num_generations,
        config.max_completion_length,
        (grid,) * images,
    )


def resized_grid(size: tuple[int, int], vision: VisionConfig) -> Grid:
    """Patches of an image of (width, height) pixels, rounded to whole merge blocks."""
    block = vision.patch_size * vision.spatial_merge_size
    width, height = (max(1, round(side / block)) * vision.spatial_merge_size for side in size)
    return 1, height, width


def _largest_grid(config: RunConfig, vision: VisionConfig, most_patches: int | None, tokens: int) -> Grid:
    block = (vision.patch_size * vision.spatial_merge_size) ** 2
    if config.max_pixels is not None:
        tokens = min(tokens, config.max_pixels // block)
    elif most_patches is not None:
        tokens = min(tokens, most_patches // vision.merge_count)
    side = math.isqrt(max(tokens, 1))
    height = max(range(-(-side // 2), side + 1), key=lambda rows: (rows * (tokens // rows), rows))
    width = max(tokens, 1) // height
    return 1, height * vision.spatial_merge_size, width * vision.spatial_merge_size


def random_prompts(shapes: Shapes, model: Qwen2VLConfig) -> Prompts:
    """Prompts of these shapes, unpadded: images first, then text, all drawn at random."""
    random = np.random.default_rng(0)
    merge = model.vision.spatial_merge_size
    opening: list[int] = []
    for grid in shapes.grids:
        image = [model.image_token_id] * (math.prod(grid) // model.vision.merge_count)
        opening += [model.vision_start_token_id, *image, model.vision_end_token_id]
    text = random.integers(0, min(model.vision_token_ids), (shapes.batch, shapes.prompt))
    ids = text.astype(np.int32)
    ids[:, : len(opening)] = opening
    positions, start = prompt_positions(ids[0], shapes.grids, model.image_token_id, merge)
    places = [np.zeros((0, 2), np.int32), *(patch_positions(grid, merge) for grid in shapes.grids)]
    counts = [math.prod(grid) for grid in shapes.grids]
    segments = np.repeat(np.arange(1, len(counts) + 1, dtype=np.int32), counts)
    patches = random.standard_normal((shapes.batch, shapes.patches, model.vision.patch_dim), np.float32)
    arrays: dict[str, Any] = {
        "ids": ids,
        "mask": np.ones(ids.shape, bool),
        "positions": np.tile(positions[:, None], (1, shapes.batch, 1)),
        "start": np.full(shapes.batch, start, np.int32),
        "patches": patches,
        "patch_positions": np.tile(np.concatenate(places)[None], (shapes.batch, 1, 1)),
        "segments": np.tile(segments[None], (shapes.batch, 1)),
    }
    return Prompts(**arrays)
