"""What libtpu and JAX read of the environment when they are imported; so this imports neither."""

import os

_COMPILER = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # compiling takes no TPU, so several processes may
}


def prepare_environment() -> None:
    """Let libtpu compile on a machine that is no TPU, and JAX take the CPU."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    prepare_compiler()


def prepare_compiler() -> None:
    """Let libtpu ask no cloud what it runs on; JAX prints warnings where none answers."""
    for name, value in _COMPILER.items():
        os.environ.setdefault(name, value)
