"""The device mesh: how many devices share each of the three axes `data`, `fsdp` and `tensor`.

Knows devices only: no parameters, no model, no config of runs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import jax
import numpy as np
from jax.experimental import mesh_utils
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
    Neighbours along an axis are neighbours by wire where a TPU's wires allow it. Several TPU slices are
    divided along `data` as far as it goes, then along `fsdp`: between slices the network is slow, and these
    exchange least. GPUs follow each other host by host, so that `tensor`, the innermost axis, and then `fsdp`
    stay within a host where they divide it.

    Raises ValueError as `MeshSettings.for_devices` does, and where `tensor` would reach over slices.
    """
    devices = jax.devices() if devices is None else devices
    order = _in_order(settings.for_devices(len(devices)), devices)
    return Mesh(order, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _in_order(shape: tuple[int, int, int], devices: Sequence[jax.Device]) -> np.ndarray:
    # An axis may take a part of a physical one: half of the meshes of a 4x4 slice do.
    if (slices := _slices(devices)) == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    between = _between_slices(shape, slices)
    within = [size // count for size, count in zip(shape, between, strict=True)]
    return mesh_utils.create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=True)


def _slices(devices: Sequence[jax.Device]) -> int:
    """How many TPU slices the devices are of; GPUs number their hosts so, and come host by host anyway."""
    if devices[0].platform != "tpu":
        return 1
    return len({getattr(device, "slice_index", 0) for device in devices})


def _between_slices(shape: tuple[int, int, int], slices: int) -> tuple[int, int, int]:
    """Over how many slices each axis reaches."""
    data, fsdp, tensor = shape
    along_data = math.gcd(data, slices)
    along_fsdp = slices // along_data
    if fsdp % along_fsdp:
        raise ValueError(
            f"mesh data {data}, fsdp {fsdp}, tensor {tensor}: tensor would reach over the {slices} slices; "
            "let data, fsdp or the two together be a multiple of their number"
        )
    return along_data, along_fsdp, 1
