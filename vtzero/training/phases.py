"""The compiled functions of a GRPO step: see, draw, weigh, score, update; declared before the first step.

They need shapes and a mesh, and no data, no rewards and no files: a benchmark runs the same ones.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vtzero.config import RunConfig, shared_settings
from vtzero.data.batches import blank_prompts
from vtzero.grpo.advantages import group_advantages, group_statistics
from vtzero.grpo.objectives import ObjectiveSettings, completion_mask, loss_weights
from vtzero.grpo.packing import Cut, Layout, Packed, Packing, ShortGrid, choose_layout, layouts
from vtzero.grpo.scoring import banned_mask, group_logprobs
from vtzero.grpo.step import Rollout, ScoringSettings, grpo_loss
from vtzero.models.qwen2_vl.inputs import Prompts, Seen
from vtzero.parallel.program import Program
from vtzero.parallel.sharding import batch_shapes, batch_sharding, place, readers, replicated, shapes_at
from vtzero.sampling.decode import Completions, sample_keys
from vtzero.sampling.parameters import SamplingParameters
from vtzero.sampling.sampler import Sampler
from vtzero.training.blueprint import Blueprint
from vtzero.training.micro_batches import bytes_on_a_device, fewest_parts, possible_parts
from vtzero.training.state import TrainState, make_update

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


class Phases:
    """One program a phase; `score` and `update` have one for each layout of the completions.

    `seen` is what `see` makes of the images, once a step; None where an update may change all of it.
    `micro_batches` is None until they are chosen.
    """

    def __init__(self, setup: Blueprint):
        config = setup.config
        self._setup, self._config = setup, config
        self._rows, self._everywhere = batch_sharding(setup.mesh), replicated(setup.mesh)
        self._objective = ObjectiveSettings(**shared_settings(config, ObjectiveSettings))
        self._scoring = ScoringSettings(setup.banned_ids, config.temperature, config.logprob_chunk)
        self._parameters = sampling_parameters(config, setup.banned_ids)
        self.layouts: tuple[Layout, ...] = _cuts(config)
        self.layouts += _worth_compiling(config) if config.packing else ()
        self.seen = seen_once(config) if setup.buckets.patches > 0 else None
        # Spread like the prompts: without it every device would draw every completion.
        self._make_keys = jax.jit(self._drawn_keys, out_shardings=self._rows)
        self._see = None if self.seen is None else Program(self._look, out_shardings=self._rows)
        self._sampler = Sampler(setup.parts.merge, setup.decoding, out_shardings=self._rows)
        self._weigh = Program(
            self._weighed,
            out_shardings=_weighed_as(self._rows, self._everywhere),
        )
        self._score = Program(self._logprobs, out_shardings=self._rows)
        # Declared programs are compiled by several threads, and the choice is made once for all layouts.
        self._choosing = Lock()
        self.micro_batches: int | None = config.gradient_accumulation_steps or None
        self._update = None if self.micro_batches is None else self._make_update(self.micro_batches)

    def see(self, state: TrainState, prompts: Prompts) -> Prompts:
        """Prompts with what is made of their images, as far as no update changes what makes it."""
        if self._see is None:
            return prompts
        return self._with_seen(prompts, self._see(state.frozen, state.trainable, prompts))

    def draw(
        self, state: TrainState, prompts: Prompts, index: int, max_new_tokens: int | None = None
    ) -> Completions:
        """The completions of step `index`."""
        pieces, keys = (state.trainable, state.frozen), self._make_keys(np.int32(index))
        return self._sampler(pieces, prompts, keys, self._parameters, max_new_tokens)

    def pack(self, lengths: Int[np.ndarray, "batch group"]) -> Packing | ShortGrid | None:
        """The smallest declared layout that holds these completions; None for the grid."""
        layout = choose_layout(lengths, self.layouts)
        if layout is None:
            return None
        return self.place(layout.arrange(lengths, self._config.max_completion_length))

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

    def old_and_reference(
        self,
        state: TrainState,
        reference: Any | None,
        prompts: Prompts,
        ids: Array,
        packing: Packing | ShortGrid | None,
    ) -> tuple[Array | None, Array | None]:
        """What the step needs beside the policy: with one update a rollout and no reference, nothing."""
        several = self._config.num_iterations > 1
        old = self.score(state.trainable, state.frozen, prompts, ids, packing) if several else None
        if reference is None:
            return old, None
        return old, self.score(reference, state.frozen, prompts, ids, packing)

    def update(
        self, state: TrainState, rollout: Rollout, total_tokens: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        """One optimizer step; the state it is given is donated."""
        return self._chosen_update((state, rollout, total_tokens))(state, rollout, total_tokens)

    def declare(self, state: TrainState, reference: Any | None) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Every program of a step by name, traced and to be compiled (`compilation.compile_all`)."""
        scores = reference is not None or self._config.num_iterations > 1
        for name, trace in self.programs(state, reference):
            if scores or not name.startswith("scoring"):
                yield name, trace()

    def programs(
        self, state: TrainState, reference: Any | None
    ) -> Iterator[tuple[str, Callable[[], Callable[[], Any]]]]:
        """Every program by name, with what traces it: `Program.declare`; `scoring` even where no step does.

        State and reference are arrays, or their shapes.
        """
        config, mesh = self._config, self._setup.mesh
        size = (config.prompts_per_step, self._setup.buckets, self._setup.model.vision.patch_dim)
        prompts, drawn = batch_shapes(blank_prompts(*size), mesh), self._blank_completions()
        if self._see is not None:
            looked = (state.frozen, state.trainable, prompts)
            yield "vision", partial(self._see.declare, *looked)
            seen = jax.eval_shape(self._with_seen, prompts, jax.eval_shape(self._look, *looked))
            prompts = batch_shapes(seen, mesh)
        keys = shapes_at(jax.eval_shape(self._drawn_keys, np.int32(0)), self._rows)
        pieces = (state.trainable, state.frozen)
        yield "sampling", partial(self._sampler.declare, pieces, prompts, keys, self._parameters)
        rewards = shapes_at(jax.ShapeDtypeStruct(drawn.lengths.shape, jnp.float32), self._rows)
        weighing = (drawn.lengths, drawn.terminated, rewards)
        yield "advantages", partial(self._weigh.declare, *weighing)
        weighed = shapes_at(
            jax.eval_shape(self._weighed, *weighing), _weighed_as(self._rows, self._everywhere)
        )
        logps: Any = drawn.policy_logps
        old = logps if config.num_iterations > 1 else None
        for layout in (None, *self.layouts):
            packing = None if layout is None else self._blank_packing(layout)
            scorer = state.trainable if reference is None else reference
            read = (scorer, state.frozen, prompts, drawn.ids, packing)
            yield program_name("scoring", layout), partial(self._score.declare, *read)
            # A reference that is kept in another dtype than the policy has a program of its own.
            if old is not None and _dtypes(scorer) != _dtypes(state.trainable):
                read = (state.trainable, *read[1:])
                yield program_name("scoring before updates", layout), partial(self._score.declare, *read)
            rollout = rollout_of(prompts, drawn, weighed, old, None if reference is None else logps, packing)
            arguments = (state, rollout, weighed.total_tokens)
            yield program_name("update", layout), partial(self._declare_update, arguments, reference)

    def _declare_update(self, arguments: tuple[Any, ...], reference: Any) -> Callable[[], Any]:
        """Where the number of micro-batches is left open, it is chosen when the update is compiled."""
        if self._update is None:
            return partial(self._compile_chosen, arguments, reference)
        return self._update.declare(*arguments)

    def _compile_chosen(self, arguments: tuple[Any, ...], reference: Any) -> Any:
        with jax.set_mesh(self._setup.mesh):  # a thread that compiles has none
            return self._chosen_update(arguments, reference).declare(*arguments)()

    def _blank_completions(self) -> Completions:
        config = self._config
        group = (config.prompts_per_step, config.num_generations)
        tokens = (*group, config.max_completion_length)
        blank: dict[str, Any] = {
            "ids": jax.ShapeDtypeStruct(tokens, jnp.int32),
            "lengths": jax.ShapeDtypeStruct(group, jnp.int32),
            "terminated": jax.ShapeDtypeStruct(group, jnp.bool_),
            "policy_logps": jax.ShapeDtypeStruct(tokens, jnp.float32),
        }
        placed: Completions = shapes_at(Completions(**blank), self._rows)
        return placed

    def _blank_packing(self, layout: Layout) -> Packing | ShortGrid:
        config = self._config
        lengths = np.zeros((config.prompts_per_step, config.num_generations), np.int32)
        packing: Packing | ShortGrid = shapes_at(
            layout.arrange(lengths, config.max_completion_length), self._rows
        )
        return packing

    def _make_update(self, parts: int) -> Program:
        loss = partial(grpo_loss, objective=self._objective, scoring=self._scoring)
        return make_update(self._setup.parts, loss, self._setup.optimizer, parts, self._setup.shardings)

    def _chosen_update(self, arguments: tuple[Any, ...], reference: Any = None) -> Program:
        """The update, in as few parts as fit where the config leaves that open."""
        with self._choosing:
            return self._chosen(arguments, reference)

    def _chosen(self, arguments: tuple[Any, ...], reference: Any) -> Program:
        if self._update is None:
            candidates = possible_parts(self._config.prompts_per_step, readers(self._setup.mesh))
            # A reference that moves is a part of the state, and so counted already.
            beside = bytes_on_a_device(reference) if arguments[0].reference is None else 0
            self.micro_batches, self._update = fewest_parts(
                self._make_update, candidates, arguments, memory=self._setup.memory, beside=beside
            )
        return self._update

    def _drawn_keys(self, index: Int[Array, ""]) -> Any:
        config = self._config
        samples = jnp.arange(config.prompts_per_step)
        return sample_keys(jax.random.key(config.seed), index, samples, config.num_generations)

    def _look(self, frozen: Any, trainable: Any, prompts: Prompts) -> Array:
        model = self._setup.parts.merge(trainable, frozen)
        return model.see(prompts) if self.seen == "features" else model.encode(prompts)

    def _with_seen(self, prompts: Prompts, seen: Any) -> Prompts:
        """The patches stay only as an empty array: nothing reads them."""
        names = ("patches", "patch_positions", "segments")
        empty: dict[str, Any] = {name: getattr(prompts, name)[:, :0] for name in names}
        return replace(prompts, **{str(self.seen): seen}, **empty)

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


def rollout_of(
    prompts: Prompts,
    drawn: Completions,
    weighed: Weighed,
    old: Array | None,
    reference: Array | None,
    packing: Packing | ShortGrid | None,
) -> Rollout:
    """What an update learns from; `old` and `reference` are log-probabilities."""
    return Rollout(
        prompts=prompts,
        completion_ids=drawn.ids,
        mask=weighed.mask,
        weights=weighed.weights,
        advantages=weighed.advantages,
        sampler_logps=policy_logps(drawn),
        old_logps=old,
        ref_logps=reference,
        packing=packing,
    )


def program_name(phase: str, layout: Layout | None) -> str:
    """That of `scoring` or `update` for completions laid out so."""
    return phase if layout is None else f"{phase}, {layout}"


def _weighed_as(rows: Any, everywhere: Any) -> Weighed:
    return Weighed(rows, rows, rows, everywhere, everywhere)


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


def seen_once(config: RunConfig) -> Seen | None:
    """What of an image is the same before and after an update, and in the reference model (see `Prompts`)."""
    if "vision" not in config.freeze:
        return None
    return "features" if "merger" in config.freeze else "encoded"


def _cuts(config: RunConfig) -> tuple[Cut, ...]:
    lengths = config.completion_length_buckets
    return tuple(Cut(config.num_generations, length) for length in sorted({*lengths}, reverse=True))


def _worth_compiling(config: RunConfig) -> tuple[Packed, ...]:
    group, length = config.num_generations, config.max_completion_length
    most = config.max_prompt_length + group * length
    found = layouts(group, length)
    return tuple(item for item in found if group * length - item.slots >= _LEAST_SAVING * most)


def _dtypes(tree: Any) -> list[Any]:
    return [leaf.dtype for leaf in jax.tree.leaves(tree)]
