"""Runs the tests of eight devices in processes of their own, which have eight virtual CPU devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.fast_compile import FAST_COMPILE_FLAGS

XLA_FLAGS = f"--xla_force_host_platform_device_count=8 {FAST_COMPILE_FLAGS}"


@pytest.mark.parametrize(
    "script",
    [
        "eight_devices.py",
        "eight_devices_head.py",
        "sharded_vocabulary.py",
        pytest.param("every_mesh.py", marks=pytest.mark.slow),
    ],
)
def test_any_mesh_computes_what_one_device_does(script):
    environment = os.environ | {"XLA_FLAGS": XLA_FLAGS, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "pytest", str(Path(__file__).with_name(script)), "--durations=10"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
