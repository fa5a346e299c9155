"""Over how many devices a run shares out its state, where the config leaves that open.

Knows shapes and bytes: it reads no weights, and asks no device.
"""

from functools import partial
from math import prod
from typing import Any

import jax

from vtzero.config import RunConfig, shared_settings
from vtzero.models.qwen2_vl.config import Qwen2VLConfig
from vtzero.models.qwen2_vl.weights import abstract_model
from vtzero.parallel.mesh import MeshSettings
from vtzero.training.optimizer import OptimizerSettings, make_optimizer
from vtzero.training.state import new_state, split_model

_ROOM = 0.5
"""Of a device's memory, for what stays in it between the steps; gradients, activations and the cache come on
top."""


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
    return MeshSettings(-1, fewest_sharers(state_bytes(config, model) // tensor, data, memory), tensor)


def fewest_sharers(held: int, devices: int, memory: int) -> int:
    """The smallest power of two that divides `devices` and whose share of `held` bytes leaves room beside it.

    Where none does it is the largest. Powers of two, since they divide the widths of the model.
    """
    sharers = 1
    while held > _ROOM * memory * sharers and devices % (2 * sharers) == 0:
        sharers *= 2
    return sharers


def state_bytes(config: RunConfig, model: Qwen2VLConfig) -> int:
    """Parameters, optimizer and reference of a run, all of them together."""
    graphdef, shapes = abstract_model(model)
    _, trainable, frozen = split_model(graphdef, shapes, config.freeze)
    optimizer = make_optimizer(OptimizerSettings(**shared_settings(config, OptimizerSettings)), 1)
    state = jax.eval_shape(partial(new_state, optimizer=optimizer), trainable, frozen)
    reference = _bytes(trainable) if config.method == "grpo" and config.beta > 0 else 0
    return _bytes(state) + reference


def _bytes(tree: Any) -> int:
    return sum(prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
