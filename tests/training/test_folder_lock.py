"""Two runs cannot write one folder, and a run that is gone holds none."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

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


def test_a_machine_that_was_started_again_is_another(tmp_path, holder, capsys):
    """A lost node's name comes back with a new one, and the file server still keeps its lock."""
    held = (tmp_path / NAME).read_text()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert boot in held
    (tmp_path / NAME).write_text(held.replace(boot, "0"))
    with pytest.raises(ConfigError):
        FolderLock(tmp_path, patience=1.5).acquire()
    assert "is it gone?" in capsys.readouterr().err


def test_a_folder_of_the_person_stays_though_it_is_empty(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name in ("real", "link"):
        lock = FolderLock(tmp_path / name)
        lock.acquire()
        lock.release()
    assert {path.name for path in tmp_path.iterdir()} == {"real", "link"}


def test_a_folder_that_is_gone_is_no_mistake(tmp_path):
    lock = FolderLock(tmp_path / "run")
    lock.acquire()
    shutil.rmtree(tmp_path / "run")
    lock.release()


def test_a_folder_that_nothing_was_written_into_goes_with_its_lock(tmp_path):
    lock = FolderLock(tmp_path / "run")
    lock.acquire()
    lock.release()
    assert not (tmp_path / "run").exists()
    lock.acquire()
    (tmp_path / "run" / "config.yaml").touch()
    lock.release()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {NAME, "config.yaml"}
