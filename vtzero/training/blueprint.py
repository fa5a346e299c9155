"""What the programs of a step are made from, for a run or from shapes alone: no arrays, no files."""

from dataclasses import dataclass
from typing import Any

import jax
import optax

from vtzero.config import RunConfig
from vtzero.data.batches import Buckets
from vtzero.models.qwen2_vl.config import Qwen2VLConfig
from vtzero.parallel.sharding import shapes_at, state_sharding
from vtzero.sampling.decode import DecodeSettings, LogProbabilities, growing_lengths
from vtzero.training.outline import outline
from vtzero.training.setup import Setup, check_attention, check_batch, check_heads
from vtzero.training.state import ModelParts, TrainState

# No token has this id: without a tokenizer every completion runs to its full length.
_NEVER = -1


@dataclass(frozen=True)
class Blueprint:
    """Settings, shapes and a mesh, which may be one of devices that are not here.

    `memory` are the bytes of one of its devices; `banned_ids` are those that sampling may not draw.
    """

    config: RunConfig
    model: Qwen2VLConfig
    buckets: Buckets
    memory: int
    mesh: jax.sharding.Mesh
    shardings: TrainState
    parts: ModelParts
    optimizer: optax.GradientTransformation
    decoding: DecodeSettings
    banned_ids: tuple[int, ...]

    @classmethod
    def of(cls, setup: Setup) -> "Blueprint":
        """That of a run."""
        names = ("config", "buckets", "memory", "mesh", "shardings", "parts", "optimizer", "banned_ids")
        own = {name: getattr(setup, name) for name in names}
        return cls(model=setup.processor.config, decoding=decode_settings(setup, "policy"), **own)


def blueprint_from_shapes(
    config: RunConfig, model: Qwen2VLConfig, buckets: Buckets, mesh: jax.sharding.Mesh, memory: int
) -> tuple[Blueprint, TrainState, Any | None]:
    """That of a run which has no model folder; its state and its reference as shapes where arrays would lie.

    No completion ends before its full length.

    Raises ConfigError where training on such a mesh would.
    """
    check_batch(config, dict(mesh.shape))
    check_attention(config, mesh.devices.flat[0].platform)
    check_heads(model, mesh.shape["tensor"])
    made = outline(config, model)
    shardings = state_sharding(made.state, mesh)
    blueprint = Blueprint(
        config=config,
        model=model,
        buckets=buckets,
        memory=memory,
        mesh=mesh,
        shardings=shardings,
        parts=made.parts,
        optimizer=made.optimizer,
        decoding=_decoding(config, model, (_NEVER,), pad_id=0, logps="policy"),
        banned_ids=model.vision_token_ids,
    )
    state = shapes_at(made.state, shardings)
    if made.reference is None:
        return blueprint, state, state.reference
    return blueprint, state, shapes_at(made.reference, shardings.trainable)


def decode_settings(setup: Setup, logps: LogProbabilities) -> DecodeSettings:
    """The decode loop's shape for a run."""
    processor = setup.processor
    return _decoding(setup.config, processor.config, processor.stop_ids, processor.pad_id, logps)


def _decoding(
    config: RunConfig, model: Qwen2VLConfig, stop_ids: tuple[int, ...], pad_id: int, logps: LogProbabilities
) -> DecodeSettings:
    length, gathers = config.max_completion_length, bool(config.gather_for_generation)
    grows = growing_lengths(length, model.text.num_hidden_layers)
    return DecodeSettings(length, stop_ids, pad_id, logps, grows, gather_weights=gathers)
