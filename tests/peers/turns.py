"""Two programs that take turns: a worker runs one step when told to, and is stopped in between.

Between its turns a worker's process is stopped by signal, with all its threads: no thread pool spins and no
data are prepared while the other side is timed, and what a worker prepares ahead is paid for in its own turn.
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
        """Let the worker run one step; what it says about it, and how many cores other programs took."""
        assert self._process.stdin is not None
        busy, began = busy_seconds(), time.perf_counter()
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        answer = self._answer()
        wall, elsewhere = time.perf_counter() - began, busy_seconds() - busy - answer["cpu_seconds"]
        return answer | {"cores_taken_by_others": max(elsewhere, 0.0) / wall}

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._file.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"a worker ended; the last of what it printed:\n{self._log.read_text()[-4000:]}"
            )
        self._process.send_signal(signal.SIGSTOP)
        return json.loads(line)


def busy_seconds() -> float:
    """Processor time that the cores of this process have spent on anything, since the machine started."""
    cores = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    lines = (line.split() for line in Path("/proc/stat").read_text().splitlines())
    # Not fields 4 and 5, which are idle, and 9 and 10, which are counted in 1 and 2; 8 is what other virtual
    # machines took.
    ticks = sum(sum(map(int, line[1:4] + line[6:9])) for line in lines if line[0] in cores)
    return ticks / os.sysconf("SC_CLK_TCK")


class Turns:
    """A worker's side. Times its steps from the moment it may go on until `done`."""

    def __init__(self) -> None:
        self._began, self._cpu = time.perf_counter(), time.process_time()
        # What libraries print goes to the log; the answers keep the pipe to themselves.
        self._pipe = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def wait(self) -> None:
        """Until the next turn; the process ends when there is none."""
        if not sys.stdin.readline():
            sys.exit()
        self._began, self._cpu = time.perf_counter(), time.process_time()

    def done(self, **figures: Any) -> None:
        """Answer with what the turn took, by the clock and of the processors, peak memory, and `figures`."""
        seconds, cpu = time.perf_counter() - self._began, time.process_time() - self._cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        measured = {"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak}
        self._pipe.write(json.dumps(measured | figures) + "\n")
        self._pipe.flush()
