"""Padding to a bucket loses nothing and adds only what is masked."""

import numpy as np
import pytest
from fixtures.tiny_folder import make_tiny_folder
from PIL import Image

from vtzero.data.batches import Buckets, collate, fits
from vtzero.data.example import Example
from vtzero.data.processor import Processor
from vtzero.data.prompts import prompt_template

BUCKETS = Buckets(prompt_length=240, patches=100)
PAD = 7


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    processor = Processor.from_folder(make_tiny_folder(tmp_path_factory.mktemp("tiny")))
    sizes = [[(60, 90)], [], [(28, 28), (100, 40)]]
    examples = [
        Example(f"e{i}", "Where is it?" * (i + 1), "left", tuple(Image.new("RGB", size) for size in row))
        for i, row in enumerate(sizes)
    ]
    return [processor.prepare(example, prompt_template("r1_zero_base")) for example in examples]


def test_each_prompt_is_found_again_in_the_batch(prompts):
    batch = collate(prompts, BUCKETS, PAD)
    for i, prompt in enumerate(prompts):
        tokens, patches = len(prompt.ids), len(prompt.patches)
        np.testing.assert_array_equal(batch.ids[i, :tokens], prompt.ids)
        np.testing.assert_array_equal(batch.positions[:, i, :tokens], prompt.positions)
        np.testing.assert_array_equal(batch.patches[i, :patches], prompt.patches)
        np.testing.assert_array_equal(batch.patch_positions[i, :patches], prompt.patch_positions)
        np.testing.assert_array_equal(batch.segments[i, :patches], prompt.segments)
        assert batch.start[i] == prompt.start
        assert batch.mask[i].tolist() == [True] * tokens + [False] * (240 - tokens)


def test_the_rest_is_padding(prompts):
    batch = collate(prompts, BUCKETS, PAD)
    assert np.all(batch.ids[~batch.mask] == PAD)
    assert np.all(batch.positions[:, ~batch.mask] == 0)
    for i, prompt in enumerate(prompts):
        assert not batch.patches[i, len(prompt.patches) :].any()
        assert not batch.segments[i, len(prompt.patches) :].any()
        assert not batch.patch_positions[i, len(prompt.patches) :].any()


def test_shapes_and_dtypes_are_static(prompts):
    for chosen in (prompts, prompts[:1], prompts[1:2]):
        batch, count = collate(chosen, BUCKETS, PAD), len(chosen)
        arrays = {
            "ids": ((count, 240), np.int32),
            "mask": ((count, 240), np.bool_),
            "positions": ((3, count, 240), np.int32),
            "start": ((count,), np.int32),
            "patches": ((count, 100, 1176), np.float32),
            "patch_positions": ((count, 100, 2), np.int32),
            "segments": ((count, 100), np.int32),
        }
        assert {name: (getattr(batch, name).shape, getattr(batch, name).dtype) for name in arrays} == arrays


def test_a_bucket_without_patches_holds_text(prompts):
    assert collate([prompts[1]], Buckets(240, 0), PAD).patches.shape == (1, 0, 1176)


def test_what_does_not_fit_says_why_and_the_way_out(prompts):
    image, text, _ = prompts
    tokens = len(image.ids)
    assert fits(image, Buckets(tokens, len(image.patches))) is None
    assert fits(image, Buckets(tokens - 1, 100)).reason == (
        f"prompt has {tokens} tokens, the bucket holds {tokens - 1} "
        "(raise max_prompt_length or lower max_pixels)"
    )
    assert fits(text, Buckets(5, 0)).reason.endswith("(raise max_prompt_length)")
    patches = len(image.patches)
    rejected = fits(image, Buckets(tokens, patches - 4))
    assert (
        rejected.reason
        == f"prompt has {patches} image patches, the bucket holds {patches - 4} (lower max_pixels)"
    )
    assert rejected.id == "e0"


def test_more_images_than_the_bucket_holds_names_max_images(prompts):
    image, _, two = prompts
    tokens, patches = len(two.ids), len(two.patches)
    assert fits(two, Buckets(tokens, patches)) is None
    assert fits(two, Buckets(tokens, patches - 4)).reason == (
        f"prompt has 2 images of {patches} patches, the bucket holds {patches - 4} "
        "(raise max_images or lower max_pixels)"
    )
    assert "1 image of" in fits(image, Buckets(tokens, 0)).reason
    assert "the bucket holds 0 (raise max_images" in fits(image, Buckets(tokens, 0)).reason


def test_collate_refuses_what_does_not_fit(prompts):
    with pytest.raises(ValueError, match="e0: prompt has"):
        collate(prompts, Buckets(20, 100), PAD)
    with pytest.raises(ValueError, match="at least one prompt"):
        collate([], BUCKETS, PAD)


@pytest.mark.parametrize("sizes", [(0, 4), (8, -1)])
def test_impossible_buckets_are_refused(sizes):
    with pytest.raises(ValueError, match="a bucket needs"):
        Buckets(*sizes)
