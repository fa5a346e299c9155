"""math-verify's process: results equal to its own, replaced when it ends, safe among threads and forks."""

import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import math_verify
import pytest

from vtzero.host_memory import memory_beside
from vtzero.rewards import NamedReward, load_reward, score, symbolic
from vtzero.rewards.symbolic import Comparison, SymbolicError, SymbolicTimeoutError, compare, equal

# The power is computed in one instruction, which no exception can interrupt.
ENDLESS = Comparison("$9^{9^{9}}$", "3")


@pytest.fixture
def half_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, "TIME_LIMIT_SECONDS", 0.5)


def worker_id() -> int:
    """The process that answers now."""
    equal("1", "1")
    return symbolic._worker._process.pid


def test_results_are_math_verifys_own_on_random_texts() -> None:
    draw = random.Random(20250503)
    pieces = [
        "3",
        "4",
        "1/2",
        "0.5",
        "$\\frac{1}{2}$",
        "chair",
        " is ",
        "<answer>",
        "</answer>",
        " ",
        "x=",
        ".",
    ]
    texts = ["".join(draw.choices(pieces, k=draw.randint(1, 5))) for _ in range(300)]
    pairs = list(zip(texts[:150], texts[150:], strict=True))
    expected = [math_verify.verify(math_verify.parse(one), math_verify.parse(two)) for one, two in pairs]
    assert compare([Comparison(one, two) for one, two in pairs]) == expected
    assert 10 < sum(expected) < 140


def test_strings_stand_for_themselves_and_are_found_in_texts() -> None:
    strings = ("A", "B", "(A)", "left", "right")
    assert equal(("right", "B"), "I think right", strings=strings)
    assert not equal(("right", "B"), "I think left", strings=strings)
    assert not equal(("right", "B"), "I think right")


def test_the_order_is_math_verifys() -> None:
    assert [equal("x = 3", "3"), equal("3", "x = 3")] == [
        math_verify.verify(math_verify.parse(one), math_verify.parse(two))
        for one, two in (("x = 3", "3"), ("3", "x = 3"))
    ]


@pytest.mark.parametrize(
    "text", ["", "\x00\ud800", "a\nb", "\u2028", "$" * 10_000, "\\boxed{" * 1000, "椅子"]
)
def test_odd_texts_equal_nothing_and_end_nothing(text: str) -> None:
    before = worker_id()
    assert compare([Comparison(text, "3"), Comparison("3", text), Comparison("3", "3")]) == [
        False,
        False,
        True,
    ]
    assert worker_id() == before


@pytest.mark.usefixtures("half_a_second")
def test_what_takes_too_long_is_an_error_and_the_rest_is_answered() -> None:
    started = time.perf_counter()
    first, endless, last = compare([Comparison("3", "3"), ENDLESS, Comparison("3", "4")])
    assert time.perf_counter() - started < 5
    assert (first, last) == (True, False)
    assert isinstance(endless, SymbolicTimeoutError)
    with pytest.raises(SymbolicTimeoutError, match=r"longer than 0\.5 s"):
        equal(ENDLESS.gold, ENDLESS.target)


@pytest.mark.usefixtures("half_a_second")
def test_a_tower_of_powers_has_no_score() -> None:
    """It is not 0: nobody knows whether it is the answer."""
    said = [f"<answer>${text}$</answer>" for text in ("10^{10^{10}}", "3")]
    function = NamedReward("math", load_reward("accuracy_math_verify"))
    result = score([function], said, {"answer": ["3", "3.0"]})
    assert [str(one) for one in result.total] == ["nan", "1.0"]
    ((place, reason),) = [(failure.sample_index, failure.reason) for failure in result.failures]
    assert place == 0
    assert "math-verify took longer than 0.5 s and was stopped" in reason


def test_its_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    symbolic._worker.close()
    assert resource.prlimit(worker_id(), resource.RLIMIT_DATA) == (memory_beside(),) * 2
    symbolic._worker.close()
    monkeypatch.setattr(symbolic, "memory_beside", lambda: 150 * 2**20)
    assert compare([Comparison("$2^{10^{11}}$", "3"), Comparison("3", "3")]) == [False, True]
    status = Path(f"/proc/{worker_id()}/status").read_text()
    symbolic._worker.close()
    (peak,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
    assert peak < 300 * 2**10


def test_a_process_that_was_killed_is_replaced() -> None:
    killed = worker_id()
    os.kill(killed, signal.SIGKILL)
    results = compare([Comparison("3", "3")] * 3)
    assert sum(isinstance(result, SymbolicError) for result in results) <= 1
    assert results[-1] is True
    assert worker_id() != killed


def test_an_interrupt_leaves_no_answers_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    equal("1", "1")
    loads = symbolic.json.loads

    def interrupt(text: str) -> bool:
        monkeypatch.setattr(symbolic.json, "loads", loads)
        raise KeyboardInterrupt

    monkeypatch.setattr(symbolic.json, "loads", interrupt)
    with pytest.raises(KeyboardInterrupt):
        compare([Comparison("3", "3")] * 5)
    assert compare([Comparison("3", "4")] * 2) == [False, False]


def test_threads_get_their_own_answers() -> None:
    found: dict[int, list[bool]] = {}

    def ask(number: int) -> None:
        found[number] = compare([Comparison(str(number), str(other)) for other in range(8)])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [number == other for other in range(8)] for number in range(8)}


CHILD = """
import os
from vtzero.rewards import symbolic
assert symbolic.equal("1", "1")
parents = symbolic._worker._process.pid
child = os.fork()
if child == 0:
    right = symbolic.equal("2", "2") and symbolic._worker._process.pid != parents
    symbolic._worker.close()
    os._exit(0 if right else 7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert symbolic.compare([symbolic.Comparison("3", "4")]) == [False]
print(symbolic._worker._process.pid)
"""


def test_a_fork_has_its_own_process_and_none_outlives_its_owner() -> None:
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_a_process_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    symbolic._worker.close()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SymbolicError, match="did not start: exit code 1"):
        equal("1", "1")


def test_a_process_that_is_never_ready_is_not_waited_for(tmp_path, monkeypatch) -> None:
    symbolic._worker.close()
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 1000\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    monkeypatch.setattr(symbolic, "START_SECONDS", 0.2)
    function = NamedReward("math", load_reward("accuracy_math_verify"))
    result = score([function], ["<answer>$1+1$</answer>"] * 40, {"answer": ["2"] * 40})
    reasons = [failure.reason for failure in result.failures]
    assert len(reasons) == 40
    assert "math-verify's process was not ready after 0.2 s" in reasons[0]
    assert reasons[3:] == ["was not called after 3 in a row that took too long"] * 37
    assert symbolic._worker._process is None


def test_the_process_loads_no_jax() -> None:
    equal("1", "1")
    with open(f"/proc/{worker_id()}/maps") as maps:
        assert "jaxlib" not in maps.read()
