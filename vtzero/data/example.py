"""One question as every source gives it: text, images, answer. Knows no tokenizer and no file format."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from vtzero.terminal import short_line

ImageSource = Image.Image | bytes | Path
"""A decoded image, the bytes of an image file, or the path of one; nothing is decoded before it is needed."""


@dataclass(frozen=True)
class Example:
    """A question about images, and its answer.

    `answer` is the text that a completion should give; where there are `options` it is one of them.
    `task` names the kind of question. `columns` holds the row as it was stored, without its images,
    for rewards and reports that want more.
    """

    id: str
    question: str
    answer: str
    images: tuple[ImageSource, ...] = ()
    options: tuple[str, ...] = ()
    task: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rejected:
    """A row that was set aside, and why; both are made one line, since they may quote the row."""

    id: str
    reason: str

    def __post_init__(self) -> None:
        for name in ("id", "reason"):
            object.__setattr__(self, name, short_line(getattr(self, name)))
