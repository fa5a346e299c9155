"""math-verify in a process of its own, with a time limit that holds from any thread and for any input.

math-verify limits its time with SIGALRM, which only the main thread may set and which cannot stop code
outside Python; and it scores what ran out of time as wrong. Here a comparison that takes too long costs its
process, which is replaced, and is an error that says so. One that would take more memory than a process
beside the run may is unequal, as is whatever raises an error in math-verify. It knows nothing of rewards.
"""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vtzero.host_memory import memory_beside

TIME_LIMIT_SECONDS = 10.0  # for both texts of a comparison; math-verify itself gives each of its calls 5
START_SECONDS = 120.0  # sympy, from a disk that is slow or shared
_PROGRAM = Path(__file__).with_name("symbolic_worker.py")
_READY = "ready\n"


class SymbolicError(RuntimeError):
    """A comparison has no result, because math-verify's process ended."""


class SymbolicTimeoutError(SymbolicError):
    """A comparison has no result, because it took longer than the time limit."""


class SymbolicStartError(SymbolicError, TimeoutError):
    """math-verify's process was not ready in time: the next call may take as long."""


@dataclass(frozen=True)
class Comparison:
    """Two texts, whose last expressions are to be equal; math-verify's order matters: `gold`, then `target`.

    A tuple as `gold` holds strings that stand for themselves. `strings` are found in texts like expressions.
    """

    gold: str | tuple[str, ...]
    target: str
    strings: tuple[str, ...] = ()


def equal(gold: str | tuple[str, ...], target: str, *, strings: tuple[str, ...] = ()) -> bool:
    """Whether math-verify finds two texts equal; see `Comparison`. A text without an expression equals none.

    Raises SymbolicError, or its kind SymbolicTimeoutError, when it cannot be told.
    """
    (result,) = compare([Comparison(gold, target, strings)])
    if isinstance(result, SymbolicError):
        raise result
    return result


def compare(comparisons: Sequence[Comparison]) -> list[bool | SymbolicError]:
    """`equal` for many at once, each within `TIME_LIMIT_SECONDS`; where it would raise, the error.

    Safe to call from any thread; calls wait for each other. Raises SymbolicError when math-verify's process
    cannot be started.
    """
    return _worker.compare(comparisons, TIME_LIMIT_SECONDS)


class _Worker:
    """One process, started when it is first needed and replaced when it ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def compare(self, comparisons: Sequence[Comparison], time_limit: float) -> list[bool | SymbolicError]:
        results: list[bool | SymbolicError] = []
        with self._lock:
            while len(results) < len(comparisons):
                waiting = comparisons[len(results) :]
                results += self._ask(waiting, time_limit)
                if len(results) < len(comparisons):
                    results.append(self._bury(time_limit))
        return results

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()  # closes its pipes and waits

    def _ask(self, comparisons: Sequence[Comparison], time_limit: float) -> list[bool]:
        """The results up to the one, if any, that ended the process."""
        process = self._process or self._start()
        request = [time_limit, [[one.gold, one.target, one.strings] for one in comparisons]]
        try:
            return list(_exchange(process, json.dumps(request), len(comparisons)))
        except BaseException:
            self.close()  # interrupted: its answers to come would be taken for those to the next question
            raise

    def _start(self) -> subprocess.Popen[str]:
        # -P: what lies beside the program must not be found under the names of other modules.
        command = [sys.executable, "-P", str(_PROGRAM), str(memory_beside())]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, encoding="utf-8")
        self._process = process
        try:
            started = self._says_ready(process)
        except BaseException:
            self.close()
            raise
        if not started:
            code = process.wait()
            self.close()
            raise SymbolicError(
                f"math-verify's process did not start: exit code {code}, for a reason printed above"
            )
        return process

    def _says_ready(self, process: subprocess.Popen[str]) -> bool:
        answers = _pipe(process.stdout)
        ready = select.poll()  # select knows no file beyond the 1,024th
        ready.register(answers)
        if not ready.poll(1000 * START_SECONDS):
            raise SymbolicStartError(f"math-verify's process was not ready after {START_SECONDS:g} s")
        return answers.readline() == _READY

    def _bury(self, time_limit: float) -> SymbolicError:
        """Why the process ended."""
        assert self._process is not None
        code = self._process.wait()
        self.close()
        if code == -signal.SIGALRM:
            return SymbolicTimeoutError(f"math-verify took longer than {time_limit:g} s and was stopped")
        return SymbolicError(f"math-verify's process ended with code {code}")


def _exchange(process: subprocess.Popen[str], request: str, count: int) -> Iterator[bool]:
    try:
        print(request, file=_pipe(process.stdin), flush=True)
    except BrokenPipeError:
        return
    for _ in range(count):
        answer = _pipe(process.stdout).readline()
        if not answer.endswith("\n"):
            return
        yield json.loads(answer)


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None  # both were asked for
    return stream


def _forget_in_child() -> None:
    """A forked child must not speak to its parent's process."""
    global _worker
    _worker = _Worker()


_worker = _Worker()
atexit.register(lambda: _worker.close())
os.register_at_fork(after_in_child=_forget_in_child)
