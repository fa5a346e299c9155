"""The checksums of a folder's files, written when all of it is there and compared before it is used.

Knows files only. A folder without its seal was never finished; one that differs from it is damaged.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vtzero.terminal import one_line
from vtzero.whole_files import unfinished_name, written_whole

SEAL = "checksums.json"
_READERS = 4


def seal(folder: Path) -> None:
    """Write size and SHA-256 of every file below `folder` into its `checksums.json`, as a last act.

    Raises OSError as reading and writing do.
    """
    with written_whole(folder / SEAL) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        json.dump(_entries(folder), file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def is_sealed(folder: Path) -> bool:
    """Whether all of the folder was written."""
    return (folder / SEAL).is_file()


def unseal(folder: Path) -> None:
    """What is done to a folder before its files go one by one."""
    (folder / SEAL).unlink(missing_ok=True)


def damage(folder: Path) -> str | None:
    """The first thing wrong with a sealed folder, in a few words; None when its files are as written."""
    try:
        written = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        found = _entries(folder)
    except (OSError, ValueError) as error:
        return f"{SEAL} cannot be read ({one_line(error)})"
    if not isinstance(written, dict):
        return f"{SEAL} is no table of files"
    for name in sorted(written.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in written:
            return f"{name} was not there when it was written"
        if written[name] != found[name]:
            return f"{name} is not as it was written"
    return None


def _entries(folder: Path) -> dict[str, dict[str, Any]]:
    hidden = {folder / SEAL, unfinished_name(folder / SEAL)}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path not in hidden)
    with ThreadPoolExecutor(_READERS, thread_name_prefix="checksums") as pool:
        names = [path.relative_to(folder).as_posix() for path in files]
        return dict(zip(names, pool.map(_entry, files), strict=True))


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}
