"""TPU slices by name, and what their chips can do. Knows no model and no config of runs."""

from dataclasses import dataclass
from typing import Any

from vtzero.training.ceilings import Limits, published

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One chip: usable memory in bytes, its published limits, and the bytes a second of all its links.

    Memory is what libtpu's compiler accepts (v5e: 15.75 of 16 GiB); links are half of the bidirectional
    interchip bandwidth of Google Cloud's TPU pages, since bytes received are compared with them; every axis
    of a mesh is taken to use all of a chip's links.
    """

    memory: int
    limits: Limits
    links: float


def _chip(kind: str, memory: float, links: float) -> Chip:
    limits = published(kind)
    assert limits is not None
    return Chip(int(memory * GIB), limits, links)


CHIPS = {
    "v5e": _chip("TPU v5e", 15.75, 200e9),
    "v5p": _chip("TPU v5p", 95.74, 600e9),
    "v6e": _chip("TPU v6e", 31.25, 448e9),
}
SLICES = {
    "v5e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
    "v6e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
}


@dataclass(frozen=True)
class Slice:
    """Chips that are not here, as devices to compile for."""

    name: str
    chip: Chip
    devices: Any

    @property
    def size(self) -> int:
        return len(self.devices)


def check_name(name: str) -> tuple[str, str]:
    """(generation, shape) of "v5e:4x4".

    Raises ValueError with the known names for any other.
    """
    generation, _, shape = name.partition(":")
    if shape not in SLICES.get(generation, ()):
        known = "; ".join(f"{kind}:{', '.join(shapes)}" for kind, shapes in SLICES.items())
        raise ValueError(f"topology {name!r} is unknown; known are {known}")
    return generation, shape


def larger(name: str) -> list[str]:
    """The slices of the same generation with more chips, the smallest first."""
    generation, shape = check_name(name)
    shapes = SLICES[generation]
    return [f"{generation}:{other}" for other in shapes[shapes.index(shape) + 1 :]]


def open_slice(name: str) -> Slice:
    """The devices of a slice, as `vtzero plan` compiles for them.

    Raises ValueError for an unknown name, and where libtpu is not installed.
    """
    generation, _ = check_name(name)
    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise ValueError(
            "planning for TPUs needs their compiler, libtpu, which needs no TPU: pip install 'vtzero[plan]'"
        ) from None
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    return Slice(name, CHIPS[generation], devices)
