"""What runs on each host of a slice: a run outlives its connection, is followed, and ends when told to."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from fixtures.launching import LAUNCH, wait_until

needs_flock = pytest.mark.skipif(not (shutil.which("flock") and shutil.which("setsid")), reason="Linux only")


class Worker:
    """tpu_worker.sh in a folder of its own."""

    def __init__(self, folder: Path):
        self.folder = folder / "vtzero"
        (self.folder / "launch").mkdir(parents=True)
        shutil.copy(LAUNCH / "tpu_worker.sh", self.folder / "launch")

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        command = ["bash", "vtzero/launch/tpu_worker.sh", *arguments]
        return subprocess.Popen(
            command, cwd=self.folder.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def call(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=20)
        return process.returncode, output

    def wait_for(self, text: str) -> None:
        log = self.folder / "run.log"
        wait_until(lambda: log.exists() and text in log.read_text())


@needs_flock
def test_worker_passes_output_and_exit_code_on(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    assert worker.call("status") == (0, "no run yet\n")
    assert worker.call("run", "bash", "-c", "echo one; exit 3") == (3, "one\n")
    assert worker.call("status") == (0, "ended with exit code 3\none\n")


@needs_flock
def test_worker_follows_a_run_that_outlived_its_connection(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    first = worker.start("run", "bash", "-c", "echo once; until [[ -e go ]]; do sleep 0.05; done; exit 4")
    worker.wait_for("once")
    first.kill()  # as a connection that breaks
    first.wait()
    assert worker.call("status") == (0, "running\nonce\n")
    second = worker.start("run", "echo", "twice")
    time.sleep(0.2)
    (worker.folder / "go").touch()
    output, _ = second.communicate(timeout=20)
    assert (second.returncode, "once" in output, "twice" in output) == (4, True, False)


UNTIL_TOLD = "trap '{}' TERM; echo up; while true; do sleep 0.05; done"


@needs_flock
@pytest.mark.parametrize(
    ("trap", "code", "status"),
    [("exit 75", 130, "75"), ("exit 0", 0, "0"), ("", 130, "unknown")],
    ids=["saves", "is done", "takes no notice"],
)
def test_worker_stop(
    trap: str, code: int, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATIENCE", "1")
    worker = Worker(tmp_path)
    run = worker.start("run", "bash", "-c", UNTIL_TOLD.format(trap))
    worker.wait_for("up")
    assert worker.call("stop") == (0, "")
    run.communicate(timeout=20)
    assert run.returncode == code
    assert worker.call("status")[1].startswith(f"ended with exit code {status}\n")
    assert worker.call("stop") == (0, "")
    assert worker.call("run", "bash", "-c", "exit 75")[0] == 75, "a stop counts for one run"


@needs_flock
def test_worker_says_that_a_run_saved_when_the_machine_was_taken_away(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    run = worker.start("run", "bash", "-c", UNTIL_TOLD.format("exit 75"))
    worker.wait_for("up")
    os.killpg(int((worker.folder / "run.pid").read_text()), signal.SIGTERM)
    run.communicate(timeout=20)
    assert run.returncode == 75


@needs_flock
@pytest.mark.parametrize("given", ["", "/elsewhere"])
def test_worker_keeps_compiled_programs_in_the_share(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    if given:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", given)
    worker = Worker(tmp_path)
    kept = given or f"{worker.folder}/cache/programs"
    assert worker.call("run", "bash", "-c", "echo $JAX_COMPILATION_CACHE_DIR") == (0, f"{kept}\n")
