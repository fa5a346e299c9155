"""Two runs cannot write one folder, and a run that is gone holds none."""

import os
import signal
import subprocess
import sys

import pytest

from vtzero.config import ConfigError
from vtzero.training.folder_lock import NAME, FolderLock

HOLDS = """
import sys, time
from pathlib import Path
from vtzero.training.folder_lock import FolderLock
FolderLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_start_is_told_who_writes_there(tmp_path, holder):
    with pytest.raises(ConfigError, match=f"is being written by process {holder.pid} on .*; stop it first"):
        FolderLock(tmp_path).acquire()


def test_a_killed_run_holds_nothing(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    lock = FolderLock(tmp_path)
    lock.acquire()
    assert f"process {os.getpid()} " in (tmp_path / NAME).read_text()
    lock.release()


def test_a_holder_on_another_machine_is_waited_for_a_while(tmp_path, holder, capsys):
    (tmp_path / NAME).write_text("process 1 on elsewhere\n")
    with pytest.raises(ConfigError, match="process 1 on elsewhere"):
        FolderLock(tmp_path, patience=1.5).acquire()
    assert capsys.readouterr().err == f"{tmp_path} is held by process 1 on elsewhere; is it gone?\n"


def test_a_folder_that_nothing_was_written_into_goes_with_its_lock(tmp_path):
    lock = FolderLock(tmp_path / "run")
    lock.acquire()
    lock.release()
    assert not (tmp_path / "run").exists()
    lock.acquire()
    (tmp_path / "run" / "config.yaml").touch()
    lock.release()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {NAME, "config.yaml"}
