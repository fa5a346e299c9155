"""Whatever bytes an image file holds: RGB pixels, or one line; the same each time, and soon."""

import numpy as np
import pytest
from fixtures.fuzzing import fuzzed
from fixtures.mutated import mutated
from fixtures.picture_files import encoded, photograph
from hypothesis import strategies as st
from PIL import Image

from vtzero.data.images import open_image

PIXELS = photograph(33, 17)
PICTURE = Image.fromarray(PIXELS)
EXIF = Image.Exif()
EXIF[0x0112] = 6


def two(kind, image=PICTURE, **options):
    """Copies, since an image remembers how it was last saved."""
    return encoded(image.copy(), kind, save_all=True, append_images=[image.rotate(9)], **options)


FILES = {
    "PNG": encoded(PIXELS),
    "PNG of a palette": encoded(PICTURE.quantize(16), transparency=3),
    "PNG of 16 bits": encoded(PIXELS[..., 0].astype(np.uint16) * 250, transparency=2000),
    "PNG with alpha": encoded(PICTURE.convert("RGBA"), exif=EXIF),
    "animated PNG": two("PNG"),
    "JPEG": encoded(PIXELS, "JPEG", exif=EXIF),
    "progressive JPEG": encoded(PIXELS, "JPEG", progressive=True),
    "grey JPEG": encoded(PIXELS[..., 0], "JPEG", restart_marker_rows=1),
    "CMYK": encoded(PICTURE.convert("CMYK"), "JPEG"),
    "MPO": two("MPO"),
    "WebP": encoded(PIXELS, "WEBP", exif=EXIF),
    "lossless WebP": two("WEBP", PICTURE.convert("RGBA"), lossless=True),
    "GIF": two("GIF", PICTURE.quantize(16)),
    "BMP": encoded(PIXELS, "BMP"),
    "BMP of a palette": encoded(PICTURE.quantize(16), "BMP"),
    "TIFF": encoded(PIXELS, "TIFF", exif=EXIF),
    "TIFF of pages": two("TIFF", compression="tiff_lzw"),
    "TIFF of a fax": encoded(PICTURE.convert("1"), "TIFF", compression="group4"),
    "TIFF of a JPEG": encoded(PIXELS, "TIFF", compression="jpeg"),
    "PPM": encoded(PIXELS, "PPM"),
    "JPEG 2000": encoded(PIXELS, "JPEG2000"),
}


@pytest.fixture(autouse=True)
def small_pictures_alone(monkeypatch):
    """Else most of the time goes into pictures of 80 million pixels that a changed size claims."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@fuzzed(150, data=mutated(FILES) | st.binary(max_size=300))
def test_any_bytes_are_a_picture_or_one_line(data):
    first, second = outcome(data), outcome(data)
    np.testing.assert_array_equal(first, second)


def outcome(data):
    """The pixels, or what is said."""
    try:
        image = open_image(data)
    except ValueError as error:
        said = str(error)
        assert said.isprintable()
        assert said.startswith("the image's bytes cannot be read: ")
        assert len(said) < 600
        return said
    assert image.mode == "RGB"
    assert 0 < image.width * image.height <= 1_000_000
    return np.asarray(image)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@fuzzed(60, data=mutated({"PNG": FILES["PNG"]}, most=2))
def test_a_damaged_png_has_its_own_pixels_or_none(data):
    said = outcome(data)
    assert isinstance(said, str) or np.array_equal(said, PIXELS)
