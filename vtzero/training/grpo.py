"""GRPO as a method of the loop: draw prompts, sample groups, score them, update."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtzero.config import ConfigError, RunConfig, shared_settings
from vtzero.data.pipeline import GroupPipeline, PromptBatch
from vtzero.data.processor import PreparedPrompt
from vtzero.grpo.advantages import group_advantages, group_statistics
from vtzero.grpo.objectives import ObjectiveSettings, completion_mask, loss_weights
from vtzero.grpo.scoring import banned_mask, group_logprobs
from vtzero.grpo.step import Rollout, ScoringSettings, grpo_loss
from vtzero.parallel.sharding import batch_sharding, shard_batch
from vtzero.rewards.registry import load_reward
from vtzero.rewards.runner import NamedReward, RewardFailure, RewardResult, score
from vtzero.rewards.text import aha_words
from vtzero.sampling.decode import Completions, DecodeSettings, sample_keys
from vtzero.sampling.parameters import SamplingParameters
from vtzero.sampling.sampler import Sampler
from vtzero.training.completions import CompletionRow, image_file
from vtzero.training.method import Clock, FailedReward, StepReport
from vtzero.training.metrics import aha_metrics, length_metrics, reward_metrics
from vtzero.training.setup import Setup, training_source
from vtzero.training.state import TrainState, make_reference_sync, make_update


@dataclass(frozen=True)
class Scored:
    """Completions as text, their aha words and rewards, in the order of the flattened (batch, group)."""

    texts: list[str]
    aha_words: list[list[str]]
    rewards: RewardResult


class GRPO:
    """One optimizer step a rollout and iteration; the reference model exists only where `beta` > 0."""

    def __init__(self, setup: Setup, reference: Any | None):
        """`reference`: the trainable parameters of one that stays; one that moves is in the state."""
        config = setup.config
        self._setup, self._config, self._reference = setup, config, reference
        self._objective = ObjectiveSettings(**shared_settings(config, ObjectiveSettings))
        self._scoring = ScoringSettings(setup.banned_ids, config.temperature, config.logprob_chunk)
        self._functions = reward_functions(config)
        self._pipeline = GroupPipeline(
            training_source(config),
            setup.processor,
            setup.template,
            setup.buckets,
            seed=config.seed,
        )
        self._sampler = Sampler(setup.parts.merge, decode_settings(setup))
        self._parameters = sampling_parameters(config, setup.banned_ids)
        loss = partial(grpo_loss, objective=self._objective, scoring=self._scoring)
        self._update = make_update(
            setup.parts, loss, setup.optimizer, config.gradient_accumulation_steps, setup.shardings
        )
        self._sync = make_reference_sync(config.ref_model_mixup_alpha, setup.shardings)
        self._score = jax.jit(self._logprobs)
        self._prepare = jax.jit(self._rollout)

    def step(self, state: TrainState, index: int) -> tuple[TrainState, StepReport]:
        """Draw, sample, score, update."""
        clock = Clock()
        batch = self._pipeline.next_batch(self._config.prompts_per_step)
        arrays = shard_batch(batch.arrays, self._setup.mesh)
        clock.lap("data")
        drawn = self._sample(state, arrays, index)
        jax.block_until_ready(drawn)
        clock.lap("gen")
        scored = self._rewards(batch.prompts, drawn)
        clock.lap("reward")
        rollout, statistics = self._prepare(arrays, drawn, self._by_group(scored.rewards.total))
        rollout = self._with_old_and_reference(state, rollout)
        jax.block_until_ready(rollout)
        clock.lap("ref")
        state, metrics = self._iterate(state, rollout)
        metrics |= {name: float(value) for name, value in statistics.items()}
        if state.reference is not None:
            state, metrics["ref_syncs"] = self._follow(state, index)
        clock.lap("update_actor")
        logged = self._config.log_completions and self._is_logged(index)
        advantages = np.asarray(rollout.advantages)
        return state, self._report(batch, drawn, scored, advantages, metrics, clock, logged)

    def _is_logged(self, index: int) -> bool:
        return index % self._config.logging_steps == 0 or index == self._config.max_steps

    def data_state(self) -> Mapping[str, Any]:
        return self._pipeline.get_state()

    def restore_data(self, state: Mapping[str, Any]) -> None:
        self._pipeline.set_state(state)

    def close(self) -> None:
        self._pipeline.close()

    def _follow(self, state: TrainState, index: int) -> tuple[TrainState, float]:
        """Move the reference after every `ref_model_sync_steps` steps; and how often it has moved by now."""
        moved, rest = divmod(index, self._config.ref_model_sync_steps)
        return (state if rest else self._sync(state)), float(moved)

    def _sample(self, state: TrainState, prompts: Any, index: int) -> Completions:
        config = self._config
        keys = sample_keys(
            jax.random.key(config.seed), index, jnp.arange(config.prompts_per_step), config.num_generations
        )
        # Spread like the prompts: without it every device would draw every completion.
        keys = jax.device_put(keys, batch_sharding(self._setup.mesh))
        return self._sampler((state.trainable, state.frozen), prompts, keys, self._parameters)

    def _rewards(self, prompts: Sequence[PreparedPrompt], drawn: Completions) -> Scored:
        """Score the text of every completion; columns repeat each prompt's for its group."""
        ids, lengths = np.asarray(drawn.ids), np.asarray(drawn.lengths)
        group = self._config.num_generations
        decode = self._setup.processor.decode
        texts = [
            decode(ids[row, place, : lengths[row, place]])
            for row in range(len(prompts))
            for place in range(group)
        ]
        repeated = [prompt for prompt in prompts for _ in range(group)]
        columns: dict[str, list[Any]] = {
            "prompts": [prompt.text for prompt in repeated],
            "answer": [prompt.answer for prompt in repeated],
            "options": [list(prompt.options) for prompt in repeated],
            "task": [prompt.task for prompt in repeated],
            "question": [prompt.example.question for prompt in repeated],
            "completion_lengths": [int(length) for length in lengths.reshape(-1)],
            "terminated": [bool(end) for end in np.asarray(drawn.terminated).reshape(-1)],
        }
        taken = columns.keys() | {"completions"}
        further = {name for prompt in prompts for name in prompt.example.columns} - taken
        columns |= {name: [p.example.columns.get(name) for p in repeated] for name in sorted(further)}
        return Scored(texts, [aha_words(text) for text in texts], score(self._functions, texts, columns))

    def _rollout(
        self, prompts: Any, drawn: Completions, rewards: Any
    ) -> tuple[Rollout, dict[str, jax.Array]]:
        settings = self._objective
        mask = completion_mask(drawn.lengths, drawn.terminated, settings.max_completion_length, settings)
        mask &= jnp.isfinite(rewards)[..., None]  # without a score: no part in the loss or its normaliser
        rollout = Rollout(
            prompts=prompts,
            completion_ids=drawn.ids,
            mask=mask,
            weights=loss_weights(mask, settings),
            advantages=group_advantages(rewards, self._config.scale_rewards),
            sampler_logps=drawn.policy_logps,
        )
        return rollout, group_statistics(rewards)

    def _with_old_and_reference(self, state: TrainState, rollout: Rollout) -> Rollout:
        if self._config.num_iterations > 1:
            old = self._score(state.trainable, state.frozen, rollout)
            rollout = replace(rollout, old_logps=old)
        reference = self._reference if state.reference is None else state.reference
        if reference is not None:
            ref = self._score(reference, state.frozen, rollout)
            rollout = replace(rollout, ref_logps=ref)
        return rollout

    def _logprobs(self, trainable: Any, frozen: Any, rollout: Rollout) -> jax.Array:
        model = self._setup.parts.merge(trainable, frozen)
        logps, _ = group_logprobs(
            model,
            rollout.prompts,
            rollout.completion_ids,
            banned=banned_mask(self._scoring.banned_ids, model.config.text.vocab_size),
            temperature=self._scoring.temperature,
            chunk=self._scoring.chunk,
        )
        return logps

    def _iterate(self, state: TrainState, rollout: Rollout) -> tuple[TrainState, dict[str, float]]:
        """One update an iteration; metrics are those of the last, the learning rate that of the first."""
        metrics = {"learning_rate": float(self._setup.schedule(int(state.step)))}
        total_tokens = rollout.mask.sum()
        for _ in range(self._config.num_iterations):
            state, values = self._update(state, rollout, total_tokens)
        return state, metrics | {name: float(value) for name, value in values.items()}

    def _by_group(self, values: Any) -> jax.Array:
        return jnp.asarray(values, jnp.float32).reshape(-1, self._config.num_generations)

    def _report(
        self,
        batch: PromptBatch,
        drawn: Completions,
        scored: Scored,
        advantages: np.ndarray,
        metrics: dict[str, float],
        clock: Clock,
        logged: bool,
    ) -> StepReport:
        lengths, terminated = np.asarray(drawn.lengths), np.asarray(drawn.terminated)
        names = [function.name for function in self._functions]
        metrics |= reward_metrics(names, scored.rewards.per_function)
        metrics |= length_metrics(lengths, terminated, self._config.max_completion_length)
        metrics |= aha_metrics(scored.aha_words)
        metrics |= clock.metrics()
        tokens = int(lengths.sum()) + sum(len(prompt.ids) for prompt in batch.prompts)
        metrics["num_tokens"] = float(tokens)
        metrics["perf/throughput"] = tokens / metrics["timing_s/step"] / self._setup.mesh.size
        metrics["rejected_samples"] = float(len(batch.rejected))
        metrics["unscored_completions"] = float(np.isnan(scored.rewards.total).sum())
        metrics["reward_failures"] = float(len(scored.rewards.failures))
        rows = self._rows(batch.prompts, scored, names, advantages.reshape(-1)) if logged else []
        failures = [self._failed(failure, batch.prompts) for failure in scored.rewards.failures]
        return StepReport(metrics, rows, batch.rejected, failures)

    def _failed(self, failure: RewardFailure, prompts: Sequence[PreparedPrompt]) -> FailedReward:
        reason = f"{failure.function_name}: {failure.reason}"
        if failure.sample_index is None:
            return FailedReward("batch", None, reason)
        row, place = divmod(failure.sample_index, self._config.num_generations)
        return FailedReward(prompts[row].id, place, reason)

    def _rows(
        self,
        prompts: Sequence[PreparedPrompt],
        scored: Scored,
        names: Sequence[str],
        advantages: np.ndarray,
    ) -> list[CompletionRow]:
        group = self._config.num_generations
        pictures = [_picture(prompt) for prompt in prompts]
        return [
            CompletionRow(
                prompt=prompts[place // group].text,
                completion=text,
                rewards={name: scored.rewards.per_function[i, place] for i, name in enumerate(names)},
                advantage=float(advantages[place]),
                answer=prompts[place // group].answer,
                task=prompts[place // group].task,
                image=pictures[place // group],
                aha_words=scored.aha_words[place],
            )
            for place, text in enumerate(scored.texts)
        ]


def _picture(prompt: PreparedPrompt) -> bytes | None:
    """The first image of a prompt, as a file."""
    images = prompt.example.images
    return image_file(images[0]) if images else None


def decode_settings(setup: Setup) -> DecodeSettings:
    """The decode loop's shape for a run."""
    return DecodeSettings(
        setup.config.max_completion_length, setup.processor.stop_ids, setup.processor.pad_id
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


def reward_functions(config: RunConfig) -> list[NamedReward]:
    """The rewards that a config names, with their weights (1 each unless given).

    Raises ConfigError when two have the same name, as their metrics could not be told apart, and for
    `soft_overlong` without a cache.
    """
    if "soft_overlong" in config.reward_funcs and not config.soft_punish_cache:
        raise ConfigError(
            "reward_funcs names soft_overlong, but soft_punish_cache is 0; "
            "give the number of tokens before max_completion_length over which it falls to -1"
        )
    settings = {name: getattr(config, name) for name in ("max_completion_length", "soft_punish_cache")}
    weights = config.reward_weights or (1.0,) * len(config.reward_funcs)
    names = [spec.rpartition(":")[2] for spec in config.reward_funcs]
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"reward_funcs names {doubled!r} twice; give one of the functions another name")
    return [
        NamedReward(name, load_reward(spec, settings), weight)
        for name, spec, weight in zip(names, config.reward_funcs, weights, strict=True)
    ]
