"""Every kind of image file gives the pixels that are right, or one line that names it and what is wrong."""

import contextlib
import io
import os
import re
import struct
import zlib

import numpy as np
import pytest
from fixtures.fuzzing import time_limit
from fixtures.picture_files import END, SIGNATURE, encoded, header, part, photograph, png_of
from PIL import Image

from vtzero.data.images import open_image

PIXELS = photograph()
PICTURE = Image.fromarray(PIXELS)
GREY = PIXELS[..., 0]
PNG, JPEG = encoded(PIXELS), encoded(PIXELS, "JPEG")
PROGRESSIVE = encoded(PIXELS, "JPEG", progressive=True)
EOI = b"\xff\xd9"


def cut(data, share):
    return data[: int(len(data) * share)]


def tag(number, value):
    """An entry of a TIFF file's directory: one number of 32 bits."""
    return struct.pack("<HHII", number, 4, 1, value)


def changed(data, place, *new):
    return data[:place] + bytes(new) + data[place + len(new) :]


# --- what cannot be read: bytes -> words of the reason ---

WHOLE = {
    kind: encoded(PIXELS, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
} | {"progressive JPEG": PROGRESSIVE, "LZW TIFF": encoded(PIXELS, "TIFF", compression="tiff_lzw")}
CUT = {
    f"{kind} cut after {share:.0%}": (cut(data, share), "")
    for kind, data in WHOLE.items()
    for share in (0.02, 0.3, 0.6, 0.95)
}

IDAT = PNG.index(b"IDAT")
HUFFMAN = JPEG.index(b"\xff\xc4")
SCAN = JPEG.index(b"\xff\xda")
SCANS = [place for place in range(len(PROGRESSIVE)) if PROGRESSIVE[place : place + 2] == b"\xff\xda"]
GIF = encoded(PICTURE.quantize(16), "GIF")
LARGE_TEXT = part(b"zTXt", b"note\0\0" + zlib.compress(bytes(8_000_000)))
MUCH_TEXT = part(b"zTXt", b"note\0\0" + zlib.compress(bytes(1_000_000))) * 70

# Nine grey pixels, 1 to 9, in the order of Adam7's passes.
INTERLACED = part(b"IHDR", struct.pack(">IIBBBBB", 3, 3, 8, 0, 0, 0, 1))
PASSES = b"\0\1" + b"\0\3" + b"\0\7\x09" + b"\0\2\0\x08" + b"\0\4\5\6"

DAMAGED = {
    # no image
    "no bytes": (b"", "it is empty"),
    "one byte": (b"\x89", "it is none of"),
    "a web page": (b"<!DOCTYPE html><title>404 Not Found</title>" * 9, "begins with b'<!DOCTYPE"),
    "a PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" * 9, "begins with b'%PDF-1.7"),
    "an SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "begins with b'<svg"),
    "an MP4 video": (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(99), "it is none of"),
    "an MPEG video": (b"\0\0\1\xb3\x14\0\xf0\x13" + bytes(99), "it is none of"),
    "a program of PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is none of"),
    "a pickle": (b"\x80\x04cposix\nsystem\n(Vtrue\ntR.", "it is none of"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "begins with b'version"),
    "zeros": (bytes(5000), "it is none of"),
    # sizes
    "a PNG that claims 100,000 x 100,000": (
        png_of(header(100_000, 100_000), bytes(9)),
        "decompression bomb|exceeds limit",
    ),
    "a PNG that claims 10,000 x 10,000": (png_of(header(10_000, 10_000), bytes(9)), "decompression bomb"),
    "a GIF that claims 65,535 x 65,535": (changed(GIF, 6, 255, 255, 255, 255), "bomb|exceeds limit"),
    "a TIFF that claims 60,000 x 60,000": (
        WHOLE["TIFF"].replace(tag(256, 40), tag(256, 60_000)).replace(tag(257, 24), tag(257, 60_000)),
        "bomb|exceeds limit",
    ),
    "a BMP that claims 2^31 - 1 rows": (
        changed(encoded(PIXELS, "BMP"), 22, 255, 255, 255, 127),
        "bomb|exceeds limit",
    ),
    "no width": (png_of(header(0, 5), bytes(9)), "."),
    "no height": (png_of(header(5, 0), bytes(9)), "."),
    "text that unpacks to 8 MB": (png_of(header(1, 1), bytes(4), LARGE_TEXT), "too large"),
    "70 MB of text": (png_of(header(1, 1), bytes(4), MUCH_TEXT), "Too much memory"),
    "a colour profile that unpacks to 8 MB": (
        png_of(header(1, 1), bytes(4), part(b"iCCP", b"sRGB\0\0" + zlib.compress(bytes(8_000_000)))),
        "too large",
    ),
    # PNG
    "the signature alone": (SIGNATURE, "ends before its IEND"),
    "a wrong checksum": (changed(PNG, IDAT + 40, PNG[IDAT + 40] ^ 1), "'IDAT' part is damaged"),
    "zeros where the disk was full": (cut(PNG, 0.5) + bytes(len(PNG) // 2), "is damaged"),
    "the data before the header": (
        SIGNATURE + part(b"IDAT", zlib.compress(bytes(4))) + header(1, 1) + END,
        "instead of IHDR",
    ),
    "no data": (SIGNATURE + header(1, 1) + END, "cannot load"),
    "no end": (PNG[: -len(END)], "ends before its IEND"),
    "rows that are missing": (png_of(header(2, 3), b"\0\1\2\3\4\5\6"), "data end before its pixels"),
    "an interlaced PNG without its last pass": (
        png_of(INTERLACED, PASSES[:-4]),
        "data end before its pixels",
    ),
    "an unknown filter": (png_of(header(1, 1), b"\x09\1\2\3"), "."),
    "no palette": (png_of(header(2, 1, colour=3), b"\0\0\1"), "palette of 0"),
    "half a colour in the palette": (
        png_of(header(2, 1, colour=3), b"\0\0\1", part(b"PLTE", b"\1\2")),
        "palette of 2 bytes",
    ),
    "a colour beyond the palette": (
        png_of(header(2, 1, colour=3), b"\0\0\5", part(b"PLTE", bytes(6))),
        "colour 5 of a palette of 2",
    ),
    "a depth of 3 bits": (png_of(header(1, 1, bits=3), bytes(4)), "."),
    "a transparent colour of 16 bits": (
        png_of(header(1, 1, bits=16), bytes(7), part(b"tRNS", bytes(6))),
        "16 bits a channel",
    ),
    # JPEG
    "a JPEG cut in its data, with an end": (JPEG[: SCAN + 80] + EOI, "data end before its pixels"),
    "a JPEG cut in its data, then zeros": (JPEG[: SCAN + 80] + bytes(400), "."),
    "a JPEG without data": (JPEG[:SCAN] + EOI, "."),
    "a progressive JPEG of its first scan": (PROGRESSIVE[: SCANS[1]] + EOI, "last scans are missing"),
    "a progressive JPEG without its last": (PROGRESSIVE[: SCANS[-1]] + EOI, "last scans are missing"),
    "a Huffman table that is none": (changed(JPEG, HUFFMAN + 5, *b"\xff" * 16), "."),
    # others
    "a GIF whose code is none": (changed(GIF, GIF.index(b",\0\0\0\0") + 10, 99), "."),
    "a WebP whose first part is none": (changed(WHOLE["WEBP"], 12, *b"XXXX"), "."),
    "a TIFF whose directory lies outside": (changed(WHOLE["TIFF"], 4, 255, 255, 255, 127), "."),
    "floating-point pixels": (encoded(GREY.astype(np.float32), "TIFF"), "no known range"),
    "pixels of 17 bits": (encoded(np.full((4, 4), 70_000, np.int32), "TIFF"), "more than 16 bits"),
    "pixels below zero": (encoded(np.full((4, 4), -1, np.int32), "TIFF"), "more than 16 bits"),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", [*CUT, *DAMAGED])
def test_damaged_files_are_one_line_that_names_them(kind, tmp_path):
    data, reason = (CUT | DAMAGED)[kind]
    path = tmp_path / "bad.jpg"
    path.write_bytes(data)
    for source, name in ((path, str(path)), (data, "the image's bytes")):
        said = reason_of(source)
        assert f"{name} cannot be read: " in said
        assert re.search(f"cannot be read: .*({reason})", said)


def reason_of(source):
    with time_limit(10), pytest.raises(ValueError, match=r"cannot be read: .") as caught:
        open_image(source)
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 1000
    assert "object at 0x" not in said
    return said


# --- what is no file: how it comes about -> words of the reason ---

NO_FILES = {
    "nothing": (lambda path: None, "No such file"),
    "a folder": (lambda path: path.mkdir(), "Is a directory"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "symbolic links"),
    "a link to nothing": (lambda path: path.symlink_to("gone"), "No such file"),
    "a pipe": (os.mkfifo, "a pipe"),
    "a device without end": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "a file of 64 GB": (lambda path: (path.touch(), os.truncate(path, 2**36)), "68719476736 bytes"),
    "a file that fails to be read": (lambda path: path.symlink_to("/proc/self/mem"), "error"),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_one_line_that_names_it(kind, tmp_path):
    make, reason = NO_FILES[kind]
    path = tmp_path / "picture.png"
    make(path)
    said = reason_of(path)
    assert str(path) in said
    assert reason in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(PNG)
    path.chmod(0)
    assert "Permission denied" in reason_of(path)


@pytest.mark.parametrize(
    "name", ["line\nbreak.png", "red\x1b[31m.png", "\u202egnp.png", "a" * 5000, "a\0b", "\ud800"]
)
def test_odd_names_are_told_in_printable_letters(name, tmp_path):
    path = tmp_path / name
    with contextlib.suppress(OSError, ValueError):  # the last three name no file
        path.write_bytes(b"no image")
    reason_of(path)


# --- what is read: a file -> its pixels, worked out by hand or by Pillow from the sound original ---


def pillows(data):
    """Pillow's own conversion."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def grey(*values):
    return np.repeat(np.array([values], np.uint8)[..., None], 3, axis=2)


def flat(colour):
    return np.full((4, 4, 3), colour, np.uint8)


def frames(kind, **options):
    others = [Image.new("RGB", PICTURE.size, colour) for colour in ("red", "blue")]
    return encoded(PICTURE, kind, save_all=True, append_images=others, **options)


def turned(orientation):
    """As a camera that is held that way stores the upright picture (EXIF 2.3, tag 274)."""
    stored = PIXELS.transpose(1, 0, 2) if orientation >= 5 else PIXELS
    flips = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (-1, 1), 7: (-1, -1), 8: (1, -1)}
    rows, columns = flips[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(np.ascontiguousarray(stored[::rows, ::columns]), exif=exif)


def with_exif(*pieces):
    return encoded(PIXELS, "JPEG", exif=b"Exif\0\0" + b"".join(pieces))


ONE_TAG = b"II*\0\x08\0\0\0\x01\0"
RGBA = np.dstack([PIXELS, np.random.default_rng(1).integers(0, 256, GREY.shape, np.uint8)])
ON_WHITE = Image.alpha_composite(Image.new("RGBA", PICTURE.size, "white"), Image.fromarray(RGBA)).convert(
    "RGB"
)
FEW = PICTURE.quantize(16)
CMYK = PICTURE.convert("CMYK")
# The last byte of Adobe's marker says how the four channels are stored; Pillow writes 0.
_ADOBE = b"Adobe\0d\0\0\0\0"
YCCK = encoded(CMYK, "JPEG").replace(_ADOBE + b"\0", _ADOBE + b"\2")
assert encoded(CMYK, "JPEG") != YCCK

READ = {
    "RGB": (PNG, PIXELS),
    "grey": (encoded(GREY), np.repeat(GREY[..., None], 3, axis=2)),
    "one bit": (png_of(header(3, 1, 1, 0), b"\0\xa0"), grey(255, 0, 255)),
    "two bits": (png_of(header(4, 1, 2, 0), b"\0\x1b"), grey(0, 85, 170, 255)),
    "four bits": (png_of(header(2, 1, 4, 0), b"\0\x1f"), grey(17, 255)),
    "16-bit grey": (png_of(header(2, 1, 16, 0), b"\0\x12\xff\xfe\0"), grey(0x12, 0xFE)),
    "16-bit grey of a TIFF": (
        encoded(GREY.astype(np.uint16) * 256 + 77, "TIFF"),
        np.repeat(GREY[..., None], 3, axis=2),
    ),
    "16-bit RGB": (png_of(header(1, 1, 16, 2), b"\0\1\xff\2\xff\3\xff"), np.array([[[1, 2, 3]]])),
    "16-bit RGBA": (
        png_of(header(2, 1, 16, 6), b"\0" + b"\1\0\2\0\3\0\xff\xff" + bytes(8)),
        np.array([[[1, 2, 3], [255, 255, 255]]]),
    ),
    "32-bit integers of 16 bits": (
        encoded(np.full((4, 4), 513, np.int32), "TIFF"),
        flat(2),
    ),
    "palette": (encoded(FEW), np.asarray(FEW.convert("RGB"))),
    "palette with a transparent colour": (
        png_of(header(2, 1, 8, 3), b"\0\0\1", part(b"PLTE", b"\1\2\3\4\5\6"), part(b"tRNS", b"\0")),
        np.array([[[255, 255, 255], [4, 5, 6]]]),
    ),
    "palette with a half transparent colour": (
        png_of(header(1, 1, 8, 3), b"\0\0", part(b"PLTE", b"\0\0\xff"), part(b"tRNS", b"\x80")),
        np.array([[[127, 127, 255]]]),
    ),
    "alpha": (encoded(RGBA), np.asarray(ON_WHITE)),
    "grey with alpha": (encoded(Image.new("LA", (4, 4), (9, 0))), flat(255)),
    "transparent black": (png_of(header(2, 1, 1, 0), b"\0\x40", part(b"tRNS", b"\0\0")), grey(255, 255)),
    "transparent grey of two bits": (
        png_of(header(4, 1, 2, 0), b"\0\x1b", part(b"tRNS", b"\0\2")),
        grey(0, 85, 255, 255),
    ),
    "transparent grey of four bits": (
        png_of(header(2, 1, 4, 0), b"\0\x5a", part(b"tRNS", b"\0\5")),
        grey(255, 170),
    ),
    "transparent grey of eight bits": (
        png_of(header(2, 1, 8, 0), b"\0\5\6", part(b"tRNS", b"\0\5")),
        grey(255, 6),
    ),
    "transparent grey of 16 bits": (
        png_of(header(2, 1, 16, 0), b"\0\x12\x34\x12\x35", part(b"tRNS", b"\x12\x34")),
        grey(255, 0x12),
    ),
    "transparent RGB": (
        png_of(header(2, 1, 8, 2), b"\0\1\2\3\1\2\4", part(b"tRNS", b"\0\1\0\2\0\3")),
        np.array([[[255, 255, 255], [1, 2, 4]]]),
    ),
    "a PNG with bytes behind its end": (PNG + b"more" * 99, PIXELS),
    "a PNG with data behind its rows": (png_of(header(2, 1, 8, 0), b"\0\5\6\0\7\7"), grey(5, 6)),
    "an interlaced PNG": (
        png_of(INTERLACED, PASSES),
        np.concatenate([grey(1, 2, 3), grey(4, 5, 6), grey(7, 8, 9)]),
    ),
    "a black PNG": (encoded(flat(0)), flat(0)),
    "a grey JPEG": (encoded(flat(128), "JPEG"), flat(128)),
    "a JPEG": (JPEG, pillows(JPEG)),
    "a JPEG with bytes behind its end": (JPEG + b"more" * 99, pillows(JPEG)),
    "a JPEG of one channel": (encoded(GREY, "JPEG"), pillows(encoded(GREY, "JPEG"))),
    "a progressive JPEG": (PROGRESSIVE, pillows(PROGRESSIVE)),
    "a JPEG whose colours are not halved": (
        encoded(PIXELS, "JPEG", subsampling=0, quality=90),
        pillows(encoded(PIXELS, "JPEG", subsampling=0, quality=90)),
    ),
    "a JPEG with restarts": (
        encoded(PIXELS, "JPEG", restart_marker_rows=1),
        pillows(encoded(PIXELS, "JPEG", restart_marker_rows=1)),
    ),
    "CMYK of a TIFF": (encoded(CMYK, "TIFF"), np.asarray(CMYK.convert("RGB"))),
    "CMYK of a JPEG, inverted as Adobe does": (
        encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG"),
        flat((255, 0, 0)),
    ),
    "YCCK of a JPEG": (YCCK, pillows(YCCK)),
    "two pictures of a camera": (frames("MPO"), pillows(encoded(PIXELS, "JPEG"))),
    "an animated GIF": (frames("GIF"), pillows(frames("GIF"))),
    "an animated WebP": (frames("WEBP", lossless=True), PIXELS),
    "an animated PNG": (frames("PNG"), PIXELS),
    "a TIFF of three pages": (frames("TIFF"), PIXELS),
    "a WebP": (encoded(PIXELS, "WEBP"), pillows(encoded(PIXELS, "WEBP"))),
    "a WebP without loss": (encoded(PIXELS, "WEBP", lossless=True), PIXELS),
    "a WebP with alpha": (encoded(np.zeros((4, 4, 4), np.uint8), "WEBP", lossless=True), flat(255)),
    "a BMP": (encoded(PIXELS, "BMP"), PIXELS),
    "a PPM": (encoded(PIXELS, "PPM"), PIXELS),
    "a JPEG 2000": (encoded(PIXELS, "JPEG2000"), PIXELS),
    "one pixel": (png_of(header(1, 1), b"\0\1\2\3"), np.array([[[1, 2, 3]]])),
    "one row of 1000 pixels": (encoded(flat(7)[:1, :1].repeat(1000, 1)), flat(7)[:1, :1].repeat(1000, 1)),
    **{f"EXIF orientation {number}": (turned(number), PIXELS) for number in range(1, 9)},
    "EXIF orientation 9": (with_exif(ONE_TAG, b"\x12\1\3\0\1\0\0\0\x09\0\0\0"), pillows(JPEG)),
    "EXIF orientation in letters": (with_exif(ONE_TAG, b"\x12\1\2\0\4\0\0\0six\0"), pillows(JPEG)),
    "EXIF of rubbish": (with_exif(b"rubbish" * 9), pillows(JPEG)),
    "EXIF of nothing": (with_exif(), pillows(JPEG)),
    "EXIF cut short": (with_exif(ONE_TAG, b"\x12\1"), pillows(JPEG)),
    "EXIF that leads to itself": (
        with_exif(ONE_TAG, b"\x69\x87\4\0\1\0\0\0\x08\0\0\0", b"\x08\0\0\0"),
        pillows(JPEG),
    ),
}


@pytest.mark.filterwarnings("ignore:(Corrupt EXIF|Truncated File)")
@pytest.mark.parametrize("kind", READ)
def test_unusual_files_have_their_own_pixels(kind, tmp_path):
    data, pixels = READ[kind]
    path = tmp_path / "fine.png"
    path.write_bytes(data)
    for source in (path, data):
        opened = open_image(source)
        assert opened.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(opened), pixels)


def test_a_note_with_a_wrong_checksum_behind_the_pixels_costs_none():
    note = part(b"tEXt", b"a\0b").replace(b"a\0b", b"a\0c")
    noted = open_image(PNG[:-12] + note + PNG[-12:])
    assert noted.tobytes() == open_image(PNG).tobytes()
