"""Files of a cache that several processes share: each appears whole or not at all.

Knows nothing of what is in them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def cached_whole(path: Path) -> Iterator[Path]:
    """A new file beside `path` to write, which takes that name at the end, and is removed after a failure.

    Several may write one `path` at once, each into a file of its own; the first to end stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process's number: in containers that share a folder every process is number 1.
    unfinished = path.parent / f".{uuid4().hex}{path.suffix}"
    try:
        yield unfinished
        # Another's may be open already, and on NFS a file that is replaced can no longer be read.
        if not path.is_file():
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
