"""The programs of a config's step, compiled for the devices of a slice, from shapes alone."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp

from vtzero.bench.shapes import Shapes
from vtzero.config import RunConfig
from vtzero.data.batches import Buckets
from vtzero.models.qwen2_vl import costs
from vtzero.models.qwen2_vl.config import Qwen2VLConfig
from vtzero.models.qwen2_vl.costs import Lengths
from vtzero.parallel.mesh import make_mesh
from vtzero.parallel.sharding import readers
from vtzero.planning.chips import Slice
from vtzero.planning.collectives import Exchange, exchanges
from vtzero.terminal import short_line
from vtzero.training.blueprint import blueprint_from_shapes
from vtzero.training.mesh_choice import chosen_gathering, chosen_mesh
from vtzero.training.micro_batches import bytes_needed, bytes_on_a_device, possible_parts
from vtzero.training.phases import Phases, seen_once

PROGRAMS = ("vision", "sampling", "scoring", "update")


@dataclass(frozen=True)
class Planned:
    """A compiled program: bytes of one chip while it runs, and what the chips exchange.

    `held` are the run's parameters, optimizer state and reference, whether this program reads them or not;
    `arguments` what else it is given, `temporaries` what it makes on its way, results included. A program
    that the compiler refuses has the reason in `refused`, and only `held` is known. `host_memory` is the most
    that the compiling process had of this machine's.
    """

    name: str
    seconds: float
    held: int
    arguments: int = 0
    temporaries: int = 0
    exchanged: tuple[Exchange, ...] = ()
    refused: str = ""
    host_memory: int = 0

    @property
    def memory(self) -> int:
        return self.held + self.arguments + self.temporaries

    @property
    def received(self) -> float:
        """Bytes that a chip receives from others."""
        return sum(exchange.total for exchange in self.exchanged)


@dataclass(frozen=True)
class Held:
    """Bytes of a chip that a run holds all the time, and those of the gradient, which an update adds."""

    parameters: int
    optimizer: int
    reference: int
    gradient: int

    @property
    def total(self) -> int:
        return self.parameters + self.optimizer + self.reference


class Plan:
    """A step of GRPO on a slice; `asked` is the config with what the slice decides still open.

    Raises ValueError for a mesh that does not divide the devices, the heads or the batch.
    """

    def __init__(self, config: RunConfig, model: Qwen2VLConfig, shapes: Shapes, where: Slice):
        dtype = "bfloat16" if config.dtype == "auto" else config.dtype
        # Of the layouts of short answers, the whole grid is what must fit.
        config = replace(config, dtype=dtype, packing=False, completion_length_buckets=())
        self.asked = config
        self.model, self.shapes, self.where = model, shapes, where
        memory = where.chip.memory
        self.mesh = make_mesh(chosen_mesh(config, model, where.size, memory), list(where.devices))
        self.config = chosen_gathering(config, model, self.mesh.shape, memory)
        buckets = Buckets(shapes.prompt, shapes.patches)
        made = blueprint_from_shapes(self.config, model, buckets, self.mesh, memory)
        self._blueprint, self._state, self._reference = made

    @property
    def axes(self) -> dict[str, int]:
        """The sizes of the mesh."""
        return dict(self.mesh.shape)

    @property
    def possible_parts(self) -> list[int]:
        """Into how many micro-batches the update can be cut, the fewest first."""
        return possible_parts(self.config.prompts_per_step, readers(self.mesh))

    @cached_property
    def held(self) -> Held:
        state = self._state
        return Held(
            parameters=bytes_on_a_device((state.trainable, state.frozen)),
            optimizer=bytes_on_a_device(state.opt_state),
            reference=bytes_on_a_device(self._reference),
            gradient=bytes_on_a_device(state.trainable),
        )

    @cached_property
    def lengths(self) -> Lengths:
        """What there is to do, where the images are read once a step for all its programs."""
        return replace(self.shapes.lengths, seen=self._phases.seen)

    @cached_property
    def _phases(self) -> Phases:
        parts = self.config.gradient_accumulation_steps or 1
        config = replace(self.config, gradient_accumulation_steps=parts)
        return Phases(replace(self._blueprint, config=config))

    def runs(self, name: str) -> int:
        """How often a step runs a program."""
        updates = self.config.num_iterations
        return {"scoring": int(self.config.beta > 0) + int(updates > 1), "update": updates}.get(name, 1)

    @property
    def cache(self) -> int:
        """Bytes of a chip for the keys and values of a whole rollout; the sampler's temporaries hold them."""
        text, shapes, itemsize = self.model.text, self.shapes, jnp.dtype(self.config.dtype).itemsize
        slots = shapes.batch * (shapes.prompt + shapes.group * shapes.completion) // readers(self.mesh)
        return slots * costs.cache_bytes(text, itemsize) // min(self.axes["tensor"], text.num_key_value_heads)

    def cut(self, parts: int) -> "Plan":
        """The same with another number of micro-batches."""
        asked = replace(self.asked, gradient_accumulation_steps=parts)
        return Plan(asked, self.model, self.shapes, self.where)

    def compile(self, name: str) -> Planned:
        """Trace and compile one program.

        Raises ValueError for the update of a config that leaves open into how many parts it is cut.
        """
        parts = self.config.gradient_accumulation_steps
        if name == "update" and not parts:
            raise ValueError(
                "gradient_accumulation_steps is 0; choose with `cut` before compiling the update"
            )
        start = perf_counter()
        with jax.set_mesh(self.mesh):
            trace = dict(self._phases.programs(self._state, self._reference))[name]
            return self._planned(name, trace(), start)

    def _planned(self, name: str, compile_it: Callable[[], Any], start: float) -> Planned:
        held = self.held
        try:
            compiled = compile_it()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) and "hbm" not in str(error).lower():
                raise
            return Planned(name, perf_counter() - start, held.total, refused=short_line(error))
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
        state = self._state
        if name == "update":
            return bytes_on_a_device(state)
        scorer = state.trainable if name != "scoring" or self._reference is None else self._reference
        return bytes_on_a_device((scorer, state.frozen))

    def _tokens_a_loop(self, name: str) -> int:
        """How often one of the sampler's loops runs, on average; other loops are counted by the compiler."""
        settings = self._blueprint.decoding
        return max(settings.max_completion_length // len(settings.lengths), 1) if name == "sampling" else 1


def step_programs(config: RunConfig) -> tuple[str, ...]:
    """The names of the programs of a config's step.

    `vision` is a program of its own where it is frozen, and `scoring` where completions are read once more.
    """
    scores = config.beta > 0 or config.num_iterations > 1
    runs = {"vision": seen_once(config) is not None and config.max_images != 0, "scoring": scores}
    return tuple(name for name in PROGRAMS if runs.get(name, True))
