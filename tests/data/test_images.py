"""Every kind of image comes out RGB, upright and opaque; every damaged one is a one-line ValueError."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vtzero.data.images import open_image


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8)


def test_bytes_path_and_image_decode_alike(pixels, tmp_path):
    image = Image.fromarray(pixels)
    (tmp_path / "a.png").write_bytes(encoded(image))
    for source in (image, encoded(image), tmp_path / "a.png"):
        opened = open_image(source)
        assert opened.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(opened), pixels)


def test_grey_fills_three_channels(pixels):
    grey = pixels[..., 0]
    opened = np.asarray(open_image(encoded(Image.fromarray(grey))))
    np.testing.assert_array_equal(opened, np.repeat(grey[..., None], 3, axis=2))


def test_one_bit_is_black_and_white(pixels):
    bits = pixels[..., 0] > 127
    opened = np.asarray(open_image(encoded(Image.fromarray(bits))))
    np.testing.assert_array_equal(opened[..., 1], np.where(bits, 255, 0))


def test_sixteen_bits_keep_their_high_byte(pixels):
    wide = pixels[..., 0].astype(np.uint16) * 256 + 77
    opened = np.asarray(open_image(encoded(Image.fromarray(wide))))
    np.testing.assert_array_equal(opened[..., 2], pixels[..., 0])


def test_thirty_two_bits_are_refused():
    with pytest.raises(ValueError, match="more than 16 bits"):
        open_image(Image.fromarray(np.full((4, 4), 70000, np.int32)))


def test_floating_point_is_refused():
    with pytest.raises(ValueError, match="no known range"):
        open_image(Image.fromarray(np.ones((4, 4), np.float32)))


def test_palette_shows_its_colours(pixels):
    palette = Image.fromarray(pixels).quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(open_image(encoded(palette))), expected)


def test_alpha_is_laid_on_white():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (200, 0, 0, 255)
    rgba[0, 1] = (200, 0, 0, 0)
    rgba[1, 0] = (0, 0, 0, 128)
    opened = np.asarray(open_image(encoded(Image.fromarray(rgba))))
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


def test_cmyk_is_converted():
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    opened = np.asarray(open_image(encoded(red, "JPEG", quality=95))).astype(int)
    assert opened.shape == (8, 8, 3)
    assert opened[..., 0].min() > 245
    assert opened[..., 1:].max() < 10


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = 255
    stored = _as_stored(upright, orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = np.asarray(open_image(encoded(Image.fromarray(stored), exif=exif)))
    np.testing.assert_array_equal(opened, upright)


def _as_stored(upright, orientation):
    """How a camera held that way stores the upright picture (EXIF 2.3, tag 274)."""
    turned = upright.transpose(1, 0, 2) if orientation >= 5 else upright
    flips = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (-1, 1), 7: (-1, -1), 8: (1, -1)}
    rows, columns = flips[orientation]
    return np.ascontiguousarray(turned[::rows, ::columns])


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue")]
    path = tmp_path / "moving.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert open_image(path).getpixel((2, 2)) == (255, 0, 0)


def bad_images(pixels):
    good = encoded(Image.fromarray(np.tile(pixels, (20, 20, 1))))
    jpeg = encoded(Image.fromarray(np.tile(pixels, (20, 20, 1))), "JPEG")
    corrupt = bytearray(good)
    corrupt[len(good) // 2 : len(good) // 2 + 40] = bytes(40)
    return {
        "truncated png": good[: len(good) // 2],
        "truncated jpeg": jpeg[: len(jpeg) // 2],
        "corrupt png": bytes(corrupt),
        "text": b"this is no image",
        "no bytes": b"",
        "header alone": good[:8],
        "zero width": _png_header(0, 5),
        "bomb (error)": _png_header(60000, 60000),
        "bomb (warning)": _png_header(10000, 10000),
    }


def _png_header(width, height):
    """A well-formed PNG that claims a size and holds next to no pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10))) + chunk(b"IEND", b"")


KINDS = (
    "truncated png",
    "truncated jpeg",
    "corrupt png",
    "text",
    "no bytes",
    "header alone",
    "zero width",
    "bomb (error)",
    "bomb (warning)",
)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_bad_images_are_one_line_errors(kind, pixels, tmp_path):
    path = tmp_path / "bad.png"
    path.write_bytes(bad_images(pixels)[kind])
    for source in (path, path.read_bytes()):
        with pytest.raises(ValueError, match=r"cannot be read: \S") as caught:
            open_image(source)
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_large_image_is_refused_for_its_size():
    with pytest.raises(ValueError, match="decompression bomb"):
        open_image(_png_header(10000, 10000))


def test_missing_file_and_empty_image(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.png cannot be read: .*No such file"):
        open_image(tmp_path / "gone.png")
    with pytest.raises(ValueError, match="its size is 0x5"):
        open_image(Image.new("RGB", (0, 5)))
