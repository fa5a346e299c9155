#!/usr/bin/env python3
"""N processes of one command on this machine's CPU, connected as the hosts of a pod are.

    python launch/local.py 2 --devices 4 -- vtzero train configs/tiny.yaml --distributed

Every process gets the environment that `--distributed` reads, and as many virtual CPU devices as --devices
says. Process 0 writes to the terminal, each other to a file. When one fails, all are ended, and the exit code
is its own. SIGINT and SIGTERM are passed on; after SIGTERM they have time to save, and end with exit code 75,
as this then does, where the same command goes on. It needs nothing beyond Python: no jax, no vtzero.
"""

import argparse
import contextlib
import ctypes
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

PATIENCE = 5.0  # seconds between a signal and the next, harder one
SAVING = 300.0  # seconds after SIGTERM: a phase of a step, and writing, must end within
GOES_ON = 75  # the exit code of a run that saved
LOOK_EVERY = 0.05  # seconds


def main(arguments: list[str]) -> int:
    """Launch, wait, and return the exit code."""
    asked, command = _parse(arguments)
    port = asked.port or _free_port()
    environments = [_environment(number, asked, port) for number in range(asked.processes)]
    if asked.dry_run:
        for environment in environments:
            print(
                " ".join(f"{key}={shlex.quote(value)}" for key, value in environment.items()),
                shlex.join(command),
            )
        return 0
    logs = asked.logs or Path(tempfile.mkdtemp(prefix="vtzero-local-"))
    return _Group(command, environments, logs, asked.wait_others).wait()


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    own, command = arguments, []
    if "--" in arguments:
        at = arguments.index("--")
        own, command = arguments[:at], arguments[at + 1 :]
    parser = argparse.ArgumentParser(
        "local.py", usage="local.py N [flags] -- COMMAND ...", allow_abbrev=False
    )
    parser.add_argument("processes", type=_positive, metavar="N", help="processes")
    parser.add_argument("--devices", type=_positive, help="virtual CPU devices of each (default: one)")
    parser.add_argument("--port", type=_positive, help="of the coordinator (default: one that is free)")
    parser.add_argument(
        "--logs", type=Path, help="folder for the output of processes 1 and on (default: a new one)"
    )
    parser.add_argument(
        "--wait-others",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="after a failure, let the others end by themselves for so long (default: 0)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    asked = parser.parse_args(own)
    if not command:
        parser.error("wants the command after --, such as: -- vtzero train configs/tiny.yaml --distributed")
    return asked, command


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: a whole number from 1")
    return int(text)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
    return port


def _environment(number: int, asked: argparse.Namespace, port: int) -> dict[str, str]:
    """What differs from this process's own environment."""
    address = f"127.0.0.1:{port}"
    environment = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COORDINATOR_ADDRESS": address,
        # Else it listens on every network of the machine.
        "JAX_COORDINATOR_BIND_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(asked.processes),
        "JAX_PROCESS_ID": str(number),
    }
    if asked.devices:
        environment["XLA_FLAGS"] = _flags(asked.devices)
    return environment


def _flags(devices: int) -> str:
    name = "--xla_force_host_platform_device_count"
    others = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(f"{name}=")]
    return " ".join([*others, f"{name}={devices}"])


class _Group:
    """The processes: started together, ended together."""

    def __init__(
        self, command: list[str], environments: list[dict[str, str]], logs: Path, wait_others: float
    ):
        self._wait_others = wait_others
        self._signal: int | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        self._logs = {number: logs / f"process-{number}.log" for number in range(1, len(environments))}
        # Before the first start, so that no signal can leave a process behind.
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, self._forward)
        logs.mkdir(parents=True, exist_ok=True)
        if self._logs:
            _say(f"output of processes 1 to {len(self._logs)}: {logs}/process-N.log")
        for number, environment in enumerate(environments):
            if self._signal is None:
                self._processes.append(self._start(number, command, environment))

    def _start(self, number: int, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        path = self._logs.get(number)
        with path.open("wb") if path else contextlib.nullcontext() as output:
            try:
                # A session of its own: a signal to it reaches what the process started too.
                return subprocess.Popen(
                    command,
                    env={**os.environ, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT if path else None,
                    start_new_session=True,
                    preexec_fn=_end_with_parent if sys.platform == "linux" else None,
                )
            except OSError as error:
                self._end()
                _say(f"cannot start {command[0]}: {error.strerror}")
                raise SystemExit(2) from None

    def _forward(self, number: int, _: FrameType | None) -> None:
        self._signal = number
        self._send(number)

    def wait(self) -> int:
        """Until all have ended well, or one has not."""
        while self._signal is None:
            codes = [process.poll() for process in self._processes]
            failed = [number for number, code in enumerate(codes) if code]
            if failed:
                return self._failed(failed)
            if all(code == 0 for code in codes):
                return 0
            time.sleep(LOOK_EVERY)
        _say(f"{signal.Signals(self._signal).name}: ending all processes")
        self._wait_for_all(SAVING if self._signal == signal.SIGTERM else PATIENCE)
        self._end()
        saved = {process.returncode for process in self._processes} == {GOES_ON}
        return GOES_ON if saved else 128 + self._signal

    def _failed(self, failed: list[int]) -> int:
        for number in failed:
            _say(f"process {number} {_reason(self._processes[number].returncode)}; ending the others")
            if number in self._logs:
                _show_end(self._logs[number])
        code: int = self._processes[failed[0]].returncode
        # One that saved was told to by itself, and the others save with it.
        self._wait_for_all(SAVING if code == GOES_ON else self._wait_others)
        self._end()
        return code if code > 0 else 128 - code

    def _end(self) -> None:
        """SIGTERM, then SIGKILL: jax catches the first to announce a preemption, and may not end of it."""
        self._send(signal.SIGTERM)
        self._wait_for_all(PATIENCE)
        self._send(signal.SIGKILL)
        for process in self._processes:
            process.wait()

    def _wait_for_all(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and any(process.poll() is None for process in self._processes):
            time.sleep(LOOK_EVERY)

    def _send(self, number: int) -> None:
        for process in self._processes:
            # The group may outlive the process that gave it its number, and may be gone.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)


def _end_with_parent() -> None:
    """Linux: the process is killed when this launcher is, so that none goes on alone."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _reason(code: int) -> str:
    return f"ended with exit code {code}" if code > 0 else f"was killed by {signal.Signals(-code).name}"


def _show_end(log: Path, lines: int = 20) -> None:
    for line in log.read_text(errors="replace").splitlines()[-lines:]:
        print(f"  {line}", file=sys.stderr)


def _say(line: str) -> None:
    print(f"local.py: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
