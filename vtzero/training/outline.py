"""What a run will hold, from its config and its network alone: static parts, optimizer, and shapes.

Reads no weights, makes no array, asks for no device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vtzero.config import ConfigError, RunConfig, shared_settings
from vtzero.models.layers import Remat
from vtzero.models.qwen2_vl.config import Qwen2VLConfig
from vtzero.models.qwen2_vl.weights import abstract_model
from vtzero.training.optimizer import OptimizerSettings, make_optimizer, make_schedule
from vtzero.training.state import ModelParts, TrainState, new_state, split_model


@dataclass(frozen=True)
class Outline:
    """`start(trainable, frozen)` makes the state, whose shapes are `state`.

    `reference` are the shapes of a reference model that stays, and so is no part of the state; None where
    there is none, or one that moves.
    """

    parts: ModelParts
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    start: Callable[[Any, Any], TrainState]
    state: TrainState
    reference: Any | None


@lru_cache(maxsize=4)  # a start asks for it when it chooses the mesh, the gathering, and makes the state
def outline(config: RunConfig, model: Qwen2VLConfig) -> Outline:
    """That of a run.

    Raises ConfigError and ValueError for settings that contradict each other.
    """
    graphdef, params = abstract_model(
        model, dtype=compute_dtype(config.dtype), remat=remat_of(config), attention=config.attention
    )
    parts, trainable, frozen = split_model(graphdef, params, config.freeze)
    settings, updates = OptimizerSettings(**shared_settings(config, OptimizerSettings)), updates_of(config)
    optimizer, moves = make_optimizer(settings, updates), moves_reference(config)
    start = partial(new_state, optimizer=optimizer, moving_reference=moves)
    return Outline(
        parts=parts,
        optimizer=optimizer,
        schedule=make_schedule(settings, updates),
        start=start,
        state=jax.eval_shape(start, trainable, frozen),
        reference=_as_stored(trainable, model) if has_reference(config) and not moves else None,
    )


def has_reference(config: RunConfig) -> bool:
    """Whether the step has a reference model."""
    return config.method == "grpo" and config.beta > 0


def moves_reference(config: RunConfig) -> bool:
    """Whether the reference model follows the policy, and so is a part of the state and its checkpoints.

    Raises ConfigError when it should, but there is none.
    """
    if config.sync_ref_model and not has_reference(config):
        raise ConfigError(
            "sync_ref_model is true, but there is no reference model: it needs method grpo and beta above 0"
        )
    return config.sync_ref_model


def compute_dtype(name: str) -> Any:
    """ "auto" is bfloat16 on accelerators and float32 on CPU, which has no fast bfloat16."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def remat_of(config: RunConfig) -> Remat:
    """What the backward pass keeps of a layer."""
    return config.gradient_checkpointing_policy if config.gradient_checkpointing else "none"


def updates_of(config: RunConfig) -> int:
    """Over how many updates the learning rate is scheduled."""
    steps = config.max_steps if config.lr_schedule_steps is None else config.lr_schedule_steps
    return steps * (config.num_iterations if config.method == "grpo" else 1)


def _as_stored(params: Any, model: Qwen2VLConfig) -> Any:
    dtype = jnp.dtype(model.stored_dtype)
    return jax.tree.map(lambda leaf: leaf.update(dtype=dtype), params)
