"""Weights at scale: what a process reads of a checkpoint, and what importing the 2B model takes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fixtures.jobs import Job
from fixtures.synthetic_folder import make_synthetic_folder

from vtzero.models.qwen2_vl.config import PUBLISHED, Qwen2VLConfig, TextConfig, VisionConfig
from vtzero.training.huggingface_folder import checkpoint_tensors, read_config
from vtzero.training.tensor_files import StoredTensor

GIBIBYTE = 2**30
SMALL = Qwen2VLConfig(
    text=TextConfig(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        mrope_section=(8, 12, 12),
    ),
    vision=VisionConfig(depth=2, embed_dim=128, hidden_size=256, num_heads=4),
    image_token_id=4092,
    video_token_id=4093,
    vision_start_token_id=4094,
    vision_end_token_id=4095,
)
READ = """
import sys
from pathlib import Path
from vtzero.models.qwen2_vl.weights import abstract_model
from vtzero.parallel.mesh import MeshSettings, make_mesh
from vtzero.parallel.processes import start
from vtzero.parallel.sharding import shard_params
from vtzero.training.huggingface import load_model, read_config

def read_so_far():
    return int(Path("/proc/self/io").read_text().split()[1])

start()
folder = sys.argv[1]
shapes = abstract_model(read_config(folder))[1]
for axis in ("data", "fsdp", "tensor"):
    sharding = shard_params(shapes, make_mesh(MeshSettings(**{"data": 1, axis: -1})))
    load_model(folder, sharding=sharding)  # programs are read too, the first time
    before = read_so_far()
    load_model(folder, sharding=sharding)
    print("bytes", read_so_far() - before)
"""


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="bytes read are counted by Linux's /proc")
def test_each_of_four_processes_reads_a_quarter_on_any_mesh(tmp_path):
    folder = make_synthetic_folder(tmp_path / "source", SMALL, files=3)
    script = tmp_path / "read.py"
    script.write_text(READ)
    said = Job(4, [folder], tmp_path, program=[str(script)]).run()
    counts = [int(line.split()[1]) for line in said.splitlines() if line.startswith("bytes ")]
    assert len(counts) == 3 * 4
    quarter = size_of(folder) / 4
    assert quarter > 3e6
    assert quarter < min(counts) <= max(counts) < 1.15 * quarter


@pytest.mark.slow
def test_processes_import_and_export_together(tmp_path):
    folder = make_synthetic_folder(tmp_path / "source", SMALL, files=3)
    Job(2, ["import", folder, tmp_path / "imported"], tmp_path).run()
    Job(2, ["export", tmp_path / "imported", tmp_path / "out"], tmp_path).run()
    assert_same_tensors(tmp_path / "out", folder)
    assert sorted(path.name for path in tmp_path.glob("out/*")) == ["config.json", "model.safetensors"]


def assert_same_tensors(actual: Path, expected: Path) -> None:
    config = read_config(expected)
    one, other = checkpoint_tensors(actual, config), checkpoint_tensors(expected, config)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        assert np.array_equal(raw(tensor), raw(other[name])), name


def raw(tensor: StoredTensor) -> np.ndarray:
    return np.memmap(tensor.file, np.uint8, "r", tensor.offset, (tensor.nbytes,))


def run_alone(*arguments: object) -> tuple[float, float]:
    """Seconds and peak bytes of the command in a process of its own with eight devices."""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    # A child's peak is told by the kernel for the largest one that has ended: a process between, for each.
    script = "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); print(code, resource"
    script += ".getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"
    command = [sys.executable, "-c", script, sys.executable, "-m", "vtzero.cli", *map(str, arguments)]
    began = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    code, peak = map(int, done.stdout.split()[-2:])
    assert code == 0, done.stdout + done.stderr
    return time.monotonic() - began, peak


@pytest.mark.slow
def test_importing_and_exporting_2b_into_eight_devices_takes_little_more_than_the_weights(tmp_path):
    folder = make_synthetic_folder(tmp_path / "source", PUBLISHED["Qwen2-VL-2B"], files=3)
    largest = max(file.stat().st_size for file in folder.glob("*.safetensors"))
    size = size_of(folder)
    assert size > 4.4e9
    figures = {
        "import": run_alone("import", folder, tmp_path / "imported"),
        "export": run_alone("export", tmp_path / "imported", tmp_path / "out"),
    }
    bar = largest + size + GIBIBYTE
    for name, (seconds, peak) in figures.items():
        print(f"{name}: {seconds:.1f} s, {peak / GIBIBYTE:.2f} GiB at its peak (bar {bar / GIBIBYTE:.2f})")
        assert peak <= bar
        assert seconds <= 90
    assert_same_tensors(tmp_path / "out", folder)
