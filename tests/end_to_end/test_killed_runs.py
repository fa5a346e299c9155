"""Runs that are killed or stopped at random instants, and started again until they are done, lose nothing."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from fixtures.command import options, vtzero
from fixtures.fast_compile import FAST_COMPILE_FLAGS
from fixtures.tiny_folder import make_tiny_folder

from vtzero.config import load_config
from vtzero.training.checkpoints import Checkpoints
from vtzero.training.completions import read_completions
from vtzero.training.setup import set_up

CONFIG = Path(__file__).parents[2] / "configs" / "tiny.yaml"
STEPS = 8
SETTINGS = {
    "max_steps": STEPS,
    "save_steps": 2,
    "eval_steps": 4,
    "eval_limit": 8,
    "eval_batch_size": 4,
    "prompts_per_step": 2,
    "num_generations": 2,
    "max_completion_length": 32,
    "max_prompt_length": 400,
    "learning_rate": 1e-3,
    "beta": 0.1,
    "sync_ref_model": "true",
    "ref_model_sync_steps": 3,
}
REWARD = """
def parity(completions, **columns):
    return [float(sum(map(ord, text)) % 2) for text in completions]
"""
OF_THE_MACHINE = ("timing_s/", "perf/", "compile/")
SECONDS = 10
"""In so many a run that is asked to stop has saved its state and ended."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    (folder / "own.py").write_text(REWARD)
    make_tiny_folder(folder / "model", num_hidden_layers=1)
    return folder


@pytest.fixture(scope="module")
def straight(base):
    """A run that nobody stops, and the seconds that it took with its programs compiled before."""
    vtzero(*command(base, base / "first"))
    began = time.monotonic()
    vtzero(*command(base, base / "straight"))
    return base / "straight", time.monotonic() - began


def command(base: Path, folder: Path) -> list[Any]:
    own = {"model": base / "model", "output_dir": folder, "reward_funcs": f"[{base}/own.py:parity]"}
    return ["train", CONFIG, "--quiet", *options(**SETTINGS | own)]


def start(base: Path, folder: Path) -> subprocess.Popen[str]:
    variables = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": FAST_COMPILE_FLAGS}
    whole = [sys.executable, "-m", "vtzero.cli", *map(str, command(base, folder))]
    return subprocess.Popen(whole, env=variables, stderr=subprocess.PIPE, text=True)


def started_until_done(base: Path, folder: Path, number: int, instants: random.Random, longest: float) -> int:
    """How often the run was stopped by the signal before it came to its end."""
    stops = 0
    while True:
        process = start(base, folder)
        try:
            _, said = process.communicate(timeout=instants.uniform(0, longest))
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            began = time.monotonic()
            _, said = process.communicate(timeout=60)
            seconds = time.monotonic() - began
            stops += process.returncode != 0
            # -15: it had not begun to listen; 130: it had not begun to train.
            assert process.returncode in ((-9, 0) if number == signal.SIGKILL else (75, 130, -15, 0)), said
            assert seconds < SECONDS, f"{seconds:.1f} s until it ended"
        if process.returncode == 0:
            return stops
        assert process.returncode != 1, said


def same(one: Path, other: Path) -> None:
    """Whether two run folders hold the same, times aside."""
    states = []
    for folder in (one, other):
        _, like = set_up(load_config(folder / "config.yaml"), folder)
        checkpoints = Checkpoints(folder / "checkpoints", keep=None)
        assert checkpoints.recover() == (STEPS, [])
        states.append(checkpoints.restore(STEPS, like))
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert timeless(one) == timeless(other)
    for step in range(1, STEPS + 1):
        rows = [read_completions(folder, steps=[step]) for folder in (one, other)]
        assert rows[0] == rows[1]
        assert rows[0]
    for name in (
        "export/model.safetensors",
        "rejected.jsonl",
        *(f"eval/scenes-{n}.jsonl" for n in (0, 4, 8)),
    ):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def timeless(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    return [
        {name: value for name, value in line.items() if not name.startswith(OF_THE_MACHINE)} for line in lines
    ]


def count(fast: int) -> int:
    return int(os.environ.get("VTZERO_KILLED_RUNS", fast))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_runs_stopped_at_random_instants_are_as_if_nobody_had(base, straight, number):
    expected, seconds = straight
    stops = 0
    for run in range(count(3)):
        folder = base / f"{number.name}-{run}"
        stops += started_until_done(base, folder, number, random.Random(f"{number} {run}"), 1.2 * seconds)
        same(folder, expected)
    print(f"{count(3)} runs, {number.name} {stops} times")
    assert stops


@pytest.mark.slow
def test_a_run_asked_to_stop_saves_the_step_that_it_has_done_and_goes_on(base, straight):
    expected, _ = straight
    folder = base / "asked"
    process = start(base, folder)
    while not (folder / "completions").exists() or len(list((folder / "completions").iterdir())) < 3:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < SECONDS
    assert process.returncode == 75, said
    saved = Checkpoints(folder / "checkpoints", keep=None).latest_step()
    assert saved >= 3
    assert f"interrupted; the same command goes on after step {saved}" in said
    vtzero(*command(base, folder))
    same(folder, expected)
