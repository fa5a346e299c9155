"""Damage to JPEG files that Pillow decodes without a word: data that end early, and an end put behind them.

A JPEG file has no checksums: other damage that can be decoded is taken for the picture. Knows markers, scans
and Pillow's image.
"""

import io
import re
from collections.abc import Iterator

from PIL import Image

# In entropy data 0xff is followed by 0 or a restart marker; before a marker it may be repeated.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_SCAN, _END = 0xDA, 0xD9
_COEFFICIENTS = 64
_MORE = bytes(range(1, 129))  # entropy data that decode to something other than nothing


def check_pixels(data: bytes, image: Image.Image) -> None:
    """Raise ValueError, with the reason, for a decoded image whose data end before its pixels do."""
    frame, components, scans, end = 0, [], [], len(data)
    for marker, place, segment in _markers(data):
        if marker in _FRAMES:
            frame, components = marker, _components(segment)
        elif marker == _SCAN:
            scans.append(segment)
        elif marker == _END:
            end = place
    missing = _coefficients(components)
    for scan in scans:
        _tick_off(missing, scan, frame in _PROGRESSIVE)
    if any(missing.values()):
        raise ValueError("its last scans are missing")
    # Decoded twice only where it looks like it; not seen is a loss within the last block, or of the last
    # bits of a progressive image, whose every decoding takes 35 ms a megapixel.
    if _ends_grey(image) and _uses_more(data, end, image):
        raise ValueError("its data end before its pixels do")


def _markers(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(marker, place, segment) of the first image of a JPEG file."""
    place = 2
    while found := _MARKER.search(data, place):
        marker, start = found.group(1)[0], found.start()
        length = 0 if marker == _END else int.from_bytes(data[start + 2 : start + 4], "big")
        yield marker, start, data[start + 4 : start + 2 + length]
        if marker == _END:
            return
        place = start + 2 + length


def _components(frame: bytes) -> list[int]:
    return [frame[6 + 3 * number] for number in range(frame[5])]


def _coefficients(components: list[int]) -> dict[int, set[int]]:
    return {component: set(range(_COEFFICIENTS)) for component in components}


def _tick_off(missing: dict[int, set[int]], scan: bytes, progressive: bool) -> None:
    """Take out what a scan completes: a range of coefficients, to their last bit, of its components."""
    count = scan[0]
    first, last, bits = scan[1 + 2 * count : 4 + 2 * count]
    complete = range(first, last + 1) if progressive else range(_COEFFICIENTS)
    if progressive and bits & 15:
        return
    for component in scan[1 : 1 + 2 * count : 2]:
        missing.get(component, set()).difference_update(complete)


def _ends_grey(image: Image.Image) -> bool:
    """Whether the last pixel is that of a block of which nothing was read."""
    pixel = image.getpixel((image.width - 1, image.height - 1))
    values = pixel if isinstance(pixel, tuple) else (pixel,)
    return all(126 <= value <= 129 for value in values if value is not None)


def _uses_more(data: bytes, end: int, image: Image.Image) -> bool:
    """Whether further data before the end of the image would be read as pixels."""
    longer = Image.open(io.BytesIO(data[:end] + _MORE + data[end:]), formats=["JPEG"])
    longer.load()
    return longer.tobytes() != image.tobytes()
