"""What a device could do at most: matrix operations and bytes a second, measured or published.

Knows devices and clocks only: no model and no config of runs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_QUICK_CPU, _QUICK_ACCELERATOR = 1024, 4096
_LEAST_SECONDS = 0.02


@dataclass(frozen=True)
class Limits:
    """Of one device: `flops` operations and `bandwidth` bytes a second, and where the numbers come from."""

    flops: float
    bandwidth: float
    source: str


@dataclass(frozen=True)
class Measured:
    """Operations a second by the size of a square product, bytes a second by what was done with the bytes."""

    matmul: dict[int, float]
    memory: dict[str, float]

    @property
    def limits(self) -> Limits:
        """The best of each."""
        return Limits(max(self.matmul.values()), max(self.memory.values()), "measured")


_HOPPER = "NVIDIA H100 and H200 data sheets, dense"
_AMPERE = "NVIDIA A100 data sheet, dense"
_TPU = "Google Cloud TPU system architecture, per chip"

PUBLISHED: dict[str, Limits] = {
    "NVIDIA H200": Limits(989e12, 4.8e12, _HOPPER),
    "NVIDIA H100 PCIe": Limits(756e12, 2.0e12, _HOPPER),
    "NVIDIA H100 NVL": Limits(835e12, 3.9e12, _HOPPER),
    "NVIDIA H100": Limits(989e12, 3.35e12, _HOPPER),
    "NVIDIA A100-SXM4-40GB": Limits(312e12, 1.555e12, _AMPERE),
    "NVIDIA A100-SXM4-80GB": Limits(312e12, 2.039e12, _AMPERE),
    "NVIDIA A100-PCIE-40GB": Limits(312e12, 1.555e12, _AMPERE),
    "NVIDIA A100 80GB PCIe": Limits(312e12, 1.935e12, _AMPERE),
    "TPU v4": Limits(275e12, 1.228e12, _TPU),
    "TPU v5 lite": Limits(197e12, 0.819e12, _TPU),
    "TPU v5e": Limits(197e12, 0.819e12, _TPU),
    "TPU v5": Limits(459e12, 2.765e12, _TPU),
    "TPU v5p": Limits(459e12, 2.765e12, _TPU),
    "TPU v6 lite": Limits(918e12, 1.64e12, _TPU),
    "TPU v6e": Limits(918e12, 1.64e12, _TPU),
}
"""Peaks in bfloat16 by the start of JAX's `device_kind`; the longest that fits counts."""


def published(kind: str, dtype: Any = jnp.bfloat16) -> Limits | None:
    """The maker's peak of a device kind, or None where it is not in the table or not for this dtype."""
    names = [name for name in PUBLISHED if kind == name or kind.startswith(f"{name} ")]
    if not names or jnp.dtype(dtype) != jnp.bfloat16:
        return None
    return PUBLISHED[max(names, key=len)]


def run_limits(dtype: Any) -> Limits:
    """What a run's utilisation is told against: the published peak, else a quick measurement."""
    device = jax.local_devices()[0]
    known = published(device.device_kind, dtype)
    if known is not None:
        return known
    size = _QUICK_CPU if device.platform == "cpu" else _QUICK_ACCELERATOR
    return measure(dtype, sizes=(size,), array_bytes=2**26, repeats=1).limits


def measure(
    dtype: Any, *, sizes: Sequence[int] = (), array_bytes: int | None = None, repeats: int = 5
) -> Measured:
    """Time square products in `dtype`, and memory beyond any cache with STREAM's kernels, on one device.

    A product counts 2 n^3 operations. Scaling an array moves it twice, a triad (a + 2 b) moves three arrays,
    a sum reads one. A virtual device of a CPU has its share of what all of them reach: alone it measures the
    cores that it shares with the others.
    """
    on_cpu = jax.local_devices()[0].platform == "cpu"
    sharers = jax.local_device_count() if on_cpu else 1
    sizes = sizes or ((512, 1024, 2048) if on_cpu else (2048, 4096, 8192, 16384))
    array_bytes = array_bytes or (2**28 if on_cpu else 2**30)
    return Measured(
        {size: 2 * size**3 / _matmul_seconds(size, dtype, repeats) / sharers for size in sizes},
        {kernel: speed / sharers for kernel, speed in _memory(array_bytes, repeats).items()},
    )


def _matmul_seconds(size: int, dtype: Any, repeats: int) -> float:
    # Numbers drawn, not ones: a chip that switches fewer bits draws less power and clocks higher.
    drawn = np.random.default_rng(0).standard_normal((2, 512 * 512), np.float32)
    left, right = (jnp.asarray(np.resize(numbers, (size, size)), dtype) for numbers in drawn)
    return median_seconds(jax.jit(jnp.matmul), left, right, repeats=repeats)


def _memory(array_bytes: int, repeats: int) -> dict[str, float]:
    numbers = jnp.zeros(array_bytes // 4)
    scale = median_seconds(_InPlace(lambda a: 2 * a, numbers), repeats=repeats)
    triad = median_seconds(_InPlace(lambda a, b: a + 2 * b, numbers), numbers, repeats=repeats)
    read = median_seconds(jax.jit(jnp.sum), numbers, repeats=repeats)
    seconds = {"scale": (2, scale), "triad": (3, triad), "sum": (1, read)}
    return {name: arrays * array_bytes / time for name, (arrays, time) in seconds.items()}


class _InPlace:
    """Calls that write where they read: a fresh array for each result costs a CPU more than the sums."""

    def __init__(self, function: Callable[..., Array], array: Float[Array, " numbers"]):
        self._function = jax.jit(function, donate_argnums=0)
        self._array = jnp.copy(array)

    def __call__(self, *others: Array) -> Array:
        self._array = self._function(self._array, *others)
        return self._array


def median_seconds(function: Callable[..., Any], *arguments: Any, repeats: int) -> float:
    """The median time of a call once compiled; short ones are called in rows, to hide what a start costs."""
    jax.block_until_ready(function(*arguments))
    first = _seconds(function, arguments, 1)
    calls = max(1, int(_LEAST_SECONDS / max(first, 1e-6)))
    return median(_seconds(function, arguments, calls) for _ in range(repeats))


def _seconds(function: Callable[..., Any], arguments: Sequence[Any], calls: int) -> float:
    start = perf_counter()
    for _ in range(calls):
        result = function(*arguments)
    jax.block_until_ready(result)
    return (perf_counter() - start) / calls
