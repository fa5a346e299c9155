"""Running a kernel on each device's own part of the arrays, where the compiler cannot divide it by itself.

Knows the mesh's axes and which axis of an array is samples or heads; no kernel, no model.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from vtzero.parallel.sharding import BATCH_AXES

HEADS_AXIS = "tensor"


def target_platform() -> str:
    """ "cpu", "gpu" or "tpu": where what is being traced will run.

    A mesh in context decides, so that a program can be compiled for hardware that is not here.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def over_devices(function: Callable[..., Any], operands: tuple[Any, ...], outputs: Any) -> Any:
    """`function(*operands)`, each device computing its own samples and heads; results have `outputs`' shapes.

    Operands and `outputs` are trees of arrays whose first axis is samples; floating ones end in
    (heads, head_dim). Samples lie on the mesh's batch axes and heads on `tensor` where these divide them;
    where they do not, every device along that axis computes the same.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function(*operands)
    operands, split_heads = _divisible_heads(operands, mesh.shape.get(HEADS_AXIS, 1))
    batch = jax.tree.leaves(operands)[0].shape[0]
    spec = partial(_spec, samples=_batch_axes(mesh, batch), heads=HEADS_AXIS if split_heads else None)
    return jax.shard_map(
        function,
        in_specs=jax.tree.map(spec, operands),
        out_specs=jax.tree.map(spec, outputs),
        # The kernels' results carry no record of the axes over which they vary.
        check_vma=False,
    )(*operands)


def _batch_axes(mesh: AbstractMesh, batch: int) -> tuple[str, ...] | None:
    axes = tuple(axis for axis in BATCH_AXES if axis in mesh.axis_names)
    size = 1
    for axis in axes:
        size *= mesh.shape[axis]
    return axes if axes and batch % size == 0 else None


def _divisible_heads(operands: Any, shards: int) -> tuple[Any, bool]:
    """Operands whose heads divide over `shards`, and whether they do.

    Fewer key heads than shards are repeated, so that each device has the one that its queries read.
    """
    counts = {x.shape[-2] for x in jax.tree.leaves(operands) if _has_heads(x)}
    fewest, most = min(counts), max(counts)
    if shards == 1 or most % shards or (fewest % shards and shards % fewest):
        return operands, False
    repeats = max(1, shards // fewest)

    def repeat(x: Array) -> Array:
        return jnp.repeat(x, repeats, axis=-2) if _has_heads(x) and x.shape[-2] == fewest else x

    return (operands if repeats == 1 else jax.tree.map(repeat, operands)), True


def _spec(x: Array, *, samples: tuple[str, ...] | None, heads: str | None) -> P:
    between = (None,) * (x.ndim - 3)
    return P(samples, *between, heads, None) if _has_heads(x) else P(samples)


def _has_heads(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)
