"""The compiled functions of a run, on made-up weights: the one place of the bench that builds them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vtzero.bench.shapes import Shapes, random_prompts
from vtzero.config import RunConfig, shared_settings
from vtzero.grpo.objectives import ObjectiveSettings, loss_weights
from vtzero.grpo.scoring import banned_mask, group_logprobs
from vtzero.grpo.step import Rollout, ScoringSettings, grpo_loss
from vtzero.models.qwen2_vl.config import Qwen2VLConfig
from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.models.qwen2_vl.weights import abstract_model
from vtzero.parallel.mesh import make_mesh
from vtzero.parallel.sharding import batch_sharding, shard_batch, shard_params, state_sharding
from vtzero.sampling.decode import Completions, DecodeSettings, sample_groups, sample_keys
from vtzero.sampling.sampler import Sampler
from vtzero.training.mesh_choice import chosen_mesh
from vtzero.training.micro_batches import device_memory
from vtzero.training.optimizer import OptimizerSettings, decays, make_optimizer
from vtzero.training.phases import policy_logps, sampling_parameters
from vtzero.training.setup import check_batch, compute_dtype, remat_of, scheduled_updates
from vtzero.training.state import Metrics, ModelParts, TrainState, make_update, new_state, split_model

# No token has this id, so every completion runs to its full length and the work is known.
_NEVER = (-1,)


class Programs:
    """A run's functions and arrays: `prompts`, `keys` and a `state` without a file behind it."""

    def __init__(self, config: RunConfig, model: Qwen2VLConfig, shapes: Shapes):
        self.config, self.model, self.shapes = config, model, shapes
        self.mesh = make_mesh(chosen_mesh(config, model, jax.device_count(), device_memory()))
        check_batch(config, dict(self.mesh.shape))
        self.dtype = compute_dtype(config.dtype)
        self.parts, self._trainable, self._frozen = self._made_up_model()
        self.prompts: Prompts = shard_batch(random_prompts(shapes, model), self.mesh)
        keys = sample_keys(jax.random.key(config.seed), 0, jnp.arange(shapes.batch), shapes.group)
        self.keys = jax.device_put(keys, batch_sharding(self.mesh))
        self.parameters = sampling_parameters(config, model.vision_token_ids)
        self._objective = ObjectiveSettings(**shared_settings(config, ObjectiveSettings))
        self._scoring = ScoringSettings(model.vision_token_ids, config.temperature, config.logprob_chunk)
        optimizer = OptimizerSettings(**shared_settings(config, OptimizerSettings))
        self._optimizer = make_optimizer(optimizer, scheduled_updates(config))
        self._state: TrainState | None = None
        self._sampler = Sampler(self.parts.merge, self._decode_settings(shapes.completion))

    @property
    def weights(self) -> tuple[Any, Any]:
        """Trainable and frozen parameters."""
        return self._trainable, self._frozen

    @property
    def sees_once(self) -> bool:
        """Whether a step encodes its images once, since no update changes what makes their features."""
        return {"vision", "merger"} <= set(self.config.freeze) and bool(self.shapes.grids)

    def see(self, weights: tuple[Any, Any], prompts: Prompts) -> Prompts:
        """Images encoded: prompts with their features, and without the patches."""
        names = ("patches", "patch_positions", "segments")
        empty: dict[str, Any] = {name: getattr(prompts, name)[:, :0] for name in names}
        return replace(prompts, features=self.parts.merge(*weights).see(prompts), **empty)

    def prefill(self, weights: tuple[Any, Any], prompts: Prompts) -> Any:
        """Images encoded, where they are not yet, and prompts read."""
        return self.parts.merge(*weights).read_prompts(prompts)

    def sample(self, weights: tuple[Any, Any], prompts: Prompts, keys: Any) -> Completions:
        """A whole rollout."""
        return self._sampler(weights, prompts, keys, self.parameters)

    def sample_until(
        self, length: int, *, grows: bool = True
    ) -> Callable[[tuple[Any, Any], Prompts, Any, Array | int], Completions]:
        """A rollout into room for `length` tokens, which ends after a number of them given at each call.

        The cache grows with the answers, or has its full length from the start.
        """
        settings = self._decode_settings(length)
        settings = settings if grows else replace(settings, cache_lengths=(length,))

        def sample(weights: tuple[Any, Any], prompts: Prompts, keys: Any, tokens: Array | int) -> Completions:
            model = self.parts.merge(*weights)
            return sample_groups(model, prompts, keys, self.parameters, settings, tokens)

        return sample

    def made_up_rollout(self, length: int, packing: Any = None) -> Rollout:
        """A scored batch of answers that all have `length` tokens, laid out as `packing` says."""
        shapes = self.shapes
        grid = (shapes.batch, shapes.group, shapes.completion)
        group = np.full(grid[:2], length, np.int32)
        blank: dict[str, Any] = {"ids": np.ones(grid, np.int32), "policy_logps": np.zeros(grid, np.float32)}
        drawn = Completions(lengths=group, terminated=group > 0, **blank)  # type: ignore[arg-type]
        drawn = shard_batch(drawn, self.mesh)
        rollout = jax.jit(self.rollout)(self.prompts, drawn)
        packing = jax.tree.map(lambda leaf: jax.device_put(leaf, batch_sharding(self.mesh)), packing)
        return replace(rollout, packing=packing)

    def rollout(self, prompts: Prompts, drawn: Completions) -> Rollout:
        """A scored batch whose every token counts; half of each group did well."""
        mask = jnp.arange(drawn.ids.shape[-1]) < drawn.lengths[..., None]
        signs = jnp.where(jnp.arange(self.shapes.group) % 2 == 0, 1.0, -1.0)
        return Rollout(
            prompts=prompts,
            completion_ids=drawn.ids,
            mask=mask,
            weights=loss_weights(mask, self._objective),
            advantages=jnp.broadcast_to(signs, mask.shape[:2]),
            sampler_logps=policy_logps(drawn),
        )

    def score(self, weights: tuple[Any, Any], rollout: Rollout) -> Array:
        """Log-probabilities, as a reference model or an old policy gives them."""
        logps, _ = group_logprobs(
            self.parts.merge(*weights),
            rollout.prompts,
            rollout.completion_ids,
            packing=rollout.packing,
            banned=banned_mask(self._scoring.banned_ids, self.model.text.vocab_size),
            temperature=self._scoring.temperature,
            chunk=self._scoring.chunk,
        )
        return logps

    @property
    def scorings(self) -> int:
        """How often a step scores its rollout before the update."""
        return int(self.config.num_iterations > 1) + int(self.config.beta > 0)

    def with_logps(self, rollout: Rollout, logps: Sequence[Array]) -> Rollout:
        """The rollout with what `scored_with` gave, the reference's log-probabilities last."""
        old = logps[0] if self.config.num_iterations > 1 else None
        return replace(rollout, old_logps=old, ref_logps=logps[-1] if self.config.beta > 0 else None)

    def scored_with(self, policy: Any, reference: Any | None) -> list[Any]:
        """The trainable parameters that score a rollout: the policy's own for old log-probabilities first."""
        old = [policy] if self.config.num_iterations > 1 else []
        return old if reference is None else [*old, reference]

    def new_reference(self) -> Any | None:
        """Parameters of a reference model, which a step holds beside the policy's; None where `beta` is 0."""
        return jax.tree.map(jnp.copy, self._trainable) if self.config.beta > 0 else None

    def new_state(self) -> TrainState:
        """The state before the first update; takes over the memory of `weights`, which are then gone."""
        start = partial(new_state, optimizer=self._optimizer)
        shardings = self._state_shardings()
        state = jax.jit(start, donate_argnums=(0, 1), out_shardings=shardings)(*self.weights)
        self._trainable = self._frozen = None
        return state

    def state(self) -> TrainState:
        """The state of the updates so far; whoever updates it hands the new one to `keep`."""
        if self._state is None:
            self._state = self.new_state()
        return self._state

    def keep(self, state: TrainState) -> None:
        """Go on from this state."""
        self._state = state

    def update(self) -> Callable[[TrainState, Rollout, Array], tuple[TrainState, Metrics]]:
        """The jitted optimizer step; it takes over the memory of the state it is given."""
        loss = partial(grpo_loss, objective=self._objective, scoring=self._scoring)
        steps = self.config.gradient_accumulation_steps or 1
        return make_update(self.parts, loss, self._optimizer, steps, self._state_shardings())

    def _state_shardings(self) -> TrainState:
        start = partial(new_state, optimizer=self._optimizer)
        shapes = jax.eval_shape(start, *self._abstract)
        return state_sharding(shapes, self.mesh)

    def _decode_settings(self, length: int) -> DecodeSettings:
        return DecodeSettings(length, _NEVER, pad_id=0, logps="policy")

    def _made_up_model(self) -> tuple[ModelParts, Any, Any]:
        graphdef, shapes = abstract_model(
            self.model, dtype=self.dtype, remat=remat_of(self.config), attention=self.config.attention
        )
        _, *self._abstract = split_model(graphdef, shapes, self.config.freeze)

        make = jax.jit(partial(made_up, shapes), out_shardings=shard_params(shapes, self.mesh))
        return split_model(graphdef, make(), self.config.freeze)


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
