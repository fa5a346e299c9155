"""One of two processes is killed in each phase of a step: the job ends, says why, and loses nothing."""

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures.command import options
from fixtures.jobs import Job
from fixtures.tiny_folder import make_tiny_folder

from vtzero.training.checkpoints import Checkpoints
from vtzero.training.completions import read_completions
from vtzero.training.metrics import read_metrics

CONFIG = Path(__file__).parents[2] / "configs" / "tiny.yaml"
SECONDS = 60
SLOW = pytest.mark.slow
STEPS = 3
# Sampling and updating take seconds each, so that a signal sent at their beginning arrives within.
SETTINGS = {
    "max_steps": STEPS,
    "save_steps": 1,
    "eval_data": "null",
    "prompts_per_step": 2,
    "num_generations": 2,
    "max_completion_length": 256,
    "max_prompt_length": 200,
    "num_iterations": 6,
    "learning_rate": 1e-5,
    "logging_steps": 1,
}
# Each process tells when it has scored a step, which is after the rollout and before the update.
REWARD = """
import os
from pathlib import Path
from typing import Any

calls = 0

def parity(completions, **columns):
    global calls
    calls += 1
    scored = [float(sum(map(ord, text)) % 2) for text in completions]
    Path(os.environ["SIGNALS"], f"scored-{calls}-{os.environ['JAX_PROCESS_ID']}").touch()
    return scored
"""
GONE = (
    "Terminating process because the JAX distributed service detected fatal errors",
    "another process of this job is gone",
)
OF_THE_MACHINE = ("timing_s/", "perf/", "compile/", "tokens_per")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interruptions")
    (folder / "own.py").write_text(REWARD)
    make_tiny_folder(folder / "model", num_hidden_layers=1)
    return folder


def start(base: Path, folder: Path, **options_of_the_job: Any) -> Job:
    own = {"model": base / "model", "output_dir": folder / "run"}
    own |= {"reward_funcs": f"[{base}/own.py:parity]"}
    (folder / "signals").mkdir(exist_ok=True)
    command = ["train", CONFIG, *options(**SETTINGS | own)]
    return Job(2, command, folder, devices=2, SIGNALS=folder / "signals", **options_of_the_job)


@pytest.fixture(scope="module")
def unbroken(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    start(base, folder).run()
    return folder / "run"


def scored(folder: Path, step: int) -> bool:
    """Whether both processes have scored the answers of a step."""
    return all((folder / "signals" / f"scored-{step}-{index}").exists() for index in range(2))


def done(folder: Path, step: int) -> bool:
    """Whether the update of a step has ended; the rollout of the next is then under way."""
    metrics = folder / "run" / "metrics.jsonl"
    return metrics.exists() and len(metrics.read_text().splitlines()) >= step


def half_written(folder: Path, step: int) -> bool:
    """Whether a checkpoint is being written."""
    found = [path.name for path in (folder / "run" / "checkpoints").glob("*")]
    return str(step) not in found and any(name.startswith(f"{step}.") for name in found)


# When the signal is sent; and what must hold when the job has ended, for it to have come in that phase.
PHASES: dict[str, tuple[Callable[[Path], bool], Callable[[Path], bool]]] = {
    "rollout": (lambda f: done(f, 2), lambda f: done(f, 2) and not scored(f, 3)),
    "update": (lambda f: scored(f, 3), lambda f: scored(f, 3) and not done(f, 3)),
    "checkpoint": (lambda f: half_written(f, 2), lambda f: half_written(f, 2)),
}


@pytest.mark.parametrize(
    ("phase", "victim"),
    [
        ("update", 1),
        *(
            pytest.param(phase, victim, marks=SLOW)
            for phase, victim in [
                ("rollout", 0),
                ("rollout", 1),
                ("update", 0),
                ("checkpoint", 0),
                ("checkpoint", 1),
            ]
        ),
    ],
)
def test_a_killed_process_ends_the_job_which_goes_on_with_nothing_lost(
    base, unbroken, tmp_path, phase, victim
):
    begins, holds = PHASES[phase]
    job = start(base, tmp_path)
    while not begins(tmp_path):
        assert all(process.poll() is None for process in job.processes), job.said()
        time.sleep(0.001)
    job.processes[victim].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    codes = job.codes(SECONDS)
    seconds = time.monotonic() - killed
    print(f"killed process {victim} in its {phase}: the job ended after {seconds:.1f} s")
    assert holds(tmp_path)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] not in (0, -signal.SIGKILL)
    # The other one hears of it from the coordinator, or from a collective that breaks off.
    assert any(words in job.logs[1 - victim].read_text() for words in GONE)
    assert not (tmp_path / "run" / "summary.json").exists()
    # It goes on from a checkpoint that was finished before.
    assert 1 <= Checkpoints(tmp_path / "run" / "checkpoints", keep=None).latest_step() <= 2

    start(base, tmp_path).run()
    assert_same_run(tmp_path / "run", unbroken)


@pytest.mark.parametrize("told", [(0, 1), pytest.param((0,), marks=SLOW), pytest.param((1,), marks=SLOW)])
def test_sigterm_ends_the_job_with_the_way_to_go_on(base, tmp_path, told):
    job = start(base, tmp_path)
    while not done(tmp_path, 2):
        assert all(process.poll() is None for process in job.processes), job.said()
        time.sleep(0.01)
    for index in told:
        job.processes[index].send_signal(signal.SIGTERM)
    began = time.monotonic()
    codes = job.codes(SECONDS)
    print(f"SIGTERM to processes {told}: the job ended after {time.monotonic() - began:.1f} s, with {codes}")
    assert codes == [75, 75]
    said = [re.findall(r"the same command goes on after step (\d+)", log.read_text()) for log in job.logs]
    assert said[0] == said[1]
    assert int(*said[0]) >= 2


def assert_same_run(actual: Path, expected: Path) -> None:
    pairs = zip(read_metrics(actual), read_metrics(expected), strict=True)
    for one, other in pairs:
        assert numbers(one) == pytest.approx(numbers(other), rel=1e-5, abs=1e-6)
    for step in range(1, STEPS + 1):
        one, other = (read_completions(folder, steps=[step]) for folder in (actual, expected))
        assert [row["completion"] for row in one] == [row["completion"] for row in other]


def numbers(step: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in step.items() if not name.startswith(OF_THE_MACHINE)}


FAILS = """
import sys
import jax
from vtzero import cli
from vtzero.data.pipeline import GroupPipeline

drawn, next_batch = 0, GroupPipeline.next_batch

def fails_at_the_third(self, size):
    global drawn
    drawn += 1
    if jax.process_index() == 1 and drawn == 3:
        raise OSError("the disk is gone")
    return next_batch(self, size)

GroupPipeline.next_batch = fails_at_the_third
sys.exit(cli.main(sys.argv[1:]))
"""


@SLOW
def test_an_error_in_one_process_ends_the_job_and_is_told(base, tmp_path):
    job = start(base, tmp_path, program=("-c", FAILS))
    while "OSError: the disk is gone" not in job.logs[1].read_text():
        assert job.processes[1].poll() is None, job.said()
        time.sleep(0.1)
    codes = job.codes(SECONDS)
    assert codes[1] == 1
    assert codes[0] not in (0, -signal.SIGKILL)  # SIGKILL: it still waited when its time was over
