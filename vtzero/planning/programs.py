"""The programs of a config's step, compiled for the devices of a slice, from shapes alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp

from vtzero.bench.shapes import Shapes
from vtzero.config import RunConfig, shared_settings
from vtzero.data.batches import Buckets
from vtzero.models.qwen2_vl.config import Qwen2VLConfig
from vtzero.models.qwen2_vl.weights import abstract_model
from vtzero.parallel.mesh import MeshSettings, make_mesh
from vtzero.parallel.sharding import state_sharding
from vtzero.planning.chips import Slice
from vtzero.planning.collectives import Exchange, exchanges
from vtzero.sampling.decode import DecodeSettings
from vtzero.training.micro_batches import bytes_needed
from vtzero.training.optimizer import OptimizerSettings, make_optimizer
from vtzero.training.phases import Blueprint, Phases
from vtzero.training.setup import (
    check_attention,
    check_batch,
    check_heads,
    moves_reference,
    remat_of,
    scheduled_updates,
)
from vtzero.training.state import TrainState, new_state, split_model

# No shape depends on which token ends a completion.
_ANY_ID = 0


@dataclass(frozen=True)
class Planned:
    """A compiled program: bytes of one chip while it runs, and what the chips exchange.

    `held` are the run's parameters, optimizer state and reference, whether this program reads them or not;
    `arguments` what else it is given, `temporaries` what it makes on its way, results included. A program
    that the compiler refuses has the reason in `refused`, and only `held` is known.
    """

    name: str
    seconds: float
    held: int
    arguments: int = 0
    temporaries: int = 0
    exchanged: tuple[Exchange, ...] = ()
    refused: str = ""

    @property
    def memory(self) -> int:
        return self.held + self.arguments + self.temporaries

    @property
    def received(self) -> float:
        """Bytes that a chip receives from others."""
        return sum(exchange.total for exchange in self.exchanged)


@dataclass(frozen=True)
class Held:
    """Bytes of a chip that a run holds all the time."""

    parameters: int
    optimizer: int
    reference: int

    @property
    def total(self) -> int:
        return self.parameters + self.optimizer + self.reference


class Plan:
    """A config's step on a slice.

    Raises ValueError for a mesh that does not divide the devices, the heads or the batch.
    """

    def __init__(self, config: RunConfig, model: Qwen2VLConfig, shapes: Shapes, where: Slice):
        dtype = "bfloat16" if config.dtype == "auto" else config.dtype
        # Of the layouts of short answers, the whole grid is what must fit.
        self.config = replace(config, dtype=dtype, packing=False, completion_length_buckets=())
        self.model, self.shapes, self.where = model, shapes, where
        settings = MeshSettings(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
        self.mesh = make_mesh(settings, list(where.devices))
        check_batch(self.config, dict(self.mesh.shape))
        check_attention(self.config, "tpu")
        check_heads(model, self.mesh.shape["tensor"])
        self._blueprint, self._state, self._reference = self._abstract()

    @property
    def held(self) -> Held:
        state = self._state
        return Held(
            parameters=bytes_a_device((state.trainable, state.frozen)),
            optimizer=bytes_a_device(state.opt_state),
            reference=bytes_a_device(self._reference),
        )

    def compile(self, only: Callable[[str], bool] = lambda _: True) -> Iterator[Planned]:
        """Compile the programs whose names are asked for, one after the other."""
        config = replace(
            self.config, gradient_accumulation_steps=self.config.gradient_accumulation_steps or 1
        )
        phases = Phases(replace(self._blueprint, config=config))
        reference = None if self._state.reference is not None else self._reference
        with jax.set_mesh(self.mesh):
            for name, compile_it in phases.declare(self._state, reference):
                if only(name):
                    yield self._planned(name, compile_it)

    def _planned(self, name: str, compile_it: Callable[[], Any]) -> Planned:
        start, held = perf_counter(), self.held
        try:
            compiled = compile_it()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) and "hbm" not in str(error).lower():
                raise
            reason = " ".join(str(error).split())[:300]
            return Planned(name, perf_counter() - start, held.total, refused=reason)
        memory, own = compiled.memory_analysis(), self._own(name)
        return Planned(
            name=name,
            seconds=perf_counter() - start,
            held=held.total,
            arguments=max(int(memory.argument_size_in_bytes) - own, 0),
            temporaries=bytes_needed(compiled) - int(memory.argument_size_in_bytes),
            exchanged=tuple(exchanges(compiled.as_text(), trips=self._tokens_a_loop(name))),
        )

    def _own(self, name: str) -> int:
        """Bytes of the program's arguments that the run holds anyway."""
        held, state = self.held, self._state
        if name.startswith("update"):
            return held.parameters + held.optimizer + bytes_a_device(state.reference)
        return held.parameters if name.startswith(("sampling", "vision", "scoring")) else 0

    def _tokens_a_loop(self, name: str) -> int:
        """How often one of the sampler's loops runs, on average; other loops are counted by the compiler."""
        settings = self._blueprint.decoding
        return max(settings.max_completion_length // len(settings.lengths), 1) if name == "sampling" else 1

    def _abstract(self) -> tuple[Blueprint, TrainState, Any]:
        config = self.config
        graphdef, shapes = abstract_model(
            self.model, dtype=jnp.dtype(config.dtype), remat=remat_of(config), attention=config.attention
        )
        parts, trainable, frozen = split_model(graphdef, shapes, config.freeze)
        settings = OptimizerSettings(**shared_settings(config, OptimizerSettings))
        optimizer = make_optimizer(settings, scheduled_updates(config))
        start = partial(new_state, optimizer=optimizer, moving_reference=moves_reference(config))
        state = jax.eval_shape(start, trainable, frozen)
        shardings = state_sharding(state, self.mesh)
        state = jax.tree.map(_placed, state, shardings)
        blueprint = Blueprint(
            config=config,
            model=self.model,
            buckets=Buckets(self.shapes.prompt, self.shapes.patches),
            mesh=self.mesh,
            shardings=shardings,
            parts=parts,
            optimizer=optimizer,
            decoding=DecodeSettings(
                config.max_completion_length,
                (_ANY_ID,),
                _ANY_ID,
                "policy",
                gather_weights=config.gather_for_generation,
            ),
        )
        reference = state.trainable if config.beta > 0 else None
        return blueprint, state, reference


def bytes_a_device(tree: Any) -> int:
    """What arrays of these shapes and shardings take on one device."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        count = 1
        for size in leaf.sharding.shard_shape(leaf.shape):
            count *= size
        total += count * leaf.dtype.itemsize
    return total


def _placed(shape: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)
