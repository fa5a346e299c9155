"""Which files of this machine the rows of a data set may name as images.

A data set can come from anyone, and what it shows is written into completions and reports: it names no file
outside the folder that it lies in, unless the person who runs it allows that folder. Knows no columns.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ImageFolders:
    """The folder that the rows' paths start from, and those beside it that they may lead into."""

    own: Path
    allowed: tuple[Path, ...] = ()

    def may_hold(self, path: Path) -> bool:
        """Whether a path leads into one of them, as it is written: links may lead on."""
        whole = Path(os.path.abspath(path))
        return any(whole.is_relative_to(os.path.abspath(each)) for each in (self.own, *self.allowed))

    def way_in(self) -> str:
        """What to do about an image that may not be read."""
        return (
            f"outside {self.own}; link its folder there, or name it in image_folders (eval: --image-folder)"
        )


def existing_folders(names: Sequence[str]) -> tuple[Path, ...]:
    """The folders of those names; raises ValueError where there is none."""
    for name in names:
        if not Path(name).is_dir():
            raise ValueError(f"image_folders: there is no folder {name}")
    return tuple(map(Path, names))
