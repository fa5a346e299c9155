"""A reward that fails in one of twenty calls, in every way, costs those completions and nothing else."""

import json
import signal
import time
from zlib import crc32

import numpy as np
import pytest
from fixtures.one_run import make_base

from vtzero.training.completions import read_completions
from vtzero.training.metrics import read_metrics

STEPS, PROMPTS, GROUP = 10, 4, 8
# A completion's checksum says whether its call fails, as one of twenty does; the ways take turns.
FAULTY = """
import os, signal, sys, time
from pathlib import Path
from zlib import crc32

FAULTS = [
    lambda: 1 / 0,
    lambda: time.sleep(60),
    lambda: float("nan"),
    lambda: float("inf"),
    lambda: "1.0",
    lambda: [1.0, 2.0],
    lambda: sys.exit(3),
    lambda: os._exit(0),
    lambda: os.kill(os.getpid(), signal.SIGSEGV),
    lambda: bytearray(2**42),
]

SEEN = Path(__file__).with_suffix(".seen")  # a process that is gone remembers nothing

def faulty(completions, **columns):
    return [one(crc32(text.encode())) for text in completions]

def one(number):
    if number % 20:
        return float(number % 7)
    seen = SEEN.read_text().split() if SEEN.exists() else []
    if str(number) not in seen:
        seen.append(str(number))
        SEEN.write_text(" ".join(seen))
    return FAULTS[seen.index(str(number)) % len(FAULTS)]()
"""


def fails(text: str) -> bool:
    return crc32(text.encode()) % 20 == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    base = make_base(tmp_path_factory.mktemp("rewards"))
    (base.folder / "faulty.py").write_text(FAULTY)
    rewards = f"[{base.folder}/own.py:parity, {base.folder}/faulty.py:faulty]"
    settings = {
        "max_steps": STEPS,
        "prompts_per_step": PROMPTS,
        "num_generations": GROUP,
        "reward_funcs": rewards,
        "reward_timeout": 2,
        "eval_data": "null",
        "max_failed_share": 0.2,
    }
    assert base.run(base.folder / "run", **settings) == (0, "")
    return base.folder / "run"


def test_the_counts_are_exact(run):
    for metrics in read_metrics(run):
        rows = read_completions(run, steps=[metrics["step"]])
        failed = sum(fails(row["completion"]) for row in rows)
        assert metrics["rewards/faulty/failures"] == metrics["unscored_completions"] == failed
        assert metrics["rewards/parity/failures"] == 0
    records = [json.loads(line) for line in (run / "rejected.jsonl").read_text().splitlines()]
    failures = [record for record in records if record.get("completion") is not None]
    every = read_completions(run)
    assert len(every) == STEPS * PROMPTS * GROUP
    assert len(failures) == sum(fails(row["completion"]) for row in every) > 3
    assert all(record["reason"].startswith("faulty: ") for record in failures)
    kinds = {record["reason"].split("(")[0][:40] for record in failures}
    assert len(kinds) >= 9, kinds  # two ways to be ended may be told alike


def test_advantages_are_as_if_those_completions_were_not_there(run):
    for step in range(1, STEPS + 1):
        rows = read_completions(run, steps=[step])
        for first in range(0, len(rows), GROUP):
            group = rows[first : first + GROUP]
            rewards = [np.nan if fails(row["completion"]) else reward(row["completion"]) for row in group]
            there = np.isfinite(rewards)
            expected = np.zeros(GROUP)
            scored = np.array(rewards)[there]
            if there.sum() > 1:
                expected[there] = (scored - scored.mean()) / (scored.std(ddof=1) + 1e-4)
            np.testing.assert_allclose([row["advantage"] for row in group], expected, rtol=1e-4, atol=1e-5)


def reward(text: str) -> float:
    return float(sum(map(ord, text)) % 2) + crc32(text.encode()) % 7


SLEEPS = """
import time
from pathlib import Path

def sleeps(completions, **columns):
    Path(__file__).with_suffix(".asleep").touch()
    time.sleep(600)
    return [0.0] * len(completions)
"""


@pytest.mark.slow
def test_a_run_is_stopped_while_a_reward_takes_its_time(tmp_path):
    base = make_base(tmp_path)
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    own = {"reward_funcs": f"[{tmp_path}/sleeps.py:sleeps]", "reward_timeout": 900, "eval_data": "null"}
    process = base.start(tmp_path / "run", **own)
    while not (tmp_path / "sleeps.asleep").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert process.returncode == 75, said
    assert said == "vtzero train: interrupted; no step was saved yet; the same command starts afresh\n"
