"""SIGTERM and SIGINT as an exception that cannot get lost. Knows this process alone.

An exception that a handler raises is lost where Python cannot pass it on: in a callback of the garbage
collector, of which jax has one, or a `__del__`. Of 34 runs that were asked to stop as they started, 12 went
on. So it is raised again until it was caught here. While a module is imported nothing is raised: those in C
that run Python, as jaxlib's and torch's do, ended processes by SIGSEGV and SIGABRT where an exception came.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
AGAIN_SECONDS = 0.1


class Signalled(KeyboardInterrupt):
    """A signal asked this process to end.

    Not KeyboardInterrupt itself: where one leaves a text that is run by `exec`, as the making of a dataclass
    is, Python ends its process by SIGINT in the end, although the exception was caught.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


_waiting: int | None = None
"""The signal that came and was not caught yet."""


_end: Callable[[], object] | None = None
"""What ends the process while a module is imported."""


@contextmanager
def heard(end: Callable[[], object] | None = None) -> Iterator[None]:
    """Inside of it both signals raise `Signalled` in the main thread; to be entered there.

    While a module is imported `end` is called instead, which ends the process; without it the import is
    waited for. Python ends with handlers that are gone: what comes then must find no timer of ours.
    """
    global _end
    _end = end
    before = {number: signal.getsignal(number) for number in SIGNALS}
    hear()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        caught()


def hear() -> None:
    """Hear again, after a library has put its own handlers in place.

    A signal that this process was started to ignore, as a shell's background jobs ignore SIGINT, stays so.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, raise_signalled)


def raise_signalled(number: int, frame: FrameType | None) -> None:
    """A handler: raise `Signalled`, and again until `caught`; a second signal ends the process at once."""
    global _waiting
    if number in SIGNALS:
        if _waiting is not None:
            os._exit(128 + number)
        _waiting = number
    elif _waiting is None:  # it was caught meanwhile
        return
    signal.signal(signal.SIGALRM, raise_signalled)
    signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
    if _imports(frame):
        if _end is not None:
            _end()
    elif not _is_handled():
        raise Signalled(_waiting)


def came() -> bool:
    """Whether a signal came that was not caught: what has failed since may have failed for it."""
    return _waiting is not None


def caught() -> None:
    """To be called by what caught `Signalled`, and goes on or ends in order."""
    global _waiting
    _waiting = None
    signal.setitimer(signal.ITIMER_REAL, 0)


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _is_handled() -> bool:
    """Whether the main thread is on its way out already: in the `finally` or `with` that it passes."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, Signalled):
        error = error.__context__
    return error is not None
