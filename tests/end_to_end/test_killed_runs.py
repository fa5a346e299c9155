"""Runs that are killed or stopped, at random instants or named points, and started again, lose nothing."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from fixtures.faults import killed_at
from fixtures.one_run import Base, assert_same, make_base

from vtzero.training.checkpoints import Checkpoints

SECONDS = 10
"""In so many a run that is asked to stop has saved its state and ended."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("killed"))


@pytest.fixture(scope="module")
def straight(base):
    """A run that nobody stops, and the seconds that it took with its programs compiled before."""
    assert base.run(base.folder / "first") == (0, "")
    began = time.monotonic()
    assert base.run(base.folder / "straight") == (0, "")
    return base.folder / "straight", time.monotonic() - began


def started_until_done(base: Base, out: Path, number: int, instants: random.Random, longest: float) -> int:
    """How often the run was stopped by the signal before it came to its end."""
    stops = 0
    while True:
        process = base.start(out)
        try:
            _, said = process.communicate(timeout=instants.uniform(0, longest))
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            began = time.monotonic()
            _, said = process.communicate(timeout=60)
            seconds = time.monotonic() - began
            stops += process.returncode != 0
            # -15: it had not begun to listen.
            assert process.returncode in ((-9, 0) if number == signal.SIGKILL else (75, -15, 0)), said
            assert seconds < SECONDS, f"{seconds:.1f} s until it ended"
        if process.returncode == 0:
            return stops
        assert process.returncode != 1, said


def count(fast: int) -> int:
    return int(os.environ.get("VTZERO_KILLED_RUNS", fast))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_runs_stopped_at_random_instants_are_as_if_nobody_had(base, straight, number):
    expected, seconds = straight
    stops = 0
    for run in range(count(3)):
        out = base.folder / f"{number.name}-{run}"
        stops += started_until_done(base, out, number, random.Random(f"{number} {run}"), 1.2 * seconds)
        assert_same(out, expected)
    print(f"{count(3)} runs, {number.name} {stops} times")
    assert stops


# (function, its call, whether before it): what a killed process leaves half done.
POINTS = [
    ("vtzero.training.loop:write_whole", 1, True),  # the config
    ("vtzero.training.phases:Phases.draw", 4, False),  # the rollout is under way
    ("vtzero.training.grpo:score", 4, False),
    ("vtzero.training.phases:Phases.update", 5, True),
    ("vtzero.training.phases:Phases.update", 5, False),
    ("vtzero.training.logs:write_completions", 5, True),
    ("vtzero.training.logs:write_completions", 5, False),
    ("vtzero.training.metrics:MetricsLog.write", 6, True),
    ("vtzero.training.metrics:MetricsLog.write", 6, False),
    ("vtzero.training.metrics:_cut", 1, False),
    ("vtzero.training.tensorboard:TensorBoardLog.show", 6, True),
    ("vtzero.training.logs:RunLogs.evaluated", 2, True),
    ("vtzero.training.logs:RunLogs.evaluated", 2, False),
    ("vtzero.training.logs:RunLogs.finished", 1, False),
    ("vtzero.evaluation.results:ResultFiles.append", 3, False),
    ("vtzero.evaluation.results:ResultFiles.finish", 2, True),
    ("vtzero.training.checkpoints:Checkpoints.save", 2, False),
    ("vtzero.training.checkpoints:seal", 2, True),
    ("vtzero.training.checkpoints:seal", 2, False),
    ("vtzero.training.checkpoints:unseal", 1, False),  # the older one is half deleted
    ("vtzero.training.loop:save_model", 1, True),
    ("vtzero.training.loop:save_model", 1, False),
]


ON_A_RESUME = ("vtzero.training.metrics:_cut",)
"""A run that starts afresh does not come by there."""


@pytest.mark.slow
@pytest.mark.parametrize(("point", "call", "before"), POINTS, ids=lambda value: str(value).split(":")[-1])
def test_a_run_killed_at_a_named_point_loses_nothing(base, straight, tmp_path, point, call, before):
    expected, _ = straight
    out = tmp_path / "run"
    if point in ON_A_RESUME:
        assert base.run(out, killed_at("vtzero.training.phases:Phases.update", 5, before=True))[0] == -9
    code, said = base.run(out, killed_at(point, call, before=before))
    assert code == -signal.SIGKILL, said
    assert base.run(out)[0] == 0
    assert_same(out, expected)


@pytest.mark.slow
def test_a_run_asked_to_stop_saves_the_step_that_it_has_done_and_goes_on(base, straight, tmp_path):
    expected, _ = straight
    out = tmp_path / "run"
    process = base.start(out)
    while not (out / "completions").exists() or len(list((out / "completions").iterdir())) < 3:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < SECONDS
    assert process.returncode == 75, said
    saved = Checkpoints(out / "checkpoints", keep=None).latest_step()
    assert saved >= 3
    assert f"interrupted; the same command goes on after step {saved}" in said
    assert base.run(out)[0] == 0
    assert_same(out, expected)


TELLS = """
import itertools
import sys
from pathlib import Path
from vtzero import cli
from vtzero.training.preemption import StopRequest

arrived, step = StopRequest.arrived, itertools.count(1)

def tells(*arguments):
    Path(f"{sys.argv[1]}-{next(step)}").touch()
    return arrived(*arguments)

StopRequest.arrived = tells
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 2])
def test_a_stop_does_not_wait_for_a_rollout(base, tmp_path, step):
    """A model that knows nothing rarely ends an answer; drawing them takes much longer than the bar.

    Of the second step the first is done, and not saved yet.
    """
    out, begun = tmp_path / "run", tmp_path / "begun"
    process = base.start(
        out,
        ("-c", TELLS, str(begun)),
        model="blank",
        beta=0,
        sync_ref_model="false",
        eval_data="null",
        prompts_per_step=16 // step,
        num_generations=16,
        max_completion_length=2500,
        save_steps=100,
    )
    while not begun.with_name(f"begun-{step}").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, said = process.communicate(timeout=60)
    seconds = time.monotonic() - began
    print(f"a stop in the rollout of step {step}: ended after {seconds:.1f} s")
    assert process.returncode == 75, said
    assert ("no step was saved yet" if step == 1 else "goes on after step 1") in said
    assert seconds < SECONDS
    assert len((out / "metrics.jsonl").read_text().splitlines()) == step - 1
