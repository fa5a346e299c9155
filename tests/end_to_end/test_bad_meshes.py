"""Meshes that do not fit the devices, the batch or the model: one line each, and exit code 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.command import options
from fixtures.tiny_folder import make_tiny_folder

from vtzero.models.qwen2_vl.config import PUBLISHED
from vtzero.training.setup import tensor_sizes

CONFIG = Path(__file__).parents[2] / "configs" / "tiny.yaml"
MISTAKES = {
    "mesh.data 3": "mesh data 3, fsdp 1, tensor 1 needs 3 devices, but there are 8: change the sizes, or "
    "set one of them to -1",
    "mesh.fsdp 3": "mesh data -1, fsdp 3, tensor 1 needs a multiple of 3 devices, but there are 8: change "
    "the sizes, or set one of them to -1",
    "prompts_per_step 4": "prompts_per_step is 4, which does not divide over the mesh's data * fsdp = 8 "
    "devices; change one of them (mesh.tensor takes devices too)",
    "mesh.tensor 8": "mesh.tensor is 8, which cannot share out the model's heads (4 of queries, 2 of keys, "
    "4 of the vision encoder); it can be 1, 2, 4",
}
SCRIPT = "import sys; from vtzero.cli import main; arguments = sys.argv[2:]\n"
SCRIPT += "for change in sys.argv[1].split(';'):\n"
SCRIPT += "    name, value = change.split(); print(main([*arguments, f'--{name}', value]))"


@pytest.mark.parametrize("dry", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_each_mistake_is_one_line(tmp_path, dry):
    model = make_tiny_folder(tmp_path / "model")
    arguments = ["train", CONFIG, *options(model=model, output_dir=tmp_path / "run")]
    arguments += ["--dry_run"] if dry else []
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-c", SCRIPT, ";".join(MISTAKES), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2"] * len(MISTAKES)
    assert done.stderr.splitlines() == [f"vtzero train: {message}" for message in MISTAKES.values()]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("Qwen2-VL-2B", [1, 2, 4]), ("Qwen2-VL-7B", [1, 2, 4]), ("Qwen2-VL-72B", [1, 2, 4, 8, 16])],
)
def test_over_how_many_devices_the_published_heads_divide(name, sizes):
    assert tensor_sizes(PUBLISHED[name]) == sizes
