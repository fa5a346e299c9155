"""A person's own reward function, in a process of its own, with a time limit and a memory limit.

Whatever it does there (raise, hang, exit, crash, eat memory) costs the call that did it; its process is then
replaced, and with it what the function remembered and what it had started. Knows nothing of scores.
"""

import atexit
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from vtzero.host_memory import memory_beside
from vtzero.terminal import error_line, short_line

START_SECONDS = 120.0
"""For the file's own imports."""
_END_SECONDS = 5.0
"""For a process that has closed its pipe to end."""


class OwnRewardError(Exception):
    """What an own reward did instead of returning; its text says all."""


class OwnRewardTimeoutError(OwnRewardError, TimeoutError):
    """It took longer than it may, or its process could not be replaced: the next call may take as long."""


def reason_of(error: BaseException) -> str:
    """What it says; of errors that are not ours their kind too, and no more than fits a line."""
    return short_line(error) if isinstance(error, OwnRewardError) else error_line(error)


def listed(results: Any) -> list[Any]:
    """The scores that a function returned; raises OwnRewardError where they are no list."""
    if isinstance(results, str | bytes | Mapping) or not hasattr(results, "__len__"):
        raise OwnRewardError(f"returned a {type(results).__name__}, not a list of scores")
    return list(results)


class OwnReward:
    """`file.py:name`, called as the function itself would be. Safe to call from any thread.

    Raises ValueError when the file cannot be executed or has no such function.
    """

    def __init__(self, file: Path, name: str, spec: str, time_limit: float):
        self._command = [str(file), name, spec, str(memory_beside())]
        self._time_limit = time_limit
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        atexit.register(_close, weakref.ref(self))
        self._start()

    def __call__(self, completions: Sequence[str], **columns: Sequence[Any]) -> Any:
        """What the function returns.

        Raises OwnRewardError for what it raised, and when it took too long or its process ended.
        """
        with self._lock:
            kind, value = self._asked((list(completions), columns))
        if kind == "raised":
            raise OwnRewardError(value)
        return value

    def close(self) -> None:
        """End its process; the next call starts another."""
        process, self._process = self._process, None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if process is not None:
            with suppress(ProcessLookupError, PermissionError):  # macOS forbids it where all have ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _asked(self, question: Any) -> tuple[str, Any]:
        connection = self._connection or self._started_again()
        try:
            connection.send(question)
            if connection.poll(self._time_limit):
                answer: tuple[str, Any] = connection.recv()
                return answer
        except (EOFError, OSError):
            raise OwnRewardError(self._end()) from None
        except BaseException:
            self.close()  # its answer to come would be taken for that to the next question
            raise
        self.close()
        raise OwnRewardTimeoutError(f"took longer than {self._time_limit:g} s and was stopped")

    def _started_again(self) -> "Connection[Any, Any]":
        try:
            return self._start()
        except ValueError as error:
            raise OwnRewardTimeoutError(f"could not be started again: {error}") from None

    def _start(self) -> "Connection[Any, Any]":
        own, theirs = Pipe()
        # -P: what lies in the working directory must not be found under the names of other modules.
        program = [sys.executable, "-P", "-m", "vtzero.rewards.own_worker", str(theirs.fileno())]
        # A session of its own, so that what the function starts can be ended with it.
        self._process = subprocess.Popen(
            [*program, *self._command],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self._connection = own
        try:
            if not own.poll(START_SECONDS):
                raise ValueError(f"reward {self._command[2]!r}: was not ready after {START_SECONDS:g} s")
            kind, value = own.recv()
        except EOFError:
            raise ValueError(f"reward {self._command[2]!r}: {self._end()} while it started") from None
        except BaseException:
            self.close()
            raise
        if kind == "refused":
            self.close()
            raise ValueError(value)
        return own

    def _end(self) -> str:
        process = self._process
        assert process is not None
        try:
            code = process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return "its process closed its pipe and was ended"
        finally:
            self.close()
        if code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        return f"its process ended with code {code}"


def _close(own: "weakref.ref[OwnReward]") -> None:
    if (reward := own()) is not None:
        reward.close()
