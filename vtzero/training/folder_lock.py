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
from vtzero.parallel.processes import in_all, is_first
from vtzero.terminal import one_line, visible
from vtzero.whole_files import make_folder

NAME = ".lock"
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
        self._made = False

    def acquire(self) -> None:
        """Make the folder if need be; raises ConfigError, in every process, where another run holds it."""
        in_all(self._acquire if is_first() else lambda: None)

    def release(self) -> None:
        """Give it back; a folder that was made for it, and that nothing was written into, goes with it."""
        if self._file is None:
            return
        file, self._file = self._file, None
        with suppress(OSError):  # another start has come in between, or somebody has removed it
            if self._made and [path.name for path in self._folder.iterdir()] == [NAME]:
                (self._folder / NAME).unlink()
                self._folder.rmdir()
        os.close(file)

    def _acquire(self) -> None:
        until, told = time.monotonic() + self._patience, False
        while not self._try():
            holder = self._holder()
            if holder.endswith(_here()) or time.monotonic() > until:
                who, way_out = holder.split(",")[0], "stop it first, or choose another output_dir"
                raise ConfigError(f"{self._folder} is being written by {who}; {way_out}")
            if not told:
                print(f"{visible(self._folder)} is held by {holder}; is it gone?", file=sys.stderr)
            told = True
            time.sleep(1)

    def _try(self) -> bool:
        path, new = self._folder / NAME, not self._folder.exists()
        make_folder(self._folder)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            # Another inode: it was removed with its folder meanwhile.
            if not (_is_locked(file, path) and _is_still(file, path)):
                os.close(file)
                return False
            os.ftruncate(file, 0)
            os.pwrite(file, f"process {os.getpid()}{_here()}\n".encode(), 0)
        except BaseException:
            os.close(file)
            raise
        self._file, self._made = file, new
        return True

    def _holder(self) -> str:
        with suppress(FileNotFoundError):
            return one_line((self._folder / NAME).read_text(errors="replace")) or "another run"
        return "another run"


def _here() -> str:
    """This machine since it was started: a pod that is replaced comes back elsewhere under its old name."""
    started = Path("/proc/sys/kernel/random/boot_id")
    since = f", started as {started.read_text().strip()}" if started.exists() else ""
    return f" on {socket.gethostname()}{since}"


def _is_locked(file: int, path: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        print(f"warning: {visible(path)} cannot be locked; start no second run here", file=sys.stderr)
    return True


def _is_still(file: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), path.stat())
    return False
