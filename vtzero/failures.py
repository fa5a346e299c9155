"""How a verb failed, in one line and an exit code. Knows errors alone, and nothing of what was done."""

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vtzero.signals import Signalled
from vtzero.terminal import one_line

DONE, FAILED, MISTAKE, GOES_ON, INTERRUPTED = 0, 1, 2, 75, 130
"""75 is EX_TEMPFAIL of sysexits.h: the same command goes on."""

_MISTAKES = (FileNotFoundError, FileExistsError, NotADirectoryError, ValueError)
_LONGEST_REASON = 200
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class RunFailedError(Exception):
    """Nothing is wrong with vtzero or with what was asked; the message says all."""


def described(error: Exception) -> tuple[int, str | None]:
    """The exit code, and one line; without one only the traceback says what happened."""
    line = one_line(error)
    if isinstance(error, RunFailedError | ChildProcessError):
        return FAILED, line
    if isinstance(error, _MISTAKES) and _raised_here(error):
        return MISTAKE, line
    if isinstance(error, PermissionError) and error.filename is not None:
        return MISTAKE, one_line(f"{error.filename}: {error.strerror}")
    if (full := full_disk(error)) is not None:
        return FAILED, f"cannot write ({full})"
    if (broken := _broken_connection(error)) is not None:
        return FAILED, f"another process of this job is gone ({broken}); its own output says why"
    return FAILED, None


def _broken_connection(error: BaseException) -> str | None:
    """What a collective of CPUs says when a process at the other end of it has ended."""
    for one in _chain(error):
        said = one_line(one)
        if "Gloo" in said and any(way in said for way in ("reset by peer", "closed by peer", "Broken pipe")):
            return said[:_LONGEST_REASON]
    return None


def report_unraised(unraised: Any) -> None:
    """For `sys.unraisablehook`: Python's own, but for what follows from an error that is raised anyway.

    Once one write of a checkpoint has failed, tensorstore prints a traceback for each other one under way,
    since nobody waits for it any more. A signal that is lost in a callback is raised again.
    """
    expected = isinstance(unraised.exc_value, Signalled) or str(unraised.exc_value) == "Event loop is closed"
    if not expected:
        sys.__unraisablehook__(unraised)


def full_disk(error: BaseException) -> str | None:
    """The file, where it is known, and what the system said that could not store it.

    Orbax' own writers pass the system's words on in errors of other kinds.
    """
    for one in _chain(error):
        for number in _OF_THE_DISK:
            if getattr(one, "errno", None) == number or os.strerror(number) in str(one):
                name = getattr(one, "filename", None)
                return os.strerror(number) if name is None else f"{name}: {os.strerror(number)}"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _raised_here(error: BaseException) -> bool:
    """Whether vtzero itself raised it: one line then says all. From a library it is a failure of ours."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return Path(last.filename).is_relative_to(Path(__file__).parent)
