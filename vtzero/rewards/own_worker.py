"""The process in which an own reward function runs: answers each call with what it returned, or raised.

Started by `own.py` in a session of its own, with: the number of its pipe, the file, the function's name, the
specification and a limit in bytes. Knows nothing of who asks.
"""

import ctypes
import os
import resource
import signal
import sys
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from vtzero.rewards.own import OwnRewardError, listed, reason_of
from vtzero.rewards.registry import RewardFunction, own_function

_WHEN_PARENT_DIES = 1  # PR_SET_PDEATHSIG
_IT_DIED = signal.SIGUSR1


def main() -> None:
    """Load the function, then answer until the pipe ends."""
    pipe, file, name, spec, memory = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a wish to stop is for the process that asks
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_WHEN_PARENT_DIES, signal.SIGKILL)
        _start_guard(int(pipe))
        resource.setrlimit(resource.RLIMIT_DATA, (int(memory), int(memory)))
    connection: Connection[Any, Any] = Connection(int(pipe))
    try:
        function = own_function(Path(file), name, spec)
    except ValueError as error:
        connection.send(("refused", str(error)))
        return
    connection.send(("ready", None))
    while True:
        try:
            completions, columns = connection.recv()
        except EOFError:
            return
        _answer(connection, function, completions, columns)


def _start_guard(pipe: int) -> None:
    """A process that ends all of this session as soon as this one has ended, whatever ended it.

    What the function has started, such as a compiler that hangs, would outlive a run that was killed.
    """
    worker = os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy has threads; the guard needs none
        if os.fork():
            return
    os.close(pipe)  # or its end would not be seen
    signal.pthread_sigmask(signal.SIG_BLOCK, [_IT_DIED])
    ctypes.CDLL(None).prctl(_WHEN_PARENT_DIES, _IT_DIED)
    while os.getppid() == worker:  # others may send that signal too
        signal.sigwait([_IT_DIED])
    os.killpg(0, signal.SIGKILL)


def _answer(connection: Any, function: RewardFunction, completions: list[str], columns: Any) -> None:
    try:
        connection.send(("returned", [_plain(result) for result in listed(function(completions, **columns))]))
    except (Exception, SystemExit) as error:
        connection.send(("raised", reason_of(error)))


def _plain(result: Any) -> Any:
    """A score in a type that the other side knows: it may have no torch."""
    if isinstance(result, Exception):
        return OwnRewardError(reason_of(result))
    value = result.item() if getattr(result, "ndim", None) == 0 else result
    if value is None or isinstance(value, bool | int | float):
        return value
    return OwnRewardError(f"returned a {type(value).__name__} as score, not a finite number or None")


if __name__ == "__main__":
    main()
