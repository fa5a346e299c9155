"""The compiled functions of a GRPO step: see, draw, weigh, score, update; declared before the first step.

They need shapes and a mesh, and no data, no rewards and no files: a benchmark runs the same ones.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from vtzero.config import RunConfig, shared_settings
from vtzero.data.batches import Buckets, blank_prompts
from vtzero.grpo.advantages import group_advantages, group_statistics
from vtzero.grpo.objectives import ObjectiveSettings, completion_mask, loss_weights
from vtzero.grpo.packing import Cut, Layout, Packing, ShortGrid, arrange, choose_layout, layouts
from vtzero.grpo.scoring import banned_mask, group_logprobs
from vtzero.grpo.step import Rollout, ScoringSettings, grpo_loss
from vtzero.models.qwen2_vl.config import Qwen2VLConfig
from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.parallel.program import Program
from vtzero.parallel.sharding import batch_shapes, batch_sharding, place, readers, replicated
from vtzero.sampling.decode import Completions, DecodeSettings, sample_keys
from vtzero.sampling.parameters import SamplingParameters
from vtzero.sampling.sampler import Sampler
from vtzero.training.micro_batches import bytes_on_a_device, fewest_parts, possible_parts
from vtzero.training.setup import Setup
from vtzero.training.state import ModelParts, TrainState, make_update

# A layout is worth its compilation where it leaves out a tenth of a group's tokens, its prompt among them.
_LEAST_SAVING = 0.1


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Weighed:
    """What the rewards make of a batch: which tokens count, how much, and TRL's statistics."""

    mask: Array
    weights: Float[Array, "batch group length"]
    advantages: Float[Array, "batch group"]
    total_tokens: Array
    statistics: dict[str, Array]


@dataclass(frozen=True)
class Blueprint:
    """What the programs of a step are made from: settings, shapes, a mesh and no array.

    The mesh may be one of devices that are not here, for which the programs can then be compiled.
    """

    config: RunConfig
    model: Qwen2VLConfig
    buckets: Buckets
    mesh: jax.sharding.Mesh
    shardings: TrainState
    parts: ModelParts
    optimizer: optax.GradientTransformation
    decoding: DecodeSettings

    @classmethod
    def of(cls, setup: Setup) -> "Blueprint":
        """That of a run."""
        names = ("config", "buckets", "mesh", "shardings", "parts", "optimizer")
        own = {name: getattr(setup, name) for name in names}
        return cls(model=setup.processor.config, decoding=decode_settings(setup, "policy"), **own)

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """Vision ids, which sampling may not draw."""
        return self.model.vision_token_ids


class Phases:
    """One program a phase; `score` and `update` have one for each layout of the completions."""

    def __init__(self, setup: Blueprint):
        config = setup.config
        self._setup, self._config = setup, config
        self._rows, self._everywhere = batch_sharding(setup.mesh), replicated(setup.mesh)
        self._objective = ObjectiveSettings(**shared_settings(config, ObjectiveSettings))
        self._scoring = ScoringSettings(setup.banned_ids, config.temperature, config.logprob_chunk)
        self._parameters = sampling_parameters(config, setup.banned_ids)
        self.layouts: tuple[Layout | Cut, ...] = _cuts(config)
        self.layouts += _worth_compiling(config) if config.packing else ()
        self._seen = _seen_once(config) if setup.buckets.patches > 0 else None
        # Spread like the prompts: without it every device would draw every completion.
        self._make_keys = jax.jit(self._drawn_keys, out_shardings=self._rows)
        self._see = None if self._seen is None else Program(self._look, out_shardings=self._rows)
        self._sampler = Sampler(setup.parts.merge, setup.decoding, out_shardings=self._rows)
        self._weigh = Program(
            self._weighed,
            out_shardings=_weighed_as(self._rows, self._everywhere),
        )
        self._score = Program(self._logprobs, out_shardings=self._rows)
        parts = config.gradient_accumulation_steps
        self._update = self._make_update(parts) if parts else None

    @property
    def sees_once(self) -> bool:
        """Whether the vision encoder (but for a merger that is trained) is run once a step."""
        return self._see is not None

    def see(self, state: TrainState, prompts: Prompts) -> Prompts:
        """Prompts with what is made of their images, as far as no update changes what makes it."""
        if self._see is None:
            return prompts
        return self._with_seen(prompts, self._see(state.frozen, state.trainable, prompts))

    def draw(self, state: TrainState, prompts: Prompts, index: int) -> Completions:
        """The completions of step `index`."""
        keys = self._keys(index)
        return self._sampler((state.trainable, state.frozen), prompts, keys, self._parameters)

    def pack(self, lengths: Int[np.ndarray, "batch group"]) -> Packing | ShortGrid | None:
        """The smallest declared layout that holds these completions; None for the grid."""
        layout = choose_layout(lengths, self.layouts)
        if layout is None:
            return None
        return self.place(arrange(lengths, self._config.max_completion_length, layout))

    def place(self, host: Any) -> Any:
        """Arrays of the host, samples first, on the devices of their samples."""
        return jax.tree.map(lambda array: place(array, self._rows), host)

    def weigh(self, drawn: Completions, rewards: Float[np.ndarray, "batch group"]) -> Weighed:
        """Advantages, and the weight of each token in the step's loss."""
        return self._weigh(drawn.lengths, drawn.terminated, self.place(rewards))

    def score(
        self, trainable: Any, frozen: Any, prompts: Prompts, ids: Array, packing: Packing | ShortGrid | None
    ) -> Float[Array, "batch group length"]:
        """Log-probabilities of the completions under these parameters."""
        return self._score(trainable, frozen, prompts, ids, packing)

    def update(
        self, state: TrainState, rollout: Rollout, total_tokens: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        """One optimizer step; the state it is given is donated."""
        return self._chosen_update((state, rollout, total_tokens))(state, rollout, total_tokens)

    def declare(self, state: TrainState, reference: Any | None) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Every program of a step by name, traced and to be compiled (`compilation.compile_all`)."""
        prompts, drawn = self._blank_prompts(), self._blank_completions()
        if self._see is not None:
            yield "vision", self._see.declare(state.frozen, state.trainable, prompts)
            seen = jax.eval_shape(self._look, state.frozen, state.trainable, prompts)
            prompts = self._with_seen(prompts, self._zeros(seen.shape, seen.dtype))
        pieces = (state.trainable, state.frozen)
        yield "sampling", self._sampler.declare(pieces, prompts, self._blank_keys(), self._parameters)
        rewards = self._zeros(drawn.lengths.shape, jnp.float32)
        yield "advantages", self._weigh.declare(drawn.lengths, drawn.terminated, rewards)
        for layout in (None, *self.layouts):
            name = "" if layout is None else f", {layout}"
            packing = None if layout is None else self._blank_packing(layout)
            for reader, policy in self._scored(state, reference).items():
                read = (policy, state.frozen, prompts, drawn.ids, packing)
                yield f"{reader}{name}", self._score.declare(*read)
            rollout = self._blank_rollout(prompts, drawn, packing, reference is not None)
            arguments = (state, rollout, self._blank(jnp.int32, self._everywhere))
            yield f"update{name}", self._chosen_update(arguments, reference).declare(*arguments)

    def _scored(self, state: TrainState, reference: Any | None) -> dict[str, Any]:
        """By the name of its program, whose log-probabilities are taken beside the update's own.

        A reference that is kept in another dtype than the policy has another program.
        """
        scored = {} if reference is None else {"scoring": reference}
        if self._config.num_iterations > 1 and _dtypes(reference) != _dtypes(state.trainable):
            scored["scoring before updates"] = state.trainable
        return scored

    def _blank(self, dtype: Any, sharding: Any, *shape: int) -> Any:
        """An array's shape, and where it will lie."""
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def _zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return self._blank(dtype, self._rows, *shape)

    def _placed(self, host: Any) -> Any:
        """The shapes of arrays of the host, samples first, where `place` would put them."""
        return jax.tree.map(lambda array: self._zeros(array.shape, array.dtype), host)

    def _blank_keys(self) -> Any:
        keys = jax.eval_shape(self._drawn_keys, np.int32(0))
        return self._zeros(keys.shape, keys.dtype)

    def _blank_prompts(self) -> Prompts:
        setup = self._setup
        blank = blank_prompts(self._config.prompts_per_step, setup.buckets, setup.model.vision.patch_dim)
        return batch_shapes(blank, setup.mesh)

    def _blank_completions(self) -> Completions:
        config = self._config
        group = (config.prompts_per_step, config.num_generations)
        tokens = (*group, config.max_completion_length)
        return Completions(
            ids=self._zeros(tokens, jnp.int32),
            lengths=self._zeros(group, jnp.int32),
            terminated=self._zeros(group, jnp.bool_),
            policy_logps=self._zeros(tokens, jnp.float32),
        )

    def _blank_packing(self, layout: Layout | Cut) -> Packing | ShortGrid:
        config = self._config
        lengths = np.zeros((config.prompts_per_step, config.num_generations), np.int32)
        return self._placed(arrange(lengths, config.max_completion_length, layout))

    def _blank_rollout(
        self, prompts: Prompts, drawn: Completions, packing: Packing | ShortGrid | None, has_reference: bool
    ) -> Rollout:
        logps: Any = drawn.policy_logps
        return Rollout(
            prompts=prompts,
            completion_ids=drawn.ids,
            mask=self._zeros(drawn.ids.shape, jnp.bool_),
            weights=logps,
            advantages=self._zeros(drawn.lengths.shape, jnp.float32),
            sampler_logps=logps,
            old_logps=logps if self._config.num_iterations > 1 else None,
            ref_logps=logps if has_reference else None,
            packing=packing,
        )

    def _make_update(self, parts: int) -> Program:
        loss = partial(grpo_loss, objective=self._objective, scoring=self._scoring)
        return make_update(self._setup.parts, loss, self._setup.optimizer, parts, self._setup.shardings)

    def _chosen_update(self, arguments: tuple[Any, ...], reference: Any = None) -> Program:
        """The update, in as few parts as fit where the config leaves that open."""
        if self._update is None:
            candidates = possible_parts(self._config.prompts_per_step, readers(self._setup.mesh))
            # A reference that moves is a part of the state, and so counted already.
            beside = bytes_on_a_device(reference) if arguments[0].reference is None else 0
            _, self._update = fewest_parts(self._make_update, candidates, arguments, beside=beside)
        return self._update

    def _keys(self, index: int) -> Any:
        return self._make_keys(np.int32(index))

    def _drawn_keys(self, index: Int[Array, ""]) -> Any:
        config = self._config
        samples = jnp.arange(config.prompts_per_step)
        return sample_keys(jax.random.key(config.seed), index, samples, config.num_generations)

    def _look(self, frozen: Any, trainable: Any, prompts: Prompts) -> Array:
        model = self._setup.parts.merge(trainable, frozen)
        return model.see(prompts) if self._seen == "features" else model.encode(prompts)

    def _with_seen(self, prompts: Prompts, seen: Any) -> Prompts:
        """The patches stay only as an empty array: nothing reads them."""
        names = ("patches", "patch_positions", "segments")
        empty = {name: _emptied(getattr(prompts, name)) for name in names}
        return replace(prompts, **{str(self._seen): seen}, **empty)

    def _weighed(self, lengths: Array, terminated: Array, rewards: Array) -> Weighed:
        settings = self._objective
        mask = completion_mask(lengths, terminated, settings.max_completion_length, settings)
        mask &= jnp.isfinite(rewards)[..., None]  # without a score: no part in the loss or its normaliser
        return Weighed(
            mask=mask,
            weights=loss_weights(mask, settings),
            advantages=group_advantages(rewards, self._config.scale_rewards),
            total_tokens=mask.sum(),
            statistics=group_statistics(rewards),
        )

    def _logprobs(
        self, trainable: Any, frozen: Any, prompts: Prompts, ids: Array, packing: Packing | ShortGrid | None
    ) -> Array:
        model = self._setup.parts.merge(trainable, frozen)
        logps, _ = group_logprobs(
            model,
            prompts,
            ids,
            packing=packing,
            banned=banned_mask(self._scoring.banned_ids, model.config.text.vocab_size),
            temperature=self._scoring.temperature,
            chunk=self._scoring.chunk,
        )
        return logps


def _dtypes(tree: Any) -> list[Any]:
    return [leaf.dtype for leaf in jax.tree.leaves(tree)]


def _emptied(array: Any) -> Any:
    """An array, or the shape of one, without its patches."""
    if isinstance(array, jax.ShapeDtypeStruct):
        shape = (array.shape[0], 0, *array.shape[2:])
        return jax.ShapeDtypeStruct(shape, array.dtype, sharding=array.sharding)
    return array[:, :0]


def _weighed_as(rows: Any, everywhere: Any) -> Weighed:
    return Weighed(rows, rows, rows, everywhere, everywhere)


def decode_settings(setup: Setup, logps: Any) -> DecodeSettings:
    """The decode loop's shape for a run."""
    processor = setup.processor
    return DecodeSettings(
        setup.config.max_completion_length,
        processor.stop_ids,
        processor.pad_id,
        logps,
        gather_weights=setup.config.gather_for_generation,
    )


def sampling_parameters(config: RunConfig, banned_ids: tuple[int, ...]) -> SamplingParameters:
    """The sampling part of a config; a filter that does nothing is left out of the program."""
    return SamplingParameters(
        temperature=config.temperature,
        top_k=config.top_k or None,
        top_p=config.top_p if config.top_p < 1 else None,
        min_p=config.min_p or None,
        repetition_penalty=config.repetition_penalty if config.repetition_penalty != 1 else None,
        banned_ids=banned_ids,
    )


def policy_logps(drawn: Completions) -> Array:
    """The log-probabilities that the sampler recorded for a trainer; ValueError where it recorded none."""
    if drawn.policy_logps is None:
        raise ValueError("the sampler kept no policy_logps; decode with logps='policy' or 'all'")
    return drawn.policy_logps


def _seen_once(config: RunConfig) -> str | None:
    """What of an image is the same before and after an update, and in the reference model (see `Prompts`)."""
    if "vision" not in config.freeze:
        return None
    return "features" if "merger" in config.freeze else "encoded"


def _cuts(config: RunConfig) -> tuple[Cut, ...]:
    lengths = config.completion_length_buckets
    return tuple(Cut(config.num_generations, length) for length in sorted({*lengths}, reverse=True))


def _worth_compiling(config: RunConfig) -> tuple[Layout, ...]:
    group, length = config.num_generations, config.max_completion_length
    most = config.max_prompt_length + group * length
    found = layouts(group, length)
    return tuple(item for item in found if group * length - item.slots >= _LEAST_SAVING * most)
