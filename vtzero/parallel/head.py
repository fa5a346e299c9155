"""How the LM head and the rows it is applied to are divided over the mesh that is set.

Knows names and shapes only, as `sharding` does: what is computed with head and rows is the caller's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from vtzero.parallel.sharding import BATCH_AXES, mesh_in_context, parameter_spec


@dataclass(frozen=True)
class HeadLayout:
    """The mesh axes that divide rows, vocabulary and width, and the exchanges between the shares.

    Without axes there is one share, and no exchange. `row_shards` is the number of shares of the rows.
    """

    row_axes: tuple[str, ...] = ()
    vocab_axis: str | None = None
    width_axis: str | None = None
    row_shards: int = 1

    def on_each_device(self, function: Callable[..., Any], out_specs: Any) -> Callable[..., Any]:
        """`function(rows, head, of_ids)` on the shares of each device.

        `rows` is a tree of arrays whose leading axis is divided; `of_ids` has one number an id.
        """
        if not self.axes:
            return function
        return jax.shard_map(function, in_specs=(self.rows, self.head, self.ids), out_specs=out_specs)

    @property
    def axes(self) -> tuple[str, ...]:
        """All axes that divide the work."""
        return self.row_axes if self.vocab_axis is None else (*self.row_axes, self.vocab_axis)

    @property
    def rows(self) -> P:
        """Of an array with one entry a row."""
        return P(self.row_axes)

    @property
    def head(self) -> P:
        """Of the head, (vocab, width)."""
        return P(self.vocab_axis, self.width_axis)

    @property
    def ids(self) -> P:
        """Of an array with one entry an id."""
        return P(self.vocab_axis)

    def first_id(self, count: int) -> int | Int[Array, ""]:
        """The first id of this device's share of `count` ids."""
        return 0 if self.vocab_axis is None else count * jax.lax.axis_index(self.vocab_axis)

    def whole_width(self, head: Float[Array, "ids part"]) -> Float[Array, "ids width"]:
        """This device's ids, their whole width gathered."""
        if self.width_axis is None:
            return head
        return jax.lax.all_gather(head, self.width_axis, axis=1, tiled=True)

    @property
    def head_axes(self) -> tuple[str, ...]:
        """The axes that divide the head."""
        return tuple(axis for axis in (self.vocab_axis, self.width_axis) if axis is not None)

    def zeros(self, shape: tuple[int, ...], axes: tuple[str, ...]) -> Float[Array, "..."]:
        """float32 zeros, to which each device along `axes` adds what is its own."""
        start = jnp.zeros(shape, jnp.float32)
        return jax.lax.pcast(start, axes, to="varying") if axes else start

    def sum_over_rows(self, of_head: Float[Array, "ids width"]) -> Float[Array, "ids part"]:
        """The sum over the devices' rows, each device keeping its own part of the width."""
        other_axes = tuple(axis for axis in self.row_axes if axis != self.width_axis)
        if self.width_axis is not None:
            of_head = jax.lax.psum_scatter(of_head, self.width_axis, scatter_dimension=1, tiled=True)
        return jax.lax.psum(of_head, other_axes) if other_axes else of_head

    def sum_over_ids(self, shares: Any) -> Any:
        """The sum of a tree of arrays over the shares of the vocabulary."""
        return shares if self.vocab_axis is None else jax.lax.psum(shares, self.vocab_axis)

    def largest_over_ids(self, share: Array) -> Array:
        """The largest over the shares of the vocabulary."""
        return share if self.vocab_axis is None else jax.lax.pmax(share, self.vocab_axis)


def head_layout(shape: tuple[int, ...]) -> HeadLayout:
    """The layout of a head of `shape` (vocab, width) on the mesh that is set (`jax.set_mesh`).

    It is undivided when none is set, and on any that has not the axes of `mesh.AXES`, of type Auto.
    """
    mesh = mesh_in_context()
    if mesh is None:
        return HeadLayout()
    # Axes of one device are left out, since XLA:CPU copies an array that it gathers from one device.
    vocab_axis, width_axis = (
        axis if axis is not None and mesh.shape[axis] > 1 else None
        for axis in parameter_spec("lm_head/weight", shape, mesh)
    )
    row_axes = tuple(axis for axis in BATCH_AXES if mesh.shape[axis] > 1)
    return HeadLayout(row_axes, vocab_axis, width_axis, prod(mesh.shape[axis] for axis in row_axes))
