"""Images in memory come out RGB, upright and opaque, as those of files do (see test_bad_images.py)."""

import numpy as np
import pytest
from fixtures.picture_files import encoded, photograph
from PIL import Image

from vtzero.data.images import open_image


def test_bytes_path_and_image_decode_alike(tmp_path):
    pixels = photograph()
    (tmp_path / "a.png").write_bytes(encoded(pixels))
    for source in (Image.fromarray(pixels), encoded(pixels), tmp_path / "a.png"):
        opened = open_image(source)
        assert opened.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(opened), pixels)


def test_alpha_is_laid_on_white():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (200, 0, 0, 255)
    rgba[0, 1] = (200, 0, 0, 0)
    rgba[1, 0] = (0, 0, 0, 128)
    opened = np.asarray(open_image(Image.fromarray(rgba)))
    assert tuple(opened[0, 0]) == (200, 0, 0)
    assert tuple(opened[0, 1]) == (255, 255, 255)
    assert abs(int(opened[1, 0, 0]) - 127) <= 1


@pytest.mark.parametrize("mode", ["LA", "PA", "P", "L", "RGB"])
def test_transparency_of_every_mode_is_white(mode):
    rgba = Image.new("RGBA", (4, 4), (10, 10, 10, 0))
    if mode in ("LA", "PA"):
        source = rgba.convert(mode)
    else:
        # A colour key: one palette entry, grey or RGB value that stands for "transparent".
        value = {"P": 0, "L": 10, "RGB": (10, 10, 10)}[mode]
        source = encoded(Image.new(mode, (4, 4), value), transparency=value)
    assert np.all(np.asarray(open_image(source)) == 255)


def test_pixels_of_more_than_sixteen_bits_and_images_of_none_are_refused():
    for image, reason in (
        (Image.fromarray(np.full((4, 4), 70000, np.int32)), "more than 16 bits"),
        (Image.fromarray(np.ones((4, 4), np.float32)), "no known range"),
        (Image.new("RGB", (0, 5)), "its size is 0x5"),
    ):
        with pytest.raises(ValueError, match=reason):
            open_image(image)
