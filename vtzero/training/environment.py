"""What a run runs on: versions of packages, and the devices. Knows no run, and writes no file."""

import platform
from importlib.metadata import version
from typing import Any

import jax

from vtzero import __version__

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "transformers", "datasets", "grain", "numpy")


def environment() -> dict[str, Any]:
    """Versions and devices in JSON's types; nothing that names the machine or its owner."""
    devices = jax.devices()
    return {
        "vtzero": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": devices[0].device_kind,
        "devices": len(devices),
        "processes": jax.process_count(),
        **{name: version(name) for name in PACKAGES},
    }
