"""A run that was interrupted and started again equals one that was not, byte for byte."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from fixtures.tiny_folder import make_tiny_folder

from vtzero.config import build_config
from vtzero.training.checkpoints import Checkpoints
from vtzero.training.loop import train
from vtzero.training.setup import set_up

STEPS = 6
REWARD = """
import os, pathlib

def length_parity(completions, **columns):
    stop = os.environ.get("STOP_IN_CALL")
    calls = pathlib.Path(__file__).with_suffix(".calls")
    made = len(calls.read_text()) + 1 if calls.exists() else 1
    calls.write_text("x" * made)
    if stop is not None and made == int(stop):
        raise KeyboardInterrupt
    return [float(len(text) % 2) for text in completions]
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two finished runs of one config: one straight through, one interrupted in step 4."""
    base = tmp_path_factory.mktemp("resume")
    model = make_tiny_folder(base / "model")
    folders = []
    for name, stop in (("straight", None), ("interrupted", "4")):
        reward = base / f"{name}.py"
        reward.write_text(REWARD)
        config = _config(model, base / name, reward)
        with pytest.MonkeyPatch.context() as patch:
            if stop is not None:
                patch.setenv("STOP_IN_CALL", stop)
                with pytest.raises(KeyboardInterrupt):
                    train(config, quiet=True)
                patch.delenv("STOP_IN_CALL")
            train(config, quiet=True)
        folders.append((config, base / name))
    return folders


def _config(model: Path, folder: Path, reward: Path):
    return build_config(
        {
            "model": str(model),
            "output_dir": str(folder),
            "reward_funcs": [f"{reward}:length_parity"],
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
            "tensorboard": False,
        }
    )


def test_the_interrupted_run_resumed_from_its_checkpoint(runs):
    (_, _), (_, interrupted) = runs
    calls = (interrupted.parent / "interrupted.calls").read_text()
    assert len(calls) == 3 + 1 + 3  # steps 1 to 3, the interrupted step 4, then 4 to 6


def test_parameters_and_optimizer_state_are_byte_equal(runs):
    states = []
    for config, folder in runs:
        _, like = set_up(config, folder)
        states.append(Checkpoints(folder / "checkpoints", keep=None).restore(STEPS, like))
    for one, other in zip(*map(jax.tree.leaves, states), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_training_moved_the_parameters(runs):
    config, folder = runs[0]
    _, start = set_up(config, folder)
    end = Checkpoints(folder / "checkpoints", keep=None).restore(STEPS, start)
    moved = [
        bool(np.any(np.asarray(a) != np.asarray(b)))
        for a, b in zip(*map(jax.tree.leaves, (start.trainable, end.trainable)), strict=True)
    ]
    assert all(moved)


def test_exports_are_byte_equal(runs):
    one, other = ((folder / "export" / "model.safetensors").read_bytes() for _, folder in runs)
    assert one == other


def test_metrics_are_equal_but_for_times(runs):
    one, other = (_timeless(folder) for _, folder in runs)
    assert one == other
    assert [line["step"] for line in one] == list(range(1, STEPS + 1))


def test_evaluations_are_equal(runs):
    for step in (0, 3, STEPS):
        one, other = ((folder / "eval" / f"scenes-{step}.jsonl").read_bytes() for _, folder in runs)
        assert one == other


def _timeless(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if not name.startswith(("timing_s/", "perf/"))}
        for line in lines
    ]
