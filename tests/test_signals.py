"""A signal ends what is under way in order, wherever it comes, and a second one ends the process."""

import gc
import importlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from fixtures.signalled import signalled_by

from vtzero.signals import SIGNALS, hear, heard


@pytest.fixture(autouse=True)
def within():
    with heard():
        yield


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_raised_in_the_main_thread(number):
    assert signalled_by(signal.raise_signal, number) == number


def slow(*_):
    time.sleep(0.3)


def collect_and_wait():
    gc.callbacks.append(slow)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(slow)
    time.sleep(5)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # that it was lost once
@pytest.mark.parametrize("number", SIGNALS)
def test_one_that_comes_in_a_callback_of_the_garbage_collector_is_not_lost(number):
    threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
    assert signalled_by(collect_and_wait) == number


def stopped_and_cleared_up(log):
    try:
        signal.raise_signal(signal.SIGTERM)
    finally:
        time.sleep(0.5)
        log.append("cleared up")


def test_what_clears_up_is_not_disturbed():
    log = []
    assert signalled_by(stopped_and_cleared_up, log) == signal.SIGTERM
    assert log == ["cleared up"]


SLOW = """
import signal
import time
signal.raise_signal(signal.SIGTERM)
time.sleep(0.3)
imported = True
"""


def test_a_module_is_imported_first(tmp_path, monkeypatch):
    (tmp_path / "slow_module.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    assert signalled_by(lambda: [importlib.import_module("slow_module"), time.sleep(5)]) == signal.SIGTERM
    assert sys.modules.pop("slow_module").imported


def test_where_somebody_ends_the_process_no_import_is_waited_for(tmp_path):
    (tmp_path / "slow_module.py").write_text(SLOW)
    program = """
import os
from vtzero.signals import heard
with heard(lambda: os._exit(75)):
    import slow_module
"""
    assert ended(tmp_path, program) == 75


def test_one_that_was_caught_comes_back_no_more():
    assert signalled_by(signal.raise_signal, signal.SIGTERM) == signal.SIGTERM
    assert signalled_by(time.sleep, 0.3) is None
    assert signalled_by(signal.raise_signal, signal.SIGINT) == signal.SIGINT


def test_what_a_shell_ignores_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hear()
    signal.raise_signal(signal.SIGINT)


def ended(folder, program):
    """The exit code of a module of its own; sent as one, since Python ends a program in another way."""
    (folder / "program.py").write_text(
        f"import signal, sys, time\nfrom vtzero.signals import hear\nhear()\n{program}"
    )
    return subprocess.run([sys.executable, "-m", "program"], cwd=folder, check=False, timeout=60).returncode


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_one_that_comes_while_a_text_is_run_leaves_the_exit_code(tmp_path, number):
    # Python ends a module by SIGINT where a plain KeyboardInterrupt has left such a text, caught or not.
    program = f"""
try:
    exec("signal.raise_signal(signal.{number})")
except KeyboardInterrupt:
    sys.exit(75)
"""
    assert ended(tmp_path, program) == 75


def test_a_second_one_ends_what_clears_up(tmp_path):
    program = """
try:
    signal.raise_signal(signal.SIGTERM)
finally:
    signal.raise_signal(signal.SIGINT)
    time.sleep(50)
"""
    assert ended(tmp_path, program) == 128 + signal.SIGINT
