"""Over how many devices a run shares out its state, and who gathers it, where the config leaves that open.

Knows shapes and bytes: it reads no weights, and asks no device.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

import jax

from vtzero.config import RunConfig
from vtzero.models.qwen2_vl.config import Qwen2VLConfig
from vtzero.parallel.mesh import MeshSettings
from vtzero.training.outline import compute_dtype, outline

_ROOM = 0.5
"""Of a device's memory, for what stays in it between the steps and the gradient; activations and the cache
come on top."""
_ROOM_IN_A_ROLLOUT = 0.75
"""The same with a whole copy of the weights beside it, while there is no gradient and no activation."""


def chosen_mesh(config: RunConfig, model: Qwen2VLConfig, devices: int, memory: int) -> MeshSettings:
    """The config's mesh on so many devices of so much memory (bytes); sizes that it names bind.

    Where it leaves `fsdp` open and `data` takes the rest, the state is shared out over as few devices as it
    fits: every further one has more to exchange. The numbers of a run are the same either way.

    Raises ValueError as `MeshSettings` does.
    """
    named = MeshSettings(config.mesh.data, config.mesh.fsdp or 1, config.mesh.tensor)
    data, _, tensor = named.for_devices(devices)
    if config.mesh.fsdp is not None or named.data != -1 or data == 1:
        return named
    held = state_bytes(config, model) + gradient_bytes(config, model)
    return MeshSettings(-1, fewest_sharers(held // tensor, data, memory), tensor)


def fewest_sharers(held: int, devices: int, memory: int) -> int:
    """The smallest power of two that divides `devices` and whose share of `held` bytes leaves room beside it.

    Where none does it is the largest. Powers of two, since they divide the widths of the model.
    """
    sharers = 1
    while held > _ROOM * memory * sharers and devices % (2 * sharers) == 0:
        sharers *= 2
    return sharers


def chosen_gathering(
    config: RunConfig, model: Qwen2VLConfig, mesh: Mapping[str, int], memory: int
) -> RunConfig:
    """The config with `gather_for_generation` decided: as it says, else true where the copy leaves room."""
    if config.gather_for_generation is not None:
        return config
    held = state_bytes(config, model) // (mesh["fsdp"] * mesh["tensor"])
    fits = held + copy_bytes(config, model) // mesh["tensor"] <= _ROOM_IN_A_ROLLOUT * memory
    return replace(config, gather_for_generation=fits)


def copy_bytes(config: RunConfig, model: Qwen2VLConfig) -> int:
    """All parameters once, in the dtype of the computation."""
    state = outline(config, model).state
    numbers = sum(prod(leaf.shape) for leaf in jax.tree.leaves((state.trainable, state.frozen)))
    return numbers * int(compute_dtype(config.dtype).itemsize)


def state_bytes(config: RunConfig, model: Qwen2VLConfig) -> int:
    """Parameters, optimizer and reference of a run, all of them together."""
    made = outline(config, model)
    return _bytes((made.state, made.reference))


def gradient_bytes(config: RunConfig, model: Qwen2VLConfig) -> int:
    """The gradient of an update, all of it together."""
    return _bytes(outline(config, model).state.trainable)


def _bytes(tree: Any) -> int:
    return sum(prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
