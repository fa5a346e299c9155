"""What the process holds, under verl's metric names. Knows the operating system and devices alone."""

import os
from pathlib import Path

import jax

_STATUS = Path("/proc/self/statm")


def memory_metrics() -> dict[str, float]:
    """Memory in GiB now: the process's own, and the greatest that a device has held so far.

    Each is left out where the system or the device does not tell it (CPU devices do not).
    """
    metrics = {}
    if _STATUS.exists():
        resident = int(_STATUS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        metrics["perf/cpu_memory_used_gb"] = resident / 2**30
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        metrics["perf/max_memory_allocated_gb"] = stats["peak_bytes_in_use"] / 2**30
    return metrics
