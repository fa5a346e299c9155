"""The contact sheet: each scene with its question, the right answer marked; the same seed, the same bytes."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vtzero.scenes.contact_sheet import SheetSettings, contact_sheet, write_contact_sheet
from vtzero.scenes.dataset import scene_item
from vtzero.scenes.questions import FAMILIES

GROUND = (217, 240, 227)  # of the right answer


def items(count, seed=0):
    return [scene_item("train", index, seed) for index in range(count)]


@pytest.fixture
def written(monkeypatch):
    """Every text drawn, with the corner where it starts and where it ends."""
    texts, draw = [], ImageDraw.ImageDraw.text

    def recorded(self, xy, text, fill, font, anchor):
        texts.append((text, xy, xy[0] + font.getlength(text)))
        draw(self, xy, text, fill, font, anchor=anchor)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", recorded)
    return texts


def marked(sheet, x, y):
    """Whether the ground of a right answer is beside a text that starts there."""
    return sheet.getpixel((int(x) - 3, int(y))) == GROUND


def test_every_kind_of_question_is_on_a_sheet(written):
    contact_sheet(items(4), 4)
    assert [text for text, *_ in written if text in FAMILIES] == list(FAMILIES)


def test_each_scene_is_shown_with_all_its_words(written):
    shown = items(12)
    contact_sheet(shown, 4)
    expected = " ".join(
        " ".join((item.question.task, item.question.text, *item.question.options)) for item in shown
    )
    assert " ".join(text for text, *_ in written) == expected


def test_the_right_answer_alone_is_marked(written):
    for item in items(24):
        written.clear()
        sheet = contact_sheet([item], 1)
        options = written[-len(item.question.options) :]
        assert [text for text, (x, y), _ in options if marked(sheet, x, y)] == [item.question.answer]


def test_pictures_are_those_that_the_model_sees():
    sheet = np.asarray(contact_sheet(items(4), 4))
    for index, item in enumerate(items(4)):
        left, top = 400 * index + 8 + 24, 16 + 48
        np.testing.assert_array_equal(sheet[top : top + 336 : 4, left : left + 336 : 4], item.picture)
        np.testing.assert_array_equal(sheet[top + 3 : top + 336 : 4, left + 3 : left + 336 : 4], item.picture)


def test_words_stay_on_their_card(written):
    sheet = contact_sheet(items(80), 4)
    for _, (x, y), end in written:
        assert end <= (x // 400 + 1) * 400 - 8 - 16
        assert y < sheet.height - 16 - 16


def test_lines_do_not_overlap(written):
    for item in items(24):
        written.clear()
        contact_sheet([item], 1)
        assert all(below[1][1] - above[1][1] >= 33 for above, below in pairwise(written))


def test_letters_are_legible_at_800_pixels(written):
    """The height of a capital, when a sheet of four columns is shown 800 wide."""
    sheet = contact_sheet(items(4), 4)
    (x, y) = next(corner for text, corner, _ in written if text == "Distance")
    ink = np.asarray(sheet.convert("L").crop((int(x), int(y) - 16, int(x) + 16, int(y) + 16))) < 200
    rows = np.flatnonzero(ink.any(axis=1))
    assert sheet.width == 1600
    assert (rows[-1] - rows[0] + 1) / 2 >= 8


def test_a_sheet_has_rows_and_columns(tmp_path):
    path = tmp_path / "new" / "sheet.PNG"
    write_contact_sheet(SheetSettings(path, rows=2, columns=3))
    whole = Image.open(path)
    assert whole.format == "PNG"
    assert whole.width == 1200
    assert np.array_equal(np.asarray(whole), np.asarray(contact_sheet(items(6), 3)))
    assert [file.name for file in path.parent.iterdir()] == ["sheet.PNG"]


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    first, second, other = (tmp_path / f"{name}.png" for name in ("first", "second", "other"))
    for path, seed in ((first, 3), (second, 3), (other, 4)):
        write_contact_sheet(SheetSettings(path, rows=1, columns=4), seed=seed)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes() != other.read_bytes()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"rows": 0}, "from 1 to 20 rows, not 0"),
        ({"columns": -1}, "from 1 to 20 columns, not -1"),
        ({"columns": 21}, "from 1 to 20 columns, not 21"),
        ({"rows": 10**5000}, "from 1 to 20 rows, not a number of thousands of digits"),
        ({"path": Path("sheet.jpg")}, "sheet.jpg: a contact sheet is a PNG file; name it FILE.png"),
        ({"path": Path("png")}, "name it FILE.png"),
    ],
    ids=["no row", "fewer", "too many", "a huge number", "another kind", "no kind"],
)
def test_a_sheet_that_cannot_be_is_refused(asked, words):
    with pytest.raises(ValueError, match=words):
        SheetSettings(**{"path": Path("sheet.png"), **asked})


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path):
    (tmp_path / "sheet.png").mkdir()
    with pytest.raises(FileExistsError, match="is a folder; name a file"):
        write_contact_sheet(SheetSettings(tmp_path / "sheet.png"))
