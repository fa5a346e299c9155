"""An own reward runs in a process of its own: whatever it does there costs the call that did it."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from vtzero.rewards import NamedReward, load_reward, score
from vtzero.rewards.own import OwnRewardError

OWN_FILE = """
import os, signal, sys, time
import numpy as np

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
            bytearray(int(0.6 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
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
"""


@pytest.fixture
def own(tmp_path: Path):
    file = tmp_path / "own.py"
    file.write_text(OWN_FILE)
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
    assert reasons[3:] == ["was not called after 3 that took too long"] * 37


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
