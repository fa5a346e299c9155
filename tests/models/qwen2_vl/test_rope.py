"""Positions, angles and rotations against transformers' own functions."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from models.torch_twin import IMAGE_TOKEN, MERGE_SIZE, torch_twin, twin_config
from transformers.models.qwen2_vl import modeling_qwen2_vl as reference
from transformers.vision_utils import get_vision_position_ids

from vtzero.models.qwen2_vl.rope import (
    mrope_cos_sin,
    patch_positions,
    prompt_positions,
    rotate,
    vision_cos_sin,
)


@pytest.fixture(scope="module")
def twin():
    return torch_twin(twin_config(head_dim=16), seed=0)


def random_grids(rng: np.random.Generator, count: int) -> list[tuple[int, int, int]]:
    sides = MERGE_SIZE * rng.integers(1, 9, (count, 2))
    return [(1, int(height), int(width)) for height, width in sides]


def random_prompt(rng: np.random.Generator, grids: list[tuple[int, int, int]]) -> np.ndarray:
    """Text of random length, perhaps none, before the images, and some between and after them."""
    parts = [rng.integers(0, IMAGE_TOKEN, rng.integers(0, 6))]
    for grid in grids:
        parts.append(np.full(np.prod(grid) // MERGE_SIZE**2, IMAGE_TOKEN))
        parts.append(rng.integers(0, IMAGE_TOKEN, rng.integers(1, 6)))
    return np.concatenate(parts)


@pytest.mark.parametrize("seed", range(12))
def test_prompt_positions_equal_get_rope_index(twin, seed):
    rng = np.random.default_rng(seed)
    grids = random_grids(rng, 1 + seed % 3)
    ids = random_prompt(rng, grids)
    positions, start = prompt_positions(ids, grids, IMAGE_TOKEN, MERGE_SIZE)
    tokens = torch.tensor(ids)[None]
    expected, deltas = twin.model.get_rope_index(
        tokens, (tokens == IMAGE_TOKEN).int(), image_grid_thw=torch.tensor(grids)
    )
    np.testing.assert_array_equal(positions, expected[:, 0])
    assert start == deltas.item() + len(ids)


def test_text_positions_count_from_zero():
    positions, start = prompt_positions([5, 6, 7, 8], [], IMAGE_TOKEN, MERGE_SIZE)
    np.testing.assert_array_equal(positions, np.tile(np.arange(4), (3, 1)))
    assert start == 4


def test_positions_continue_after_the_longer_side_of_an_image():
    # Two words, one image of 2 x 3 tokens, one word.
    ids = [1, 2, *[IMAGE_TOKEN] * 6, 3]
    positions, start = prompt_positions(ids, [(1, 4, 6)], IMAGE_TOKEN, MERGE_SIZE)
    assert positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5],
        [0, 1, 2, 2, 2, 3, 3, 3, 5],
        [0, 1, 2, 3, 4, 2, 3, 4, 5],
    ]
    assert start == 6


@pytest.mark.parametrize(
    ("ids", "grids", "message"),
    [
        ([1, IMAGE_TOKEN], [], "more image tokens"),
        ([1, IMAGE_TOKEN, 2], [(1, 4, 2)], "needs 2 image tokens"),
        ([1, IMAGE_TOKEN], [(1, 4, 2)], "needs 2 image tokens"),
        ([1, IMAGE_TOKEN, IMAGE_TOKEN, IMAGE_TOKEN], [(1, 4, 2)], "more image tokens"),
        ([1, 2], [(1, 2, 2)], "1 images have no image tokens"),
    ],
)
def test_image_tokens_must_match_the_grids(ids, grids, message):
    with pytest.raises(ValueError, match=message):
        prompt_positions(ids, grids, IMAGE_TOKEN, MERGE_SIZE)


@pytest.mark.parametrize(("merge_size", "time"), [(2, 1), (3, 1), (2, 3)])
def test_patch_positions_equal_to_transformers(merge_size, time):
    rng = np.random.default_rng(merge_size)
    for height, width in merge_size * rng.integers(1, 7, (4, 2)):
        grid = (time, int(height), int(width))
        expected = get_vision_position_ids(torch.tensor([grid]), merge_size)
        np.testing.assert_array_equal(patch_positions(grid, merge_size), expected)


def test_mrope_angles_equal_to_transformers(twin):
    positions = np.random.default_rng(1).integers(0, 3000, (3, 2, 11))
    text = twin.config.text_config
    section = tuple(text.rope_parameters["mrope_section"])
    cos, sin = mrope_cos_sin(jnp.asarray(positions), 16, text.rope_parameters["rope_theta"], section)
    expected = twin.model.language_model.rotary_emb(torch.zeros(1), torch.tensor(positions))
    # Float32 angles of thousands of radians differ in their last bit between libraries.
    np.testing.assert_allclose(cos, expected[0], atol=5e-4)
    np.testing.assert_allclose(sin, expected[1], atol=5e-4)


def test_vision_angles_equal_to_transformers(twin):
    positions = np.random.default_rng(2).integers(0, 90, (13, 2))
    cos, sin = vision_cos_sin(jnp.asarray(positions), 16, 10000.0)
    expected = twin.model.visual.rotary_pos_emb(torch.zeros(1), torch.tensor(positions))
    np.testing.assert_allclose(cos, expected[0], atol=2e-5)
    np.testing.assert_allclose(sin, expected[1], atol=2e-5)


def test_rotation_equal_to_transformers():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 5, 3, 8)).astype(np.float32)
    cos, sin = rng.normal(size=(2, 2, 5, 8)).astype(np.float32)
    turned = rotate(jnp.asarray(x), jnp.asarray(cos), jnp.asarray(sin))
    heads_first = torch.tensor(x).transpose(1, 2)
    expected, _ = reference.apply_rotary_pos_emb(
        heads_first, heads_first, torch.tensor(cos), torch.tensor(sin)
    )
    np.testing.assert_allclose(turned, expected.transpose(1, 2), atol=1e-6)


def test_rotation_is_computed_in_float32_and_keeps_the_dtype():
    rng = np.random.default_rng(4)
    x = jnp.asarray(rng.normal(size=(4, 2, 8)), jnp.bfloat16)
    cos, sin = jnp.asarray(rng.normal(size=(2, 4, 8)), jnp.float32)
    turned = rotate(x, cos, sin)
    assert turned.dtype == jnp.bfloat16
    np.testing.assert_array_equal(turned, rotate(x.astype(jnp.float32), cos, sin).astype(jnp.bfloat16))
