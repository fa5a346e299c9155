"""Files that are there whole or not at all, whenever the process that writes them is killed.

Knows nothing of what is in them.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def unfinished_name(path: Path) -> Path:
    """Where a file is written; one that a killed process left there is written over."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A new file beside `path` to write, which takes its place at the end, and is removed after a failure.

    One process at a time may write a path.
    """
    unfinished = unfinished_name(path)
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file, UTF-8, in the place of one that may be there."""
    with written_whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where it is not there yet.

    Raises NotADirectoryError, in one line that says why, where it cannot be one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise NotADirectoryError(f"{folder}: no folder can be made there ({error.strerror})") from error
