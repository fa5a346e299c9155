"""From an image of any kind to an RGB image that is fully decoded, upright and opaque.

Knows no model and no resizing. A damaged or oversized image is a ValueError; callers can set it aside.
"""

import io
import os
import stat
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from vtzero.data import jpeg_damage, png_damage
from vtzero.data.example import ImageSource
from vtzero.terminal import short_line

Image.init()
# Pictures alone: others of Pillow's decoders are seldom used and tried, and EPS would run a program.
_KNOWN = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
FORMATS = tuple(name for name in _KNOWN if name in Image.OPEN)
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_BYTES_A_PIXEL = 8  # four channels of 16 bits
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(source: ImageSource) -> Image.Image:
    """Decode an image completely, turn it as its EXIF says, and convert it to mode "RGB".

    Transparency is laid on white; 16-bit grey keeps its high byte; of an animation the first frame is taken.

    Raises ValueError, in one line with the reason, when the file is missing, no regular file, truncated,
    corrupt, empty, none of `FORMATS`, or larger than Pillow's `Image.MAX_IMAGE_PIXELS`.
    """
    try:
        return _to_rgb(_upright(_decoded(source)))
    except Exception as error:
        # Pillow's decoders raise nearly every kind of exception on a damaged file.
        raise ValueError(f"{_name(source)} cannot be read: {_reason(error)}") from error


def _decoded(source: ImageSource) -> Image.Image:
    if isinstance(source, Image.Image):
        _check_size(source)
        source.load()
        return source
    data = _contents(source) if isinstance(source, Path) else source
    if data.startswith(png_damage.SIGNATURE):
        png_damage.check_parts(data)
    image = _identified(data)
    _check_size(image)
    image.load()
    if image.format == "PNG":
        png_damage.check_pixels(data, image)
    elif image.format in ("JPEG", "MPO"):
        jpeg_damage.check_pixels(data, image)
    return image


def _contents(path: Path) -> bytes:
    """What a regular file holds; nothing else is waited for or read without end."""
    limit = _BYTES_A_PIXEL * (Image.MAX_IMAGE_PIXELS or 2**31)
    with open(path, "rb", opener=_without_waiting) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is a pipe, a socket or a device, and no file")
        if about.st_size > limit:
            raise ValueError(f"the file has {about.st_size} bytes; no image of an allowed size has so many")
        return file.read(limit)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # else a pipe that nobody writes to would wait for ever


def _identified(data: bytes) -> Image.Image:
    if not data:
        raise ValueError("it is empty")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        kinds = ", ".join(FORMATS)
        raise ValueError(f"it is none of {kinds}, or cut short; it begins with {data[:16]!r}") from error


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if not width or not height:
        raise ValueError(f"its size is {width}x{height}")
    limit = Image.MAX_IMAGE_PIXELS
    # Pillow only warns up to twice its limit; turning that warning into an error is not safe among threads.
    if limit is not None and width * height > limit:
        raise ValueError(f"{width}x{height} is more than {limit} pixels, which may be a decompression bomb")


def _upright(image: Image.Image) -> Image.Image:
    turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in _SIXTEEN_BIT:
        return _high_byte(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; store the image with 8 bits a channel")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _high_byte(image: Image.Image) -> Image.Image:
    """Eight bits of sixteen: Pillow's own conversion clips instead, which turns most of the image white."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its pixels need more than 16 bits; store the image with 8 bits a channel")
    high = (values.astype(np.uint16) >> 8).astype(np.uint8)
    high[values == image.info.get("transparency")] = 255
    return Image.fromarray(high)


def _reason(error: Exception) -> str:
    # An error of the system repeats the path.
    said = error.strerror if isinstance(error, OSError) else None
    return short_line(said or str(error) or type(error).__name__)


def _name(source: ImageSource) -> str:
    if isinstance(source, Path):
        return f"image {short_line(source)}"
    return "the image's bytes" if isinstance(source, bytes) else "the image"
