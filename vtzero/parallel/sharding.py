"""Which axis of an array lies on which axis of the mesh: one table for parameters, one rule for batches.

Knows names and shapes only: no model code, no files, no config of runs.
"""

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from vtzero.parallel.mesh import AXES

RULES: tuple[tuple[str, P], ...] = (
    (r"(embed_tokens|lm_head)/weight", P("tensor", "fsdp")),
    # A pair of layers is cut where the first one's output enters the second, so that only the second's
    # result has to be summed over `tensor`.
    (r"(q_proj|k_proj|v_proj|gate_proj|up_proj|qkv|fc1)/weight", P("tensor", "fsdp")),
    (r"(q_proj|k_proj|v_proj|qkv|fc1)/bias", P("tensor")),
    (r"(o_proj|down_proj|proj|fc2)/weight", P("fsdp", "tensor")),
    (r"(proj|fc2)/bias", P(None)),
    (r"(input_layernorm|post_attention_layernorm|norm|norm1|norm2|ln_q)/(weight|bias)", P()),
    (r"patch_embed/weight", P("fsdp")),
)
"""(module/parameter, PartitionSpec) for each parameter of Qwen2-VL; of a stack, for one layer of it."""

STACKS = (r"visual/blocks/", r"model/layers/")
"""Where parameters have a leading layer axis, which is not divided."""

BATCH_AXES = ("data", "fsdp")
SHARED_OUT = "fsdp"
"""The axis whose devices hold parts of the parameters and compute with all of them."""


def shard_params(params: Any, mesh: Mesh) -> Any:
    """The NamedSharding of each parameter, in a tree like `params` (arrays, or anything with a shape).

    A mesh axis that does not divide its dimension is left out there: the dimension is then whole on every
    device of that axis.

    Raises ValueError naming a parameter that no rule covers.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, parameter_spec(_join(path), leaf.shape, mesh)), params
    )


def parameter_spec(path: str, shape: Sequence[int], mesh: Mesh | AbstractMesh) -> P:
    """The mesh axes of the one parameter at `path` (names joined by slashes), as in `shard_params`."""
    if not shape:
        return P()
    for pattern, spec in RULES:
        if re.search(rf"(^|/){pattern}(/|$)", path):
            stacked = any(stack in path for stack in STACKS)
            return _fit((None, *spec) if stacked else tuple(spec), shape, mesh)
    raise ValueError(f"{path}: no rule says how to shard this parameter; add one to RULES in {__name__}")


def mesh_in_context() -> AbstractMesh | None:
    """The mesh that is set (`jax.set_mesh`); None without one that has the axes of `mesh.AXES`, all Auto."""
    mesh = jax.sharding.get_abstract_mesh()
    automatic = all(kind is AxisType.Auto for kind in mesh.axis_types)
    return mesh if automatic and set(AXES) <= set(mesh.axis_names) else None


def keep_in_place(params: Any) -> Any:
    """The same parameters, held where the table puts them on the mesh that is set, and their gradients too.

    Inside of a loop over layers, this is what makes a layer's gradient lie there as soon as it is computed,
    instead of whole on every device.
    """
    return _hold(params)


def gathered(params: Any, at: str = "") -> Any:
    """The same parameters, whole along `fsdp` on the mesh that is set; `at` is the path of a single one."""
    return _hold(params, at, whole_over=SHARED_OUT)


def by_samples(activations: Array) -> Array:
    """Activations, samples first, each device with all of its own samples on the mesh that is set.

    A table of embeddings whose width is divided would otherwise have the width of all that follows divided.
    """
    mesh = mesh_in_context()
    if mesh is None or activations.shape[0] % readers(mesh):
        return activations
    return jax.lax.with_sharding_constraint(activations, P(BATCH_AXES, *(None,) * (activations.ndim - 1)))


def is_divided() -> bool:
    """Whether the mesh that is set divides parameters over devices that each need all of them."""
    mesh = mesh_in_context()
    return mesh is not None and mesh.shape[SHARED_OUT] > 1


def _hold(params: Any, at: str = "", whole_over: str | None = None) -> Any:
    mesh = mesh_in_context()
    if mesh is None or mesh.size == 1:
        return params

    def hold(path: tuple[Any, ...], leaf: Any) -> Any:
        spec = parameter_spec(_join(path) or at, leaf.shape, mesh)
        kept = (None if axis == whole_over else axis for axis in spec)
        return jax.lax.with_sharding_constraint(leaf, P(*kept))

    return jax.tree_util.tree_map_with_path(hold, params)


def state_sharding(state: Any, mesh: Mesh) -> Any:
    """The NamedSharding of each array of a training state (arrays or shapes), as `shard_params` gives them.

    An optimizer's moments carry the path of their parameter, and lie as it does; counters are replicated.
    """
    return shard_params(state, mesh)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis, samples, over `data` and `fsdp` together."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """A batch (nested dataclasses of arrays, samples first) on the mesh; scalars are replicated.

    Where several processes share the mesh, each passes the same whole batch and keeps its own part
    (`processes.join_rows` takes parts).

    Raises ValueError when the samples do not divide over `data` * `fsdp`.
    """
    shards = readers(mesh)

    def put(path: tuple[Any, ...], leaf: Any) -> jax.Array:
        axis, _ = batch_spec(path)
        if leaf.ndim and leaf.shape[axis] % shards:
            raise ValueError(
                f"{_join(path)} has {leaf.shape[axis]} samples, which do not divide over "
                f"data * fsdp = {shards}"
            )
        return place(leaf, _batch_leaf_sharding(mesh, path, leaf))

    return jax.tree_util.tree_map_with_path(put, batch)


def batch_shapes(batch: Any, mesh: Mesh) -> Any:
    """The shapes of a batch's arrays where `shard_batch` would put them."""
    return shapes_at(batch, jax.tree_util.tree_map_with_path(partial(_batch_leaf_sharding, mesh), batch))


def shapes_at(tree: Any, shardings: Any) -> Any:
    """The shapes of a tree's arrays, or of its shapes, with where they will lie.

    `shardings` is one for all, or a tree like `tree` or like the top of it.
    """

    def shape(sharding: NamedSharding, below: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), below
        )

    return jax.tree.map(shape, shardings, tree)


def readers(mesh: Mesh | AbstractMesh) -> int:
    """How many devices, or groups of them along `tensor`, read all weights for a part of the batch each."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def even_rows(count: int, mesh: Mesh) -> int:
    """`count` rounded up to a number of samples that divides over the mesh."""
    return -(-count // readers(mesh)) * readers(mesh)


def batch_spec(path: Sequence[Any]) -> tuple[int, P]:
    """Which axis of a batch's array at this key path is samples, and its PartitionSpec.

    M-RoPE `positions` (3, samples, length) are the one array whose samples are second.
    """
    axis = 1 if _join(path).split("/")[-1] == "positions" else 0
    return axis, P(*(None,) * axis, BATCH_AXES)


def place(array: Any, sharding: NamedSharding) -> jax.Array:
    """An array that every process has whole, each keeping what its devices hold.

    `jax.device_put` does the same for one process; for several it first compares the array among them.
    """
    if jax.process_count() == 1:
        return jax.device_put(array, sharding)
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _batch_leaf_sharding(mesh: Mesh, path: Sequence[Any], leaf: Any) -> NamedSharding:
    return NamedSharding(mesh, batch_spec(path)[1] if leaf.ndim else P())


def _fit(axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh | AbstractMesh) -> P:
    """`axes` without those that do not divide their dimension."""
    divided = (
        axis if axis is not None and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(axes, shape, strict=False)
    )
    return P(*divided)


def _join(path: Sequence[Any]) -> str:
    """A key path as names joined by slashes."""
    names = (getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))) for key in path)
    return "/".join(str(name) for name in names)
