"""One run a folder: a second start over it would rename what the first is writing. Knows files alone."""

import errno
import fcntl
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from vtzero.config import ConfigError
from vtzero.parallel.messages import ask_first
from vtzero.terminal import one_line, visible

NAME = ".lock"
_HERE = f" on {socket.gethostname()}"
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
_LEASE = 120.0
"""Seconds: a file server forgets what a machine held that is gone, NFS 4 after its lease of 90."""


class FolderLock:
    """While it is held no other start can hold it, on any machine that sees the folder's locks.

    The kernel gives it back when the process ends, however that is. The first process of a job holds it.
    """

    def __init__(self, folder: Path, *, patience: float = _LEASE) -> None:
        """`patience`: seconds to wait for a holder on another machine, which may be gone."""
        self._folder, self._patience = folder, patience
        self._file: int | None = None

    def acquire(self) -> None:
        """Make the folder if need be; raises ConfigError, in every process, where another run holds it."""
        ask_first(self._acquire)

    def release(self) -> None:
        """Give it back; a folder that nothing was written into goes with it."""
        if self._file is None:
            return
        file, self._file = self._file, None
        if [path.name for path in self._folder.iterdir()] == [NAME]:
            (self._folder / NAME).unlink()
            self._folder.rmdir()
        os.close(file)

    def _acquire(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        until, told = time.monotonic() + self._patience, False
        while not self._try():
            holder = self._holder()
            if holder.endswith(_HERE) or time.monotonic() > until:
                way_out = "stop it first, or choose another output_dir"
                raise ConfigError(f"{self._folder} is being written by {holder}; {way_out}")
            if not told:
                print(f"{visible(self._folder)} is held by {holder}; is it gone?", file=sys.stderr)
            told = True
            time.sleep(1)

    def _try(self) -> bool:
        path = self._folder / NAME
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                os.close(file)
                raise
            print(f"warning: {visible(path)} cannot be locked; start no second run here", file=sys.stderr)
        if not _is_still(file, path):  # it was removed with its folder, and is another one now
            os.close(file)
            return False
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()}{_HERE}\n".encode(), 0)
        self._file = file
        return True

    def _holder(self) -> str:
        with suppress(FileNotFoundError):
            return one_line((self._folder / NAME).read_text(errors="replace")) or "another run"
        return "another run"


def _is_still(file: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), path.stat())
    return False
