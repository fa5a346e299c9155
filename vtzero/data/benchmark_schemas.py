"""What the columns of the test sets mean that no training set shares: VSR, AIME 2024.

Columns as published: cambridgeltl/vsr_random, HuggingFaceH4/aime_2024. Knows no file formats.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from vtzero.data.example import Example
from vtzero.data.image_links import link_folder
from vtzero.data.image_paths import ImageFolders
from vtzero.data.rows import Row, RowError
from vtzero.data.schemas import OWN, Place, Schema

COCO_FOLDERS = ("", "train2017", "val2017")
"""Where below a COCO folder an image may lie; VSR draws from both splits of 2017."""


def coco_image(name: str, folder: Path) -> Path | None:
    """The file of that name in a COCO folder or below it; None where there is none."""
    own, paths = ImageFolders(folder), [folder / part / name for part in COCO_FOLDERS]
    return next((path for path in paths if os.path.isfile(path) and own.may_hold(path)), None)


_STATEMENTS = ("True", "False")
_VSR_QUESTION = (
    'Please analyze the provided image. Does the statement "{caption}" accurately describes what you see?'
)
_IMAGE_WAY_OUT = "--image-folder DIR with COCO's train2017 and val2017, or --fetch-images"


def _read_vsr(row: Row, place: Place) -> Example:
    """A caption that is true of its image or not, in the words of the paper's evaluation.

    Source: xirui-li/VisualThinker-R1-Zero-Development, `src/eval`.
    """
    caption, label = _present(row, "caption"), row.get("label")
    if label not in (0, 1):
        raise RowError(f"the label is {label!r}; 1 is true, 0 is false")
    asked = _VSR_QUESTION.replace("{caption}", caption)
    own = {
        "question": asked,
        "options": list(_STATEMENTS),
        "answer": _STATEMENTS[0] if label else _STATEMENTS[1],
        "task": row.get("relation"),
    }
    images = (_found(_present(row, "image"), place.folders.own.absolute()),)
    lettered = {"prompt": f"{asked} Choose from (A) True or (B) False.", "choices": list(_STATEMENTS)}
    return replace(OWN.read(own, place), images=images, columns={**row, **lettered})


def _found(name: str, folder: Path) -> Path:
    path = coco_image(name, folder) or coco_image(name, link_folder().absolute())
    if path is None:
        searched = ", ".join(str(folder / part) for part in COCO_FOLDERS)
        raise RowError(f"the image {name} is in none of {searched} (give {_IMAGE_WAY_OUT})")
    return path


def _read_aime(row: Row, place: Place) -> Example:
    own = {"id": row.get("id"), "question": _present(row, "problem"), "answer": row.get("answer")}
    return replace(OWN.read(own, place), columns=dict(row))


def _present(row: Row, name: str) -> str:
    value: Any = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"{name} is missing")
    return value


VSR = Schema("VSR", ("image", "caption", "label"), _read_vsr)
AIME24 = Schema("AIME 2024", ("problem", "answer"), _read_aime)
