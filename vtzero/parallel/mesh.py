"""The device mesh: how many devices share each of the three axes `data`, `fsdp` and `tensor`.

Knows devices only: no parameters, no model, no config of runs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import jax
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp", "tensor")


@dataclass(frozen=True)
class MeshSettings:
    """Devices along each axis; -1, in one place at most, stands for all that the other axes leave.

    - `data`: each device has its own share of the batch and all of the parameters;
    - `fsdp`: each has its own share of the batch and of the parameters;
    - `tensor`: each has its own share of the parameters and computes its own part of every layer.

    Raises ValueError for a size that is neither -1 nor positive, or for more than one -1.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            size = getattr(self, field.name)
            if size != -1 and size < 1:
                raise ValueError(
                    f"mesh axis {field.name} is {size}; it must be at least 1, or -1 for the rest"
                )
        if self.sizes.count(-1) > 1:
            raise ValueError(f"mesh {self.describe()}: only one axis can be -1")

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(data, fsdp, tensor)."""
        return (self.data, self.fsdp, self.tensor)

    def describe(self) -> str:
        """The sizes by name, for messages."""
        return ", ".join(f"{axis} {size}" for axis, size in zip(AXES, self.sizes, strict=True))

    def for_devices(self, count: int) -> tuple[int, int, int]:
        """The sizes on `count` devices, with -1 replaced.

        Raises ValueError when they do not use every device exactly once.
        """
        fixed = math.prod(size for size in self.sizes if size != -1)
        if count % fixed or (-1 not in self.sizes and fixed != count):
            wanted = "a multiple of " if -1 in self.sizes else ""
            raise ValueError(
                f"mesh {self.describe()} needs {wanted}{fixed} devices, but there are {count}: "
                "change the sizes, or set one of them to -1"
            )
        data, fsdp, tensor = (count // fixed if size == -1 else size for size in self.sizes)
        return data, fsdp, tensor


def make_mesh(settings: MeshSettings, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices (or the given ones) with axes `data`, `fsdp`, `tensor`.

    The axes are of type Auto: XLA moves what a computation needs, so that one model code serves every mesh.

    Raises ValueError as `MeshSettings.for_devices` does.
    """
    devices = jax.devices() if devices is None else devices
    shape = settings.for_devices(len(devices))
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
