"""Shapes from a config, and the prompts that fill them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bench.small import CONFIG, MODEL, SHAPES

from vtzero.bench.shapes import config_shapes, random_prompts, resized_grid
from vtzero.config import ConfigError, load_config
from vtzero.models.qwen2_vl.config import PUBLISHED

TWO_BILLION = PUBLISHED["Qwen2-VL-2B"]
PAPER = Path(__file__).parents[2] / "configs" / "visualthinker_r1_zero.yaml"


def test_the_papers_step():
    shapes = config_shapes(load_config(PAPER), TWO_BILLION)
    assert (shapes.batch, shapes.prompt, shapes.group, shapes.completion) == (8, 1024, 8, 700)
    assert shapes.patches == 2048  # 401,408 pixels are 512 image tokens
    assert shapes.lengths.prompt_tokens == 8 * 1024
    assert shapes.lengths.completion_tokens == 8 * 8 * 700
    assert shapes.lengths.images == (2048,) * 8


def test_an_image_of_a_given_size_and_a_shorter_prompt():
    shapes = config_shapes(load_config(PAPER), TWO_BILLION, prompt_length=400, image_size=(448, 336))
    assert shapes.grids == ((1, 24, 32),)
    assert shapes.prompt == 400
    assert resized_grid((100, 10), TWO_BILLION.vision) == (1, 2, 8)


def test_without_a_limit_the_image_takes_half_of_the_prompt():
    config = replace(load_config(PAPER), max_pixels=None, max_prompt_length=200)
    tokens = config_shapes(config, TWO_BILLION).patches // 4
    assert 90 <= tokens <= 100
    assert config_shapes(config, TWO_BILLION, most_patches=64).patches == 64


def test_several_images_and_none():
    assert config_shapes(replace(CONFIG, max_images=0), MODEL).patches == 0
    two = config_shapes(replace(CONFIG, max_images=2, max_prompt_length=32), MODEL, image_size=(56, 56))
    prompts = random_prompts(two, MODEL)
    assert two.patches == 32
    assert sorted(set(np.asarray(prompts.segments[0]))) == [1, 2]


def test_an_image_that_leaves_no_room_is_refused():
    with pytest.raises(ConfigError, match="--image-size"):
        config_shapes(CONFIG, MODEL, image_size=(112, 112))


def test_prompts_are_full_and_hold_their_image_tokens():
    prompts = random_prompts(SHAPES, MODEL)
    assert prompts.ids.shape == (2, 16)
    assert np.asarray(prompts.mask).all()
    assert ((np.asarray(prompts.ids) == MODEL.image_token_id).sum(axis=1) == SHAPES.patches // 4).all()
    assert prompts.positions.shape == (3, 2, 16)
    assert (np.asarray(prompts.start) == np.asarray(prompts.positions).max() + 1).all()
    assert (np.asarray(prompts.ids)[:, 6:] < 60).all()  # text after the image
