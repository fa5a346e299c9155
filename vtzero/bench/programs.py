"""The phases of training on made-up weights and prompts, without a file behind them."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vtzero.bench.shapes import Shapes, random_prompts
from vtzero.config import RunConfig
from vtzero.data.batches import Buckets
from vtzero.grpo.packing import Layout, choose_layout
from vtzero.grpo.step import Rollout
from vtzero.models.qwen2_vl.config import Qwen2VLConfig
from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.parallel.mesh import make_mesh
from vtzero.parallel.processes import on_host
from vtzero.parallel.sharding import shard_batch
from vtzero.sampling.decode import Completions, begin, sample_keys
from vtzero.training.blueprint import blueprint_from_shapes
from vtzero.training.mesh_choice import chosen_gathering, chosen_mesh
from vtzero.training.micro_batches import device_memory
from vtzero.training.optimizer import decays
from vtzero.training.outline import compute_dtype
from vtzero.training.phases import Phases, rollout_of, sampling_parameters
from vtzero.training.setup import check_attention
from vtzero.training.state import Metrics, TrainState


class Programs:
    """A run's `phases`, and what they work on: `prompts`, and a `state` that goes on with every update.

    Until `begin_updates` the state has no optimizer's moments: they take twice the memory of the parameters.
    """

    def __init__(self, config: RunConfig, model: Qwen2VLConfig, shapes: Shapes):
        self.config, self.model, self.shapes = config, model, shapes
        self.dtype = compute_dtype(config.dtype)
        memory = device_memory()
        self.mesh = make_mesh(chosen_mesh(config, model, jax.device_count(), memory))
        config = chosen_gathering(config, model, self.mesh.shape, memory)
        buckets = Buckets(shapes.prompt, shapes.patches)
        made = blueprint_from_shapes(config, model, buckets, self.mesh, memory)
        self._blueprint, self._abstract, self._abstract_reference = made
        self.phases = Phases(self._blueprint)
        self.prompts: Prompts = shard_batch(random_prompts(shapes, model), self.mesh)
        self.state = self._made_up_state()
        self._reference: Any | None = None

    @property
    def weights(self) -> tuple[Any, Any]:
        """Trainable and frozen parameters."""
        return self.state.trainable, self.state.frozen

    @property
    def reference(self) -> Any | None:
        """The reference model's trainable parameters, wherever they are; None until `begin_updates`."""
        return self._reference if self.state.reference is None else self.state.reference

    @property
    def scorings(self) -> int:
        """How often a step scores its rollout before the update."""
        return int(self.config.num_iterations > 1) + int(self.config.beta > 0)

    def change(self, **keys: Any) -> None:
        """Go on with the phases of a config with other values, on the same state.

        Raises ConfigError for values that do not go together.
        """
        config = replace(self.config, **keys)
        check_attention(config, self.mesh.devices.flat[0].platform)
        self.config, self.phases = config, Phases(replace(self._blueprint, config=config))

    def tokens_from(self, slots: int) -> Callable[..., Completions]:
        """Draws tokens with a cache of `slots`: (weights, prompts, first, count) -> completions.

        They are `count` tokens from place `first` of the answers on; what is before them is blank.
        """
        settings = replace(self._blueprint.decoding, max_completion_length=slots, cache_lengths=(slots,))
        parameters = sampling_parameters(self.config, self._blueprint.banned_ids)
        samples = jnp.arange(self.shapes.batch)

        def draw(weights: tuple[Any, Any], prompts: Prompts, first: Array, count: Array) -> Completions:
            model = self._blueprint.parts.merge(*weights)
            keys = sample_keys(jax.random.key(0), 0, samples, self.shapes.group)
            loop, draw_token = begin(model, prompts, keys, parameters, settings)
            loop = replace(loop, step=jnp.int32(first))
            return jax.lax.fori_loop(0, count, lambda _, loop: draw_token(loop), loop).completions

        return jax.jit(draw)

    def traced(self, name: str) -> Callable[[], Callable[[], Any]]:
        """What traces the program of this name; see `Phases.programs`."""
        return dict(self.phases.programs(self._abstract, self._abstract_reference))[name]

    @cached_property
    def seen(self) -> Prompts:
        """The prompts as every phase after the first reads them."""
        return self.phases.see(self.state, self.prompts)

    def look(self, weights: tuple[Any, Any], prompts: Prompts) -> Array:
        """The images encoded; no program of a run does this alone where an update may change how."""
        return self._blueprint.parts.merge(*weights).see(prompts)

    def prefill(self, weights: tuple[Any, Any], prompts: Prompts) -> Any:
        """Prompts read, and as far as they are not seen their images; in a run a part of the sampler."""
        return self._blueprint.parts.merge(*weights).read_prompts(prompts)

    def draw(self, prompts: Prompts) -> Completions:
        """Completions of full length, which count as ended, whatever the config makes of others."""
        drawn = self.phases.draw(self.state, prompts, 1)
        return replace(drawn, terminated=drawn.lengths > 0)

    def made_up_completions(self, length: int) -> Completions:
        """Completions that all have `length` tokens."""
        shapes = self.shapes
        grid = (shapes.batch, shapes.group, shapes.completion)
        lengths = np.full(grid[:2], length, np.int32)
        blank: dict[str, Any] = {"ids": np.ones(grid, np.int32), "policy_logps": np.zeros(grid, np.float32)}
        host = Completions(lengths=lengths, terminated=lengths > 0, **blank)  # type: ignore[arg-type]
        placed: Completions = self.phases.place(host)
        return placed

    def layout(self, drawn: Completions) -> Layout | None:
        """How a run lays out these completions."""
        return choose_layout(on_host(drawn.lengths), self.phases.layouts)

    def rollout(self, prompts: Prompts, drawn: Completions) -> tuple[Rollout, Array]:
        """What an update learns from and how many tokens count; half of each group did well."""
        packing = self.phases.pack(on_host(drawn.lengths))
        old, own = self.phases.old_and_reference(self.state, self.reference, prompts, drawn.ids, packing)
        rewards = np.broadcast_to(np.arange(self.shapes.group) % 2, drawn.lengths.shape)
        weighed = self.phases.weigh(drawn, rewards.astype(np.float32))
        return rollout_of(prompts, drawn, weighed, old, own, packing), weighed.total_tokens

    def score(self, rollout: Rollout) -> Array:
        """Log-probabilities, as the reference model gives them, or without one an old policy."""
        scorer = self.state.trainable if self.reference is None else self.reference
        ids, packing = rollout.completion_ids, rollout.packing
        return self.phases.score(scorer, self.state.frozen, rollout.prompts, ids, packing)

    def learn(self, rollout: Rollout, tokens: Array) -> Metrics:
        """One update of the state."""
        self.state, metrics = self.phases.update(self.state, rollout, tokens)
        return metrics

    def step(self) -> list[Metrics]:
        """What training does in a step, without data and rewards."""
        prompts = self.phases.see(self.state, self.prompts)
        rollout, tokens = self.rollout(prompts, self.draw(prompts))
        return [self.learn(rollout, tokens) for _ in range(self.config.num_iterations)]

    def begin_updates(self) -> None:
        """Hold what a run holds: the optimizer's moments, and a reference model where `beta` is above 0."""
        if self.state.opt_state is not None:
            return
        shardings, policy = self._blueprint.shardings, self.state.trainable
        moments = jax.jit(self._blueprint.optimizer.init, out_shardings=shardings.opt_state)(policy)
        reference = jax.tree.map(_copy, policy, self._abstract_reference) if self.config.beta > 0 else None
        moves = shardings.reference is not None
        self._reference = None if moves else reference
        self.state = replace(self.state, opt_state=moments, reference=reference if moves else None)

    def _made_up_state(self) -> TrainState:
        start = replace(self._abstract, opt_state=None, reference=None)
        shardings = replace(self._blueprint.shardings, opt_state=None, reference=None)
        return jax.jit(partial(_made_up_start, start), out_shardings=shardings)()


def _made_up_start(shapes: TrainState) -> TrainState:
    trainable, frozen = made_up(shapes.trainable), made_up(shapes.frozen)
    return replace(shapes, step=jnp.int32(0), trainable=trainable, frozen=frozen)


def _copy(array: Array, shape: jax.ShapeDtypeStruct) -> Array:
    return jnp.array(array, shape.dtype, copy=True)


def made_up(shapes: Any) -> Any:
    """Parameters without meaning for a tree of shapes: matrices that vary within +-0.02, and ones.

    Not drawn, since a generator for each of some thirty parameters takes a minute to compile on a CPU.
    """

    def fill(shape: Any, varies: bool) -> Array:
        if not varies:
            return jnp.ones(shape.shape, shape.dtype)
        indices = (
            jax.lax.broadcasted_iota(jnp.float32, shape.shape, axis) for axis in range(len(shape.shape))
        )
        angles = sum(index * (1.7 + axis) for axis, index in enumerate(indices))
        return (0.02 * jnp.sin(angles)).astype(shape.dtype)

    return jax.tree.map(fill, shapes, decays(shapes))
