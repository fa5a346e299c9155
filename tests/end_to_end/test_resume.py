"""A run that was interrupted and started again equals one that was not, byte for byte."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from fixtures.command import options, vtzero
from fixtures.tiny_folder import make_tiny_folder

from vtzero.config import load_config
from vtzero.training.checkpoints import Checkpoints
from vtzero.training.setup import set_up

CONFIG = Path(__file__).parents[2] / "configs" / "tiny.yaml"
STEPS = 6
SETTINGS = {
    "max_steps": STEPS,
    "save_steps": 3,
    "eval_steps": 3,
    "eval_limit": 4,
    "eval_batch_size": 4,
    "prompts_per_step": 2,
    "num_generations": 2,
    "max_completion_length": 6,
    "max_prompt_length": 400,
    "learning_rate": 1e-3,
    "beta": 0.1,
    "tensorboard": "false",
}
REWARD = """
import os, pathlib, signal

def length_parity(completions, **columns):
    stop = os.environ.get("STOP_IN_CALL")
    calls = pathlib.Path(__file__).with_suffix(".calls")
    made = len(calls.read_text()) + 1 if calls.exists() else 1
    calls.write_text("x" * made)
    if stop is not None and made == int(stop):
        os.kill(os.getppid(), signal.SIGINT)
    return [float(len(text) % 2) for text in completions]
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two finished runs of one config: one straight through, one interrupted in step 4 and started again."""
    base = tmp_path_factory.mktemp("resume")
    model = make_tiny_folder(base / "model")
    folders = []
    for name in ("straight", "interrupted"):
        reward = base / f"{name}.py"
        reward.write_text(REWARD)
        command = ["train", CONFIG, "--quiet", *options(**SETTINGS, model=model, output_dir=base / name)]
        command += ["--reward_funcs", f"[{reward}:length_parity]"]
        if name == "interrupted":
            vtzero(*command, code=75, environment={"STOP_IN_CALL": "4"})
            assert not (base / name / "summary.json").exists()
        vtzero(*command)
        folders.append(base / name)
    return folders


def test_the_interrupted_run_resumed_from_its_checkpoint(runs):
    _, interrupted = runs
    calls = (interrupted.parent / "interrupted.calls").read_text()
    assert len(calls) == 3 + 1 + 3  # steps 1 to 3, the interrupted step 4, then 4 to 6


def test_parameters_and_optimizer_state_are_byte_equal(runs):
    states = []
    for folder in runs:
        _, like = set_up(load_config(folder / "config.yaml"), folder)
        states.append(Checkpoints(folder / "checkpoints", keep=None).restore(STEPS, like))
    for one, other in zip(*map(jax.tree.leaves, states), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_training_moved_the_parameters(runs):
    folder = runs[0]
    _, start = set_up(load_config(folder / "config.yaml"), folder)
    end = Checkpoints(folder / "checkpoints", keep=None).restore(STEPS, start)
    moved = [
        bool(np.any(np.asarray(a) != np.asarray(b)))
        for a, b in zip(*map(jax.tree.leaves, (start.trainable, end.trainable)), strict=True)
    ]
    assert all(moved)


def test_exports_are_byte_equal(runs):
    one, other = ((folder / "export" / "model.safetensors").read_bytes() for folder in runs)
    assert one == other


def test_metrics_are_equal_but_for_times(runs):
    one, other = (_timeless(folder) for folder in runs)
    assert one == other
    assert [line["step"] for line in one] == list(range(1, STEPS + 1))


def test_evaluations_are_equal(runs):
    for step in (0, 3, STEPS):
        one, other = ((folder / "eval" / f"scenes-{step}.jsonl").read_bytes() for folder in runs)
        assert one == other


def _timeless(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {
            name: value
            for name, value in line.items()
            if not name.startswith(("timing_s/", "perf/", "compile/"))
        }
        for line in lines
    ]
