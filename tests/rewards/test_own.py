"""An own reward runs in a process of its own: whatever it does there costs the call that did it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vtzero.host_memory import memory_beside
from vtzero.rewards import NamedReward, load_reward, score
from vtzero.rewards.own import OwnRewardError

OWN_FILE = """
import os, signal, subprocess, sys, time
from pathlib import Path
import numpy as np

if Path(__file__).with_suffix(".broken").exists():
    time.sleep(1000)

calls = 0

def behaves(completions, **columns):
    global calls
    calls += 1
    for text in completions:
        if text == "raise":
            raise KeyError("no\\nsuch key")
        if text == "hang":
            time.sleep(1000)
        if text == "exit":
            os._exit(3)
        if text == "sys.exit":
            sys.exit(3)
        if text == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if text == "eat":  # without a limit the kernel would give it, since nothing is written there
            bytearray(MEMORY)
    return [float(len(text)) for text in completions]

def numbers(completions, **columns):
    return np.array([0.5, 1.5])

def kinds(completions, **columns):
    return [np.float32(1.0), None, "high", ValueError("two\\nlines"), object()]

def where(completions, **columns):
    return [float(os.getpid()) for _ in completions]

def counts(completions, **columns):
    global calls
    calls += 1
    return [float(calls)]

def told(completions, answer, **columns):
    return [float(text == right) for text, right in zip(completions, answer)]

def text(completions, **columns):
    return "none"

def starts(completions, **columns):
    # The file tells of its process.
    child = subprocess.Popen(["sleep", "1000"])
    Path(__file__).with_suffix(".child").write_text(f"{child.pid}\\n")
    if completions[0] == "crash":
        os._exit(3)
    return [float(child.wait())]

def closes(completions, **columns):
    os.closerange(3, 100)
    time.sleep(1000)
"""


@pytest.fixture
def own(tmp_path: Path):
    file = tmp_path / "own.py"
    file.write_text(OWN_FILE.replace("MEMORY", str(memory_beside() + 2**27)))
    return lambda name, **options: load_reward(f"{file}:{name}", **options)


def test_it_is_called_as_the_function_would_be(own):
    assert own("told")(["left", "right"], answer=["left", "left"]) == [1.0, 0.0]
    assert own("numbers")(["a", "b"]) == [0.5, 1.5]


def test_it_runs_elsewhere_and_remembers(own):
    (process,) = own("where")(["a"])
    assert process != os.getpid()
    counts = own("counts")
    assert [counts(["a"]) for _ in range(3)] == [[1.0], [2.0], [3.0]]


def test_what_is_no_score_says_so(own):
    one, nothing, *wrong = own("kinds")(list("abcde"))
    assert (one, nothing) == (1.0, None)
    assert [str(error) for error in wrong] == [
        "returned a str as score, not a finite number or None",
        "ValueError: two lines",
        "returned a object as score, not a finite number or None",
    ]
    with pytest.raises(OwnRewardError, match="returned a str, not a list of scores"):
        own("text")(["a"])


@pytest.mark.parametrize(
    ("misdeed", "reason"),
    [
        ("raise", r"KeyError: 'no\nsuch key'"),
        ("hang", "took longer than 1 s and was stopped"),
        ("exit", "its process ended with code 3"),
        ("sys.exit", "SystemExit: 3"),
        ("crash", "its process was ended by SIGSEGV"),
        ("eat", "MemoryError"),
    ],
)
def test_a_misdeed_costs_its_own_sample(own, misdeed, reason):
    function = NamedReward("own", own("behaves", time_limit=1.0))
    for _ in range(2):
        result = score([function], ["a", misdeed, "abc"], {})
        np.testing.assert_array_equal(result.per_function[0], [1.0, np.nan, 3.0])
        ((name, place, told),) = [
            (one.function_name, one.sample_index, one.reason) for one in result.failures
        ]
        assert (name, place) == ("own", 1)
        assert told.startswith(reason.replace("\\\\", "\\")), told


def test_a_function_that_always_hangs_is_soon_given_up(own):
    function = NamedReward("own", own("behaves", time_limit=0.5))
    began = time.monotonic()
    result = score([function], ["hang"] * 40, {})
    assert time.monotonic() - began < 15
    assert np.isnan(result.total).all()
    reasons = [failure.reason for failure in result.failures]
    assert reasons[:3] == ["took longer than 0.5 s and was stopped"] * 3
    assert reasons[3:] == ["was not called after 3 in a row that took too long"] * 37


def test_scattered_hangs_cost_themselves(own):
    texts = ["hang", "a", "hang", "raise", "hang", "hang", "a", "hang", "a"]
    result = score([NamedReward("own", own("behaves", time_limit=0.3))], texts, {})
    assert [place for place, text in enumerate(texts) if text == "a"] == list(
        np.flatnonzero(result.per_function[0] == 1)
    )
    reasons = {failure.reason for failure in result.failures}
    assert reasons == {"took longer than 0.3 s and was stopped", "KeyError: 'no\\nsuch key'"}


def test_a_process_that_cannot_be_replaced_is_soon_given_up(own, tmp_path, monkeypatch):
    function = own("behaves", time_limit=0.5)
    (tmp_path / "own.broken").touch()
    function.close()
    monkeypatch.setattr("vtzero.rewards.own.START_SECONDS", 0.5)
    result = score([NamedReward("own", function)], ["a"] * 40, {})
    assert np.isnan(result.total).all()
    reasons = [failure.reason for failure in result.failures]
    assert all(reason.startswith("could not be started again: ") for reason in reasons[:3])
    assert reasons[3:] == ["was not called after 3 in a row that took too long"] * 37
    (tmp_path / "own.broken").unlink()
    monkeypatch.undo()
    assert function(["abc"]) == [3.0]


def test_the_first_start_is_a_mistake_of_the_person(own, tmp_path, monkeypatch):
    (tmp_path / "own.broken").touch()
    monkeypatch.setattr("vtzero.rewards.own.START_SECONDS", 0.5)
    with pytest.raises(ValueError, match=r"was not ready after 0\.5 s"):
        own("behaves")


def runs(process: int) -> bool:
    """Whether it has not ended: one whose parent has died may stay as a zombie."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def ends_soon(process: int) -> bool:
    by = time.monotonic() + 10
    while runs(process) and time.monotonic() < by:
        time.sleep(0.02)
    return not runs(process)


def child(folder: Path) -> int:
    """The process that `starts` has started."""
    told = folder / "own.child"
    while not (told.exists() and told.read_text().endswith("\n")):
        time.sleep(0.02)
    return int(told.read_text())


@pytest.mark.parametrize("ends", ["hang", "crash"])
def test_what_it_started_ends_with_the_call(own, tmp_path, ends):
    with pytest.raises(OwnRewardError):
        own("starts", time_limit=1.0)([ends])
    assert ends_soon(child(tmp_path))


ASKS = """
import sys
from vtzero.rewards import load_reward
function = load_reward(sys.argv[1], time_limit=1000)
function(["a"])
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_what_it_started_ends_with_the_run(own, tmp_path, ending):
    own("numbers").close()  # for its file
    asker = subprocess.Popen(
        [sys.executable, "-c", ASKS, f"{tmp_path}/own.py:starts"], stderr=subprocess.DEVNULL
    )
    started = child(tmp_path)
    assert runs(started)
    asker.send_signal(ending)
    assert asker.wait(20) == -ending
    assert ends_soon(started)


def test_a_process_that_closes_its_pipe_is_not_waited_for(own, monkeypatch):
    monkeypatch.setattr("vtzero.rewards.own._END_SECONDS", 0.5)
    began = time.monotonic()
    with pytest.raises(OwnRewardError, match="its process closed its pipe and was ended"):
        own("closes")(["a"])
    assert time.monotonic() - began < 20


def test_its_process_ends_with_it(own):
    function = own("where")
    (process,) = function(["a"])
    function.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(process), 0)
    (another,) = function(["a"])
    assert another != process


def test_a_killed_process_costs_a_call(own):
    function = own("where")
    (process,) = function(["a"])
    os.kill(int(process), signal.SIGKILL)
    with pytest.raises(OwnRewardError, match="its process was ended by SIGKILL"):
        function(["a"])
    assert function(["a"]) != [process]
