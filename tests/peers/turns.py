"""Two programs that take turns: a worker runs one step when told to, and is stopped in between.

Between its turns a worker's process is stopped by signal, with all its threads: no thread pool spins and no
data are prepared while the other side is timed, and what a worker prepares ahead is paid for in its own turns.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Worker:
    """The other end of a `Turns`: a module run as a process."""

    def __init__(self, module: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str]):
        self._log, self._file = log, log.open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._file,
            text=True,
            env=os.environ | dict(environment),
        )
        self.ready = self._answer()

    def turn(self) -> dict[str, Any]:
        """Let the worker run one step; what it says about it."""
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._file.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended; the last of what it printed:\n{self._log.read_text()[-4000:]}")
        self._process.send_signal(signal.SIGSTOP)
        return json.loads(line)


class Turns:
    """A worker's side. Times its steps from the moment it may go on until `done`."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        # What libraries print goes to the log; the answers keep the pipe to themselves.
        self._pipe = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def wait(self) -> None:
        """Until the next turn; the process ends when there is none."""
        if not sys.stdin.readline():
            sys.exit()
        self._began = time.perf_counter()

    def done(self, **figures: Any) -> None:
        """Answer with the seconds since the turn began, the process's peak memory, and `figures`."""
        seconds = time.perf_counter() - self._began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self._pipe.write(json.dumps({"seconds": seconds, "peak_bytes": peak, **figures}) + "\n")
        self._pipe.flush()
