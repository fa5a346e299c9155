"""From an image of any kind to an RGB image that is fully decoded, upright and opaque.

Knows no model and no resizing. A damaged or oversized image is a ValueError; callers can set it aside.
"""

import io
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vtzero.data.example import ImageSource

_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")


def open_image(source: ImageSource) -> Image.Image:
    """Decode an image completely, turn it as its EXIF says, and convert it to mode "RGB".

    Transparency is laid on white; 16-bit grey keeps its high byte; of an animation the first frame is taken.

    Raises ValueError, in one line with the reason, when the file is missing, truncated, corrupt, empty, or
    larger than Pillow's `Image.MAX_IMAGE_PIXELS`.
    """
    try:
        image = _opened(source)
        _check_size(image)
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:
        # Pillow's decoders raise nearly every kind of exception on a damaged file.
        # Pillow names an in-memory file by its address, which would differ from run to run.
        words = re.sub(
            r"cannot identify image file <_io.BytesIO[^>]*>", "it is no known kind of image", str(error)
        )
        words = re.sub(r"<_io.BytesIO object at 0x[0-9a-f]+>", "the image", words)
        reason = " ".join(words.split()) or type(error).__name__
        raise ValueError(f"{_name(source)} cannot be read: {reason}") from error


def _opened(source: ImageSource) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    data = source.read_bytes() if isinstance(source, Path) else source
    return Image.open(io.BytesIO(data))


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if not width or not height:
        raise ValueError(f"its size is {width}x{height}")
    limit = Image.MAX_IMAGE_PIXELS
    # Pillow only warns up to twice its limit; turning that warning into an error is not safe among threads.
    if limit is not None and width * height > limit:
        raise ValueError(f"{width}x{height} is more than {limit} pixels, which may be a decompression bomb")


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
    return Image.fromarray((values.astype(np.uint16) >> 8).astype(np.uint8))


def _name(source: ImageSource) -> str:
    if isinstance(source, Path):
        return f"image {source}"
    return "the image's bytes" if isinstance(source, bytes) else "the image"
