"""Which slots of a batch's grid are computed: a shorter grid, or several short completions in one row.

A group is a grid of G completions as long as the longest may be. Where all are shorter, the grid is cut
behind the longest; where most are, fewer and longer rows hold them all. Nothing is computed for the slots
left out, and positions and masks stay those of the grid, so the numbers are the same. Host numbers and index
arrays; knows no model.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Of the grid's slots. Each layout is a program of its own to compile, so they are few. On a CPU the tiny
# config's reference pass and update take 0.38 s in half the slots, 0.54 s in the grid; in three quarters of
# the slots they took as long as in the grid.
_SHARES = (0.5, 0.25, 0.125)
_SMALLEST = 64


@partial(jax.tree_util.register_dataclass, data_fields=(), meta_fields=("length", "grid_length"))
@dataclass(frozen=True)
class ShortGrid:
    """The first `length` slots of a grid of `grid_length`; used as `Packing` is."""

    length: int
    grid_length: int

    segments = None
    is_first = None

    @property
    def share(self) -> float:
        """Of the grid's slots, those that are computed."""
        return self.length / self.grid_length

    def pack(self, grid: Array, fill: int = 0) -> Int[Array, "batch group slots"]:
        """Values of the grid (batch, group, length) where it is computed."""
        return grid[..., : self.length]

    def unpack(self, rows: Float[Array, "batch group slots"]) -> Float[Array, "batch group length"]:
        """Values on the whole grid; 0 where nothing was computed."""
        return jnp.pad(rows, [(0, 0), (0, 0), (0, self.grid_length - self.length)])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Packing:
    """Where the tokens of a group lie in its rows.

    `source`: for each slot the token's place in the flattened grid (group * length), -1 in an empty slot;
    `slot`: for each place of the grid its slot in the flattened rows, 0 where there is no token.
    """

    source: Int[Array, "batch rows slots"]
    slot: Int[Array, "batch group length"]

    @property
    def grid_length(self) -> int:
        return self.slot.shape[-1]

    @property
    def share(self) -> float:
        """Of the grid's slots, those that are computed."""
        return math.prod(self.source.shape[1:]) / math.prod(self.slot.shape[1:])

    @property
    def segments(self) -> Int[Array, "batch rows slots"]:
        """The number of each slot's completion, from 1; 0 in an empty slot."""
        return jnp.where(self.source < 0, 0, self.source // self.grid_length + 1)

    @property
    def is_first(self) -> Array:
        """True at the first token of each completion."""
        return (self.source >= 0) & (self.source % self.grid_length == 0)

    def pack(self, grid: Array, fill: int = 0) -> Int[Array, "batch rows slots"]:
        """Values of the grid (batch, group, length) in the packed rows; `fill` in empty slots."""
        flat = grid.reshape(grid.shape[0], -1)
        source = self.source.reshape(self.source.shape[0], -1)
        packed = jnp.take_along_axis(flat, jnp.maximum(source, 0), axis=1)
        return jnp.where(source < 0, fill, packed).reshape(self.source.shape)

    def unpack(self, rows: Float[Array, "batch rows slots"]) -> Float[Array, "batch group length"]:
        """Values of packed rows on the grid; numbers without meaning where there is no token."""
        slot = self.slot.reshape(self.slot.shape[0], -1)
        return jnp.take_along_axis(rows.reshape(rows.shape[0], -1), slot, axis=1).reshape(self.slot.shape)


@dataclass(frozen=True)
class Layout(ABC):
    """Each group in `rows` rows of `length` slots."""

    rows: int
    length: int

    @property
    def slots(self) -> int:
        return self.rows * self.length

    @abstractmethod
    def holds(self, lengths: Int[np.ndarray, " group"]) -> bool:
        """Whether a group of these completions fits."""

    @abstractmethod
    def arrange(self, lengths: Int[np.ndarray, "batch group"], longest: int) -> Packing | ShortGrid:
        """Where the tokens of a batch of completions of up to `longest` lie.

        Raises ValueError when a group does not fit.
        """


@dataclass(frozen=True)
class Cut(Layout):
    """A row a completion, as in the grid, but shorter."""

    def holds(self, lengths: Int[np.ndarray, " group"]) -> bool:
        return bool(lengths.max() <= self.length)

    def arrange(self, lengths: Int[np.ndarray, "batch group"], longest: int) -> ShortGrid:
        if lengths.max() > self.length:
            raise ValueError(f"a completion has {lengths.max()} tokens, which a cut to {self.length} loses")
        return ShortGrid(self.length, longest)

    def __str__(self) -> str:
        return f"answers of up to {self.length}"


@dataclass(frozen=True)
class Packed(Layout):
    """Several completions a row, one after the other."""

    def holds(self, lengths: Int[np.ndarray, " group"]) -> bool:
        return self._members(lengths) is not None

    def arrange(self, lengths: Int[np.ndarray, "batch group"], longest: int) -> Packing:
        batch, group = lengths.shape
        source = np.full((batch, self.rows, self.length), -1, np.int32)
        slot = np.zeros((batch, group, longest), np.int32)
        for number, own in enumerate(lengths):
            rows = self._members(own)
            if rows is None:
                raise ValueError(f"lengths {own.tolist()} do not fit {self.rows} rows of {self.length} slots")
            for row, members in enumerate(rows):
                start = 0
                for member in members:
                    places, count = np.arange(own[member]), int(own[member])
                    source[number, row, start : start + count] = member * longest + places
                    slot[number, member, :count] = row * self.length + start + places
                    start += count
        return Packing(source, slot)  # type: ignore[arg-type]  # numpy on the host, as a batch is

    def _members(self, lengths: Int[np.ndarray, " group"]) -> list[list[int]] | None:
        """Which completions go into each row, the longest first into the first with room; None: no room."""
        free = [self.length] * self.rows
        rows: list[list[int]] = [[] for _ in free]
        for member in sorted(range(len(lengths)), key=lambda member: (-int(lengths[member]), member)):
            row = next((row for row, room in enumerate(free) if room >= lengths[member]), None)
            if row is None:
                return None
            rows[row].append(member)
            free[row] -= int(lengths[member])
        return rows

    def __str__(self) -> str:
        return f"{self.rows} rows of {self.length}"


def layouts(group: int, length: int) -> tuple[Packed, ...]:
    """The packed layouts of a grid of `group` completions of up to `length` tokens, from large to small.

    Rows twice as long as the grid's: two completions of 0.6 of the length do not fit one row of the length,
    three fit one of twice the length. None has more rows than can be filled, or fewer than 64 slots.
    """
    found = []
    for share in _SHARES:
        slots = round(share * group * length)
        rows = max(1, slots // (2 * length))
        layout = Packed(rows, min(2 * length, slots))
        if layout.slots >= _SMALLEST and layout.length >= length and layout not in found:
            found.append(layout)
    return tuple(layout for layout in found if layout.slots < group * length)


def choose_layout(lengths: Int[np.ndarray, "batch group"], allowed: Sequence[Layout]) -> Layout | None:
    """The smallest of `allowed` that holds every group; None where only the grid does."""
    for layout in sorted(allowed, key=lambda layout: layout.slots):
        if all(layout.holds(group) for group in lengths):
            return layout
    return None
