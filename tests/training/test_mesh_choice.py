"""Over how many devices a state is shared out: as few as leave room, or those that the config names."""

import jax
import pytest

from vtzero.config import MeshConfig, RunConfig
from vtzero.models.qwen2_vl.config import PUBLISHED
from vtzero.training.huggingface import read_config
from vtzero.training.mesh_choice import chosen_gathering, chosen_mesh, fewest_sharers, state_bytes
from vtzero.training.setup import model_folder, reference_parameters, set_up

GIB = 2**30


@pytest.mark.parametrize(
    ("held", "devices", "sharers"),
    [(0, 8, 1), (40, 8, 1), (41, 8, 2), (81, 8, 4), (320, 8, 8), (1000, 8, 8), (81, 6, 2), (81, 1, 1)],
)
def test_as_few_share_as_leave_half_of_80_gib_free(held, devices, sharers):
    assert fewest_sharers(held * GIB, devices, 80 * GIB) == sharers


@pytest.mark.parametrize(
    ("size", "devices", "memory", "mesh", "sizes"),
    [
        ("Qwen2-VL-2B", 8, 80, MeshConfig(), (8, 1, 1)),
        ("Qwen2-VL-7B", 8, 80, MeshConfig(), (2, 4, 1)),
        ("Qwen2-VL-7B", 8, 80, MeshConfig(tensor=2), (2, 2, 2)),
        ("Qwen2-VL-2B", 16, 15.75, MeshConfig(), (2, 8, 1)),
        ("Qwen2-VL-7B", 16, 15.75, MeshConfig(), (1, 16, 1)),
        ("Qwen2-VL-7B", 8, 80, MeshConfig(fsdp=1), (8, 1, 1)),
        ("Qwen2-VL-7B", 8, 80, MeshConfig(fsdp=8), (1, 8, 1)),
        ("Qwen2-VL-7B", 8, 80, MeshConfig(data=8), (8, 1, 1)),
        ("Qwen2-VL-7B", 8, 80, MeshConfig(data=2, tensor=-1), (2, 1, 4)),
    ],
    ids=str,
)
def test_the_mesh_of_a_published_size(size, devices, memory, mesh, sizes):
    settings = chosen_mesh(RunConfig(mesh=mesh), PUBLISHED[size], devices, int(memory * GIB))
    assert settings.for_devices(devices) == sizes


@pytest.mark.parametrize("changes", [{}, {"beta": 0.0}, {"freeze": ("vision",)}], ids=str)
def test_bytes_are_those_of_the_arrays_that_a_run_holds(changes, tmp_path):
    config = RunConfig(**changes)
    setup, state = set_up(config, tmp_path)
    reference = reference_parameters(setup, tmp_path) if config.beta else None
    held = sum(leaf.nbytes for leaf in jax.tree.leaves((state, reference)))
    assert state_bytes(config, read_config(model_folder(config.model))) == held


@pytest.mark.parametrize(
    ("size", "mesh", "memory", "gathers"),
    [
        ("Qwen2-VL-2B", {"fsdp": 4, "tensor": 1}, 15.75, True),  # 7.2 GiB held, a copy of 4.1
        ("Qwen2-VL-7B", {"fsdp": 16, "tensor": 1}, 15.75, False),  # the copy alone takes 15.4
        ("Qwen2-VL-7B", {"fsdp": 4, "tensor": 4}, 15.75, True),
        ("Qwen2-VL-72B", {"fsdp": 64, "tensor": 1}, 95.74, False),
        ("Qwen2-VL-72B", {"fsdp": 8, "tensor": 8}, 95.74, True),
    ],
    ids=str,
)
def test_a_rollout_gathers_the_weights_where_the_copy_leaves_room(size, mesh, memory, gathers):
    config = RunConfig(dtype="bfloat16")
    decided = chosen_gathering(config, PUBLISHED[size], mesh, int(memory * GIB))
    assert decided.gather_for_generation is gathers
    for said in (True, False):
        config = RunConfig(gather_for_generation=said)
        assert chosen_gathering(config, PUBLISHED[size], mesh, int(memory * GIB)) == config
