"""A picture for people of what the model is asked: scenes with their questions, options and right answers.

The same scenes give the same bytes with the same version of Pillow. Knows no model and no prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vtzero.ranges import shown
from vtzero.scenes.blank import IMAGE_SIDE
from vtzero.scenes.dataset import Item, scene_item
from vtzero.whole_files import make_folder, written_whole

MOST = 20
"""Rows, and columns, of a sheet."""

# Pixels. Four columns are 1,600 wide, so that shown at half of that letters are still 13 high.
_SCALE = 4  # each pixel that the model sees is a square of so many
_CELL, _MARGIN, _PADDING = 400, 16, 24
_PICTURE = _SCALE * IMAGE_SIDE
_LETTERS, _LINE = 25, 33
_CAPTION = 48
_GAP = 14
_MARK = 18

_BLACK, _GREY, _GREEN = (25, 25, 25), (105, 105, 105), (0, 105, 62)
_PAPER, _CARD, _LIGHT_GREEN = (236, 236, 236), (255, 255, 255), (217, 240, 227)


@dataclass(frozen=True)
class SheetSettings:
    """A PNG file, and how many scenes it shows below and beside each other.

    Raises ValueError for rows or columns that are not from 1 to 20, and for a name that is not FILE.png.
    """

    path: Path
    rows: int = 3
    columns: int = 4

    def __post_init__(self) -> None:
        for name in ("rows", "columns"):
            if not 1 <= (count := getattr(self, name)) <= MOST:
                raise ValueError(f"a contact sheet has from 1 to {MOST} {name}, not {shown(count)}")
        if self.path.suffix.lower() != ".png":
            raise ValueError(f"{self.path}: a contact sheet is a PNG file; name it FILE.png")


def write_contact_sheet(sheet: SheetSettings, *, seed: int = 0) -> None:
    """Draw the first training items, row by row; the kinds of question take turns.

    Raises NotADirectoryError where there can be no such folder, and FileExistsError where a folder has the
    file's name.
    """
    if sheet.path.is_dir():
        raise FileExistsError(f"{sheet.path} is a folder; name a file for the contact sheet")
    items = [scene_item("train", index, seed) for index in range(sheet.rows * sheet.columns)]
    make_folder(sheet.path.parent)
    with written_whole(sheet.path) as unfinished:
        contact_sheet(items, sheet.columns).save(unfinished, "PNG")


def contact_sheet(items: Sequence[Item], columns: int) -> Image.Image:
    """The items in rows of `columns`; a row is as high as its longest question and options need."""
    rows = [items[start : start + columns] for start in range(0, len(items), columns)]
    heights = [max(map(_height, row)) for row in rows]
    size = (columns * _CELL, _MARGIN + sum(heights) + _MARGIN * len(rows))
    sheet = Image.new("RGB", size, _PAPER)
    top = _MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, item in enumerate(row):
            _paste_card(sheet, item, column * _CELL + _MARGIN // 2, top, height)
        top += height + _MARGIN
    return sheet


def _height(item: Item) -> int:
    lines = len(_wrapped(item.question.text)) + len(item.question.options)
    return _CAPTION + _PICTURE + _GAP + lines * _LINE + 2 * _GAP


def _paste_card(sheet: Image.Image, item: Item, left: int, top: int, height: int) -> None:
    """Caption, picture, question and options below each other."""
    draw, question = ImageDraw.Draw(sheet), item.question
    draw.rounded_rectangle((left, top, left + _CELL - _MARGIN - 1, top + height - 1), 10, _CARD)
    left += _PADDING
    draw.text((left, top + _CAPTION // 2), question.task, _GREY, _font(), anchor="lm")
    picture = Image.fromarray(item.picture).resize((_PICTURE, _PICTURE), Image.Resampling.NEAREST)
    sheet.paste(picture, (left, top + _CAPTION))
    middle = top + _CAPTION + _PICTURE + _GAP + _LINE // 2
    for line in _wrapped(question.text):
        draw.text((left, middle), line, _BLACK, _font(), anchor="lm")
        middle += _LINE
    middle += _GAP
    for option in question.options:
        _draw_option(draw, option, left, middle, right=option == question.answer)
        middle += _LINE


def _draw_option(draw: ImageDraw.ImageDraw, option: str, left: int, middle: int, *, right: bool) -> None:
    """A circle and the option; the right one has a tick in place of the circle, and a ground of its own."""
    text = left + _MARK + 12
    if right:
        ends = (
            left - 8,
            middle - _LINE // 2 + 1,
            text + _font().getlength(option) + 10,
            middle + _LINE // 2 - 1,
        )
        draw.rounded_rectangle(ends, 7, _LIGHT_GREEN)
        tick = [(left, middle), (left + 7, middle + 7), (left + _MARK, middle - 8)]
        draw.line(tick, _GREEN, 4, joint="curve")
    else:
        half = _MARK // 2 - 1
        draw.circle((left + half, middle), half, outline=_GREY, width=2)
    draw.text((text, middle), option, _GREEN if right else _BLACK, _font(), anchor="lm")


def _wrapped(text: str) -> list[str]:
    """Lines that are no wider than a picture, but for a word that is wider alone."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _font().getlength(longer) > _PICTURE:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


@cache
def _font() -> ImageFont.FreeTypeFont:
    """The one that Pillow brings along."""
    font = ImageFont.load_default(_LETTERS)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
