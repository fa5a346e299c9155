"""Sizes of the mesh, and the table of parameters, on whatever devices there are."""

import re
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from jax.experimental import topologies
from jax.sharding import AxisType

from vtzero.models.qwen2_vl.config import Qwen2VLConfig, TextConfig, VisionConfig
from vtzero.models.qwen2_vl.weights import abstract_model
from vtzero.parallel.mesh import AXES, MeshSettings, make_mesh
from vtzero.parallel.processes import row_share
from vtzero.parallel.sharding import (
    batch_shapes,
    batch_sharding,
    replicated,
    shapes_at,
    shard_batch,
    shard_params,
)
from vtzero.planning.environment import prepare_environment


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        (MeshSettings(), (8, 1, 1)),
        (MeshSettings(fsdp=4), (2, 4, 1)),
        (MeshSettings(data=1, fsdp=-1, tensor=2), (1, 4, 2)),
        (MeshSettings(data=2, fsdp=2, tensor=2), (2, 2, 2)),
        (MeshSettings(data=4, fsdp=2, tensor=-1), (4, 2, 1)),
    ],
)
def test_sizes_on_eight_devices(settings, sizes):
    assert settings.for_devices(8) == sizes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            MeshSettings(data=2, fsdp=2, tensor=1),
            "mesh data 2, fsdp 2, tensor 1 needs 4 devices.* there are 8",
        ),
        (MeshSettings(fsdp=3), "mesh data -1, fsdp 3, tensor 1 needs a multiple of 3 devices"),
        (MeshSettings(data=4, fsdp=4, tensor=1), "needs 16 devices"),
    ],
)
def test_sizes_that_do_not_fit_are_an_error(settings, message):
    with pytest.raises(ValueError, match=message):
        settings.for_devices(8)


def test_impossible_sizes_are_an_error():
    with pytest.raises(ValueError, match="mesh axis fsdp is 0"):
        MeshSettings(fsdp=0)
    with pytest.raises(ValueError, match="mesh data -1, fsdp -1, tensor 1: only one axis can be -1"):
        MeshSettings(fsdp=-1)


def test_a_mesh_of_given_devices_has_automatic_axes():
    mesh = make_mesh(MeshSettings(), jax.devices()[:1])
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    assert mesh.axis_types == (AxisType.Auto,) * 3


def slices(name: str, count: int) -> list[Any]:
    """The devices of so many TPU slices, as libtpu describes them."""
    pytest.importorskip("libtpu", reason="needs libtpu, which needs no TPU: pip install 'vtzero[plan]'")
    prepare_environment()
    return topologies.get_topology_desc(platform="tpu", topology_name=name, num_slices=count).devices


def axis_groups(mesh: Any, axis: str) -> list[Any]:
    """The devices along each line of an axis."""
    place = AXES.index(axis)
    return np.moveaxis(mesh.devices, place, -1).reshape(-1, mesh.devices.shape[place]).tolist()


@pytest.mark.parametrize(
    ("settings", "within"),
    [
        (MeshSettings(), ["fsdp", "tensor"]),
        (MeshSettings(fsdp=16), ["fsdp", "tensor"]),
        (MeshSettings(fsdp=4, tensor=4), ["fsdp", "tensor"]),
        (MeshSettings(data=1, fsdp=-1, tensor=2), ["tensor"]),
        (MeshSettings(data=2, fsdp=-1), ["fsdp"]),
    ],
    ids=str,
)
def test_axes_that_exchange_most_stay_within_a_slice(settings, within):
    mesh = make_mesh(settings, slices("v5e:4x4", 2))
    assert len({device.id for device in mesh.devices.flat}) == 32
    for axis in within:
        assert all(len({device.slice_index for device in group}) == 1 for group in axis_groups(mesh, axis))


def test_an_axis_over_slices_is_cut_into_whole_parts_of_them():
    mesh = make_mesh(MeshSettings(data=2, fsdp=-1), slices("v5e:2x2", 4))
    for group in axis_groups(mesh, "fsdp"):
        assert [device.slice_index for device in group[:4]] == [group[0].slice_index] * 4
        assert len({device.slice_index for device in group}) == 2


def test_tensor_over_slices_is_an_error():
    devices = slices("v5e:2x2", 4)
    with pytest.raises(ValueError, match="data 2, fsdp 1, tensor 8: tensor would reach over the 4 slices"):
        make_mesh(MeshSettings(data=2, tensor=8), devices)
    assert make_mesh(MeshSettings(data=2, fsdp=2, tensor=4), devices).size == 16


@pytest.mark.parametrize(
    ("name", "count", "settings"),
    [
        ("v5e:4x4", 2, MeshSettings()),
        ("v5e:4x4", 2, MeshSettings(fsdp=4, tensor=2)),
        ("v5p:2x2x4", 2, MeshSettings(data=1, fsdp=-1)),
        ("v5e:4x8", 2, MeshSettings(fsdp=2, tensor=4)),
    ],
    ids=str,
)
def test_each_process_of_a_slice_has_the_samples_of_its_devices(name, count, settings):
    mesh = make_mesh(settings, slices(name, count))
    share, batch = row_share(mesh), 2 * mesh.size
    lies = batch_sharding(mesh).devices_indices_map((batch,))
    for process in {device.process_index for device in lies}:
        own = [rows for device, (rows,) in lies.items() if device.process_index == process]
        held = sorted({row for rows in own for row in range(batch)[rows]})
        assert held in [replace(share, block=block).rows(batch) for block in range(share.blocks)]
    assert sorted(share.gathered_rows(batch)) == [*range(batch)]


@dataclass(frozen=True)
class Gpu:
    """What JAX tells of one of eight GPUs of a host, each host being a slice."""

    id: int
    platform: str = "gpu"
    device_kind: str = "NVIDIA H100 80GB HBM3"

    @property
    def process_index(self) -> int:
        return self.id // 8

    slice_index = process_index


@pytest.mark.parametrize(
    ("settings", "hosts"),
    [
        (MeshSettings(fsdp=8), {"fsdp": 1, "tensor": 1}),
        (MeshSettings(fsdp=4, tensor=2), {"fsdp": 1, "tensor": 1}),
        (MeshSettings(data=1, fsdp=-1, tensor=8), {"fsdp": 4, "tensor": 1}),
        (MeshSettings(tensor=16), {"tensor": 2}),
    ],
    ids=str,
)
def test_hosts_of_gpus_follow_each_other(settings, hosts):
    mesh = make_mesh(settings, [Gpu(number) for number in reversed(range(32))])
    for axis, count in hosts.items():
        assert {len({gpu.process_index for gpu in group}) for group in axis_groups(mesh, axis)} == {count}


@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_of_qwen2_vl_has_a_rule(tied):
    config = Qwen2VLConfig(text=TextConfig(), vision=VisionConfig(), tie_word_embeddings=tied)
    _, state = abstract_model(config)
    shardings = shard_params(state, make_mesh(MeshSettings(), jax.devices()[:1]))
    assert jax.tree.structure(shardings) == jax.tree.structure(state)
    # Every matrix is divided; what is whole on every device is small.
    for sharding, leaf in zip(jax.tree.leaves(shardings), jax.tree.leaves(state), strict=True):
        assert any(sharding.spec) or leaf.size < 100_000


def test_a_parameter_without_a_rule_is_an_error_that_names_it():
    class Model(nnx.Module):
        def __init__(self) -> None:
            self.rotation = nnx.Linear(2, 2, rngs=nnx.Rngs(0))

    mesh = make_mesh(MeshSettings(), jax.devices()[:1])
    with pytest.raises(ValueError, match=re.escape("rotation/")):
        shard_params(nnx.state(Model()), mesh)
    # A name that only ends like a known one is not a known one.
    with pytest.raises(ValueError, match="model/my_q_proj/weight: no rule"):
        shard_params({"model": {"my_q_proj": {"weight": np.zeros((2, 2))}}}, mesh)


def test_scalars_of_a_batch_are_replicated():
    mesh = make_mesh(MeshSettings(), jax.devices()[:1])
    placed = shard_batch({"count": np.int32(3)}, mesh)
    assert placed["count"] == 3
    assert placed["count"].sharding.is_fully_replicated


def test_shapes_lie_where_their_arrays_would():
    mesh = make_mesh(MeshSettings(), jax.devices()[:1])
    host = {"positions": np.zeros((3, 2, 5), np.int32), "count": np.int32(3), "mask": np.zeros((2, 5), bool)}
    placed, shapes = shard_batch(host, mesh), batch_shapes(host, mesh)
    for array, shape in zip(jax.tree.leaves(placed), jax.tree.leaves(shapes), strict=True):
        assert (shape.shape, shape.dtype, shape.sharding) == (array.shape, array.dtype, array.sharding)
        assert not isinstance(shape, jax.Array)


def test_one_sharding_serves_all_that_is_below_it():
    mesh = make_mesh(MeshSettings(), jax.devices()[:1])
    rows, everywhere = batch_sharding(mesh), replicated(mesh)
    tree = {"a": (np.zeros(2), None, np.zeros((4, 1))), "b": np.zeros(3, np.int32)}
    shapes = shapes_at(tree, {"a": rows, "b": everywhere})
    assert [leaf.sharding for leaf in jax.tree.leaves(shapes)] == [rows, rows, everywhere]
    assert jax.tree.structure(shapes) == jax.tree.structure(tree) == jax.tree.structure(shapes_at(tree, rows))
