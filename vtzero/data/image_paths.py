"""Which files of this machine the rows of a data set may name as images.

A data set can come from anyone, and what it shows is written into completions and reports: it names no file
outside the folder that it lies in, unless the person who runs it allows that folder. Knows no columns.
"""

import os
from pathlib import Path

FOLDERS = "VTZERO_IMAGE_FOLDERS"
"""The environment variable with further folders, separated as in PATH."""


def may_be_read(path: Path, folder: Path) -> bool:
    """Whether a path leads into `folder`, or into one of `FOLDERS`, as it is written: links may lead on."""
    further = [Path(each) for each in os.environ.get(FOLDERS, "").split(os.pathsep) if each]
    whole = Path(os.path.abspath(path))
    return any(whole.is_relative_to(os.path.abspath(each)) for each in (folder, *further))


def way_in(folder: Path) -> str:
    """What to do about an image that may not be read."""
    return f"outside {folder}; link its folder there, or name it in {FOLDERS}"
