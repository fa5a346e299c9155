"""A run moves: eight devices in two processes, two devices in one, and back, with nothing changed."""

from pathlib import Path

import jax
import numpy as np
import pytest
from fixtures.command import options
from fixtures.jobs import Job
from fixtures.tiny_folder import make_tiny_folder
from orbax.checkpoint import v1 as ocp

from vtzero.training.completions import read_completions
from vtzero.training.metrics import read_metrics

CONFIG = Path(__file__).parents[2] / "configs" / "tiny.yaml"
EIGHT = {"count": 2, "devices": 8}
TWO = {"count": 1, "devices": 2}
SETTINGS = {
    "save_steps": 2,
    "eval_data": "null",
    "prompts_per_step": 8,
    "num_generations": 2,
    "max_completion_length": 6,
    "max_prompt_length": 200,
    "lr_scheduler_type": "constant",
    "learning_rate": 1e-5,
    "mesh.data": 1,
    "mesh.fsdp": -1,
}
# Answers of one group must differ in reward, else there is nothing to learn and nothing to compare.
REWARD = """
def parity(completions, **columns):
    return [float(sum(map(ord, text)) % 2) for text in completions]
"""
# What a run restores it saves again, from wherever its mesh put it.
MOVE = """
import sys
from pathlib import Path
from vtzero.config import load_config
from vtzero.parallel.processes import start
from vtzero.training.checkpoints import Checkpoints
from vtzero.training.setup import set_up

config, source, target = sys.argv[1:4]
if "--distributed" in sys.argv:
    start()
config = load_config(config)
_, state = set_up(config, Path(config.output_dir))
old, new = (Checkpoints(Path(folder), keep=None) for folder in (source, target))
step = old.latest_step()
new.save(step, old.restore(step, state), old.read_extra(step))
new.close()
"""
OF_THE_MACHINE = ("timing_s/", "perf/", "compile/", "tokens_per")


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, as Orbax reads it onto this one device."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda stored: jax.ShapeDtypeStruct(stored.shape, stored.dtype, sharding=here),
        ocp.metadata(folder, "state").metadata,
    )
    return flat(ocp.load_checkpointables(folder, {"state": like})["state"])


def flat(tree: dict, prefix: str = "") -> dict[str, np.ndarray]:
    found = {}
    for name, node in tree.items():
        inner = flat(node, f"{prefix}{name}/") if isinstance(node, dict) else {prefix + name: node}
        found |= inner
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("moves")
    make_tiny_folder(folder / "model", num_hidden_layers=1)
    (folder / "move.py").write_text(MOVE)
    (folder / "own.py").write_text(REWARD)
    return folder


def train(base: Path, folder: Path, steps: int, *, count: int, devices: int) -> None:
    own = {"model": base / "model", "output_dir": folder, "max_steps": steps}
    own |= {"reward_funcs": f"[{base}/own.py:parity]"}
    Job(count, ["train", CONFIG, *options(**SETTINGS | own)], base, devices=devices).run()


@pytest.mark.slow
def test_a_checkpoint_moves_between_devices_and_processes_and_back(base, tmp_path):
    run, moved, back = tmp_path / "run", tmp_path / "moved", tmp_path / "back"
    train(base, run, 2, **EIGHT)
    program = [str(base / "move.py")]
    Job(1, [run / "config.yaml", run / "checkpoints", moved], base, devices=2, program=program).run()
    Job(2, [run / "config.yaml", moved, back], base, devices=8, program=program).run()

    saved = arrays(run / "checkpoints" / "2")
    assert any(name.startswith("opt_state") for name in saved)
    for folder in (moved, back):
        read = arrays(folder / "2")
        assert read.keys() == saved.keys()
        for name, array in saved.items():
            assert read[name].dtype == array.dtype
            assert np.asarray(read[name]).tobytes() == np.asarray(array).tobytes(), name

    train(base, run, 4, **TWO)
    train(base, run, 6, **EIGHT)
    train(base, tmp_path / "unbroken", 6, **EIGHT)
    assert max(step["grad_norm"] for step in read_metrics(run)) > 0.1
    for one, other in zip(read_metrics(run), read_metrics(tmp_path / "unbroken"), strict=True):
        assert numbers(one) == pytest.approx(numbers(other), rel=1e-5, abs=1e-6)
    for step in range(1, 7):
        one, other = (read_completions(folder, steps=[step]) for folder in (run, tmp_path / "unbroken"))
        for column in ("prompt", "image", "completion"):
            assert [row[column] for row in one] == [row[column] for row in other]


def numbers(step: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in step.items() if not name.startswith(OF_THE_MACHINE)}
