"""Damage to PNG files that Pillow decodes without a word: wrong checksums, missing pixels or colours.

Knows the format's parts, and Pillow's image. Which grey is transparent is told here too, where Pillow errs.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _COLOUR, _PALETTE = 0, 2, 3
_CHANNELS = {_GREY: 1, _COLOUR: 3, _PALETTE: 1, 4: 2, 6: 4}
# Adam7: of each pass the first row and column, and the steps.
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
_PIECE = 2**20


class _Header(NamedTuple):
    width: int
    height: int
    bits: int
    colour: int
    compression: int
    filters: int
    interlaced: int


def check_parts(data: bytes) -> None:
    """Raise ValueError, with the reason, where a file is cut or a part is not what its checksum says."""
    for _ in _parts(data):
        pass


def check_pixels(data: bytes, image: Image.Image) -> None:
    """Raise ValueError, with the reason, where a decoded image has pixels or colours that its file lacks.

    The transparent grey, which Pillow does not scale as it does the pixels, is made one of theirs.
    """
    parts = list(_parts(data))
    header = _Header(*struct.unpack(">IIBBBBB", parts[0][1][:13]))
    if header.colour == _PALETTE:
        _check_palette(sum(len(part) for kind, part in parts if kind == b"PLTE"), image)
    # Pillow leaves pixels that are not there at zero; all are counted only where the last one is.
    if (header.interlaced or _is_zero(image)) and not _is_whole(header, parts):
        raise ValueError("its data end before its pixels do")
    if "transparency" in image.info:
        _mend_transparency(header, image)


def _parts(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """(kind, contents) of each part, whose checksum is right; the header is the first."""
    place, kind, view = len(SIGNATURE), b"", memoryview(data)
    while kind != b"IEND":
        head = view[place : place + 8]
        if len(head) < 8:
            raise ValueError("the file ends before its IEND part")
        length, kind = struct.unpack(">I4s", head)
        if place == len(SIGNATURE) and kind != b"IHDR":
            raise ValueError(f"its first part is {kind!r} instead of IHDR")
        end = place + 8 + length
        stored = view[end : end + 4]
        if len(stored) < 4:
            raise ValueError(f"the file ends within its {kind!r} part")
        # Parts with a small letter first, such as comments, hold no pixels.
        if kind[:1].isupper() and zlib.crc32(view[place + 4 : end]) != int.from_bytes(stored, "big"):
            raise ValueError(f"its {kind!r} part is damaged (wrong checksum)")
        yield kind, view[place + 8 : end]
        place = end + 4


def _check_palette(size: int, image: Image.Image) -> None:
    if not size or size % 3:
        raise ValueError(f"its palette of {size} bytes is none")
    most = image.getextrema()[1]
    assert isinstance(most, int)  # a palette's pixels are single numbers
    if most >= size // 3:
        raise ValueError(f"its pixels have colour {most} of a palette of {size // 3}")


def _is_zero(image: Image.Image) -> bool:
    pixel = image.getpixel((image.width - 1, image.height - 1))
    return not any(pixel) if isinstance(pixel, tuple) else not pixel


def _is_whole(header: _Header, parts: list[tuple[bytes, memoryview]]) -> bool:
    """Whether the compressed data hold as many bytes as the pixels need."""
    needed, inflate = _needed(header), zlib.decompressobj()
    for kind, part in parts:
        rest: bytes | memoryview = part if kind == b"IDAT" else b""
        while len(rest) and needed > 0 and not inflate.eof:
            needed -= len(inflate.decompress(rest, _PIECE))
            rest = inflate.unconsumed_tail
    return needed - len(inflate.flush()) <= 0


def _needed(header: _Header) -> int:
    bits = header.bits * _CHANNELS[header.colour]
    passes = _PASSES if header.interlaced else ((0, 0, 1, 1),)
    sizes = [
        (len(range(row, header.height, down)), len(range(column, header.width, right)))
        for row, column, down, right in passes
    ]
    return sum(rows * (1 + -(-columns * bits // 8)) for rows, columns in sizes if columns)


def _mend_transparency(header: _Header, image: Image.Image) -> None:
    if header.bits == 16 and header.colour == _COLOUR:
        raise ValueError("its transparent colour has 16 bits a channel; store 8 bits a channel")
    if header.bits in (2, 4) and header.colour == _GREY:
        image.info["transparency"] *= 255 // (2**header.bits - 1)
