"""GRPO as a method of the loop: draw prompts, sample groups, score them, update."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int

from vtzero.config import ConfigError, RunConfig
from vtzero.data.pipeline import GroupPipeline, PromptBatch
from vtzero.data.processor import PreparedPrompt
from vtzero.grpo.step import Rollout
from vtzero.models.qwen2_vl import costs
from vtzero.parallel.processes import join_rows, on_host, row_share
from vtzero.parallel.sharding import readers
from vtzero.rewards.registry import load_reward
from vtzero.rewards.runner import NamedReward, RewardFailure, RewardResult, score
from vtzero.rewards.text import aha_words
from vtzero.training.blueprint import Blueprint
from vtzero.training.ceilings import run_limits
from vtzero.training.completions import CompletionRow, image_file
from vtzero.training.logged_steps import keeps_completions
from vtzero.training.method import (
    NEVER,
    Clock,
    FailedReward,
    Learned,
    StepReport,
    Stops,
    tell_nobody,
    when_ready,
)
from vtzero.training.metrics import aha_metrics, failure_metrics, length_metrics, reward_metrics
from vtzero.training.outline import compute_dtype
from vtzero.training.phases import Phases, Weighed, rollout_of
from vtzero.training.preemption import Stopped
from vtzero.training.setup import Setup, learning_rates, training_source
from vtzero.training.state import TrainState, follow, make_reference_sync
from vtzero.training.throughput import throughput_metrics


@dataclass(frozen=True)
class Asked:
    """What a step's report says of a prompt; `images` are numbers of patches."""

    id: str
    text: str
    question: str
    answer: str
    task: str
    tokens: int
    images: tuple[int, ...]


@dataclass(frozen=True)
class Scored:
    """Completions as text, their aha words and rewards, in the order of the flattened (batch, group)."""

    asked: list[Asked]
    texts: list[str]
    aha_words: list[list[str]]
    rewards: RewardResult


@dataclass(frozen=True)
class Drawn:
    """Completions on the host: their tokens, lengths, and whether they ended."""

    ids: Int[np.ndarray, "batch group length"]
    lengths: Int[np.ndarray, "batch group"]
    terminated: Bool[np.ndarray, "batch group"]

    def of(self, rows: Sequence[int]) -> "Drawn":
        """Those of some samples."""
        return Drawn(self.ids[rows], self.lengths[rows], self.terminated[rows])


@dataclass(frozen=True)
class Begun:
    """A step whose update may still be under way; `values` and `weighed` are on devices."""

    index: int
    batch: PromptBatch
    drawn: Drawn
    scored: Scored
    weighed: Weighed
    values: dict[str, Any]
    metrics: dict[str, float]
    clock: Clock
    ended: Future[float]


class GRPO:
    """One optimizer step a rollout and iteration; the reference model exists only where `beta` > 0."""

    def __init__(self, setup: Setup, reference: Any | None):
        """`reference`: the trainable parameters of one that stays; one that moves is in the state."""
        config = setup.config
        self._setup, self._config, self._reference = setup, config, reference
        self._share = row_share(setup.mesh)
        self._functions = reward_functions(config)
        self._pipeline = GroupPipeline(
            training_source(config),
            setup.processor,
            setup.template,
            setup.buckets,
            seed=config.seed,
            share=self._share,
            prefetch=2 * config.prompts_per_step // self._share.blocks,
        )
        self._phases = Phases(Blueprint.of(setup))
        self._sync = make_reference_sync(config.ref_model_mixup_alpha, setup.shardings)
        self._rates = learning_rates(setup)
        self._waiter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="update")
        self._limits = run_limits(compute_dtype(config.dtype))
        self._begun: Begun | None = None
        self._ready: StepReport | None = None
        self.tell: Callable[[str], None] = tell_nobody

    def declare(self, state: TrainState) -> Iterator[tuple[str, Callable[[], Any]]]:
        yield from self._phases.declare(state, self._reference_of(state))
        if state.reference is not None:
            yield "reference sync", self._sync.declare(state.reference, state.trainable)

    def step(
        self, state: TrainState, index: int, stops: Stops = NEVER
    ) -> tuple[TrainState, StepReport | None]:
        """Draw, sample, score, update. Rewards are computed while the devices score."""
        clock, phases, tell = Clock(), self._phases, self.tell
        tell("data")
        batch = self._pipeline.next_batch(self._config.prompts_per_step)
        arrays = phases.see(state, join_rows(batch.arrays, self._setup.mesh, self._share))
        completions = phases.draw(state, arrays, index)
        asked = perf_counter()
        self._ready = self._finish(clock)
        clock.lap("data", at=asked)
        tell("gen")
        # Nothing of the state is changed by a rollout: on a stop it is left to itself.
        if not stops.arrived(completions):
            raise Stopped
        drawn = Drawn(*on_host((completions.ids, completions.lengths, completions.terminated)))
        clock.lap("gen")
        tell("reward")
        packing = phases.pack(drawn.lengths)
        old, reference = phases.old_and_reference(
            state, self._reference_of(state), arrays, completions.ids, packing
        )
        own = drawn.of(self._share.rows(len(drawn.ids)))
        parts = self._share.gather(stops.unless_asked(lambda: self._rewards(batch.prompts, own)))
        if stops.agreed():
            raise Stopped
        scored = _together(parts, self._share.gathered_rows(len(drawn.ids)))
        clock.lap("reward")
        tell("ref")
        weighed = phases.weigh(completions, self._by_group(scored.rewards.total))
        jax.block_until_ready((weighed, old, reference))
        clock.lap("ref")
        tell("update")
        rollout = rollout_of(arrays, completions, weighed, old, reference, packing)
        metrics = {"learning_rate": float(self._rates[(index - 1) * self._config.num_iterations])}
        state, values = self._iterate(state, rollout, weighed)
        if state.reference is not None:
            state, metrics["ref_syncs"] = self._follow(state, index)
        metrics["packing"] = 1.0 if packing is None else packing.share
        ended = self._waiter.submit(when_ready, values)
        self._begun = Begun(index, batch, drawn, scored, weighed, values, metrics, clock, ended)
        return state, self._taken()

    def finish(self) -> StepReport | None:
        return self._taken() or self._finish(Clock())

    def _taken(self) -> StepReport | None:
        report, self._ready = self._ready, None
        return report

    def _finish(self, clock: Clock) -> StepReport | None:
        """Wait for the update under way, from whose end `clock` goes on."""
        if self._begun is None:
            return None
        begun, self._begun = self._begun, None
        self.tell("update")
        begun.clock.lap("update_actor", at=begun.ended.result())
        clock.go_on_from(begun.ended.result())
        return self._report(begun)

    def data_state(self) -> Mapping[str, Any]:
        return self._pipeline.get_state()

    def restore_data(self, state: Mapping[str, Any]) -> None:
        self._pipeline.set_state(state)

    def close(self) -> None:
        self._pipeline.close()
        self._waiter.shutdown()

    def _follow(self, state: TrainState, index: int) -> tuple[TrainState, float]:
        """Move the reference after every `ref_model_sync_steps` steps; and how often it has moved by now."""
        moved, rest = divmod(index, self._config.ref_model_sync_steps)
        return (state if rest else follow(self._sync, state)), float(moved)

    def _rewards(self, prompts: Sequence[PreparedPrompt], drawn: Drawn) -> Scored:
        """Score the text of every completion; columns repeat each prompt's for its group."""
        ids, lengths = drawn.ids, drawn.lengths
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
            "terminated": [bool(end) for end in drawn.terminated.reshape(-1)],
        }
        taken = columns.keys() | {"completions"}
        further = {name for prompt in prompts for name in prompt.example.columns} - taken
        columns |= {name: [p.example.columns.get(name) for p in repeated] for name in sorted(further)}
        rewards = score(self._functions, texts, columns)
        return Scored([_asked(prompt) for prompt in prompts], texts, [*map(aha_words, texts)], rewards)

    def _reference_of(self, state: TrainState) -> Any | None:
        return self._reference if state.reference is None else state.reference

    def _iterate(
        self, state: TrainState, rollout: Rollout, weighed: Weighed
    ) -> tuple[TrainState, dict[str, Any]]:
        """One update an iteration; metrics are those of the last, skipped updates those of all."""
        values: dict[str, Any] = {}
        skipped = []
        for _ in range(self._config.num_iterations):
            state, values = self._phases.update(state, rollout, weighed.total_tokens)
            skipped.append(values["skipped_updates"])
        return state, values | {"skipped_updates": skipped}

    def _by_group(self, values: Any) -> np.ndarray:
        return np.asarray(values, np.float32).reshape(-1, self._config.num_generations)

    def _report(self, begun: Begun) -> StepReport:
        batch, scored, drawn, clock = begun.batch, begun.scored, begun.drawn, begun.clock
        lengths, terminated = drawn.lengths, drawn.terminated
        weighed = begun.weighed
        values, advantages = on_host((begun.values | weighed.statistics, weighed.advantages))
        metrics = {name: float(np.sum(value)) for name, value in values.items()}
        metrics |= begun.metrics
        names = [function.name for function in self._functions]
        metrics |= reward_metrics(names, scored.rewards.per_function)
        metrics |= length_metrics(lengths, terminated, self._config.max_completion_length)
        metrics |= aha_metrics(scored.aha_words)
        metrics |= clock.metrics()
        tokens = int(lengths.sum()) + sum(prompt.tokens for prompt in scored.asked)
        metrics["num_tokens"] = float(tokens)
        metrics |= self._throughput(begun, tokens, metrics)
        metrics["rejected_samples"] = float(len(batch.rejected))
        metrics["unscored_completions"] = float(np.isnan(scored.rewards.total).sum())
        failed = {failure.sample_index for failure in scored.rewards.failures} - {None}
        metrics["failed_completions"] = float(len(failed))
        metrics["reward_failures"] = float(len(scored.rewards.failures))
        metrics |= failure_metrics(names, scored.rewards.failures)
        kept = keeps_completions(self._config, begun.index)
        rows = self._rows(batch.prompts, scored, drawn, names, advantages.reshape(-1)) if kept else []
        failures = [self._failed(failure, scored.asked) for failure in scored.rewards.failures]
        skipped = _learned(scored) if metrics["skipped_updates"] else []
        samples = {"completions/length": lengths.reshape(-1), "rewards/total": scored.rewards.total}
        return StepReport(begun.index, metrics, rows, batch.rejected, failures, skipped, samples)

    def _throughput(self, begun: Begun, tokens: int, metrics: Mapping[str, float]) -> dict[str, float]:
        config, model = self._config, self._setup.processor.config
        lengths = lengths_of(begun.scored.asked, begun.drawn.lengths)
        updated = replace(lengths, seen=self._phases.seen)
        itemsize = compute_dtype(config.dtype).itemsize
        replicas = readers(self._setup.mesh)
        read = costs.prefill_bytes(model, lengths, itemsize, replicas=replicas)
        read += costs.decode_bytes(model, lengths, itemsize, replicas=replicas)
        return throughput_metrics(
            self._limits,
            devices=self._setup.mesh.size,
            tokens=tokens,
            seconds=metrics["timing_s/step"],
            update_flops=config.num_iterations * costs.update(model, updated, config.freeze),
            update_seconds=metrics["timing_s/update_actor"],
            gen_bytes=read,
            gen_seconds=metrics["timing_s/gen"],
        )

    def _failed(self, failure: RewardFailure, prompts: Sequence[Asked]) -> FailedReward:
        reason = f"{failure.function_name}: {failure.reason}"
        if failure.sample_index is None:
            return FailedReward("batch", None, reason)
        row, place = divmod(failure.sample_index, self._config.num_generations)
        return FailedReward(prompts[row].id, place, reason)

    def _rows(
        self,
        prompts: Sequence[PreparedPrompt],
        scored: Scored,
        drawn: Drawn,
        names: Sequence[str],
        advantages: np.ndarray,
    ) -> list[CompletionRow]:
        group, asked = self._config.num_generations, scored.asked
        pictures = self._share.bring([_picture(prompt) for prompt in prompts])
        if pictures is None:
            return []
        lengths, terminated = drawn.lengths.reshape(-1), drawn.terminated.reshape(-1)
        return [
            CompletionRow(
                prompt=asked[place // group].text,
                completion=text,
                rewards={name: scored.rewards.per_function[i, place] for i, name in enumerate(names)},
                reward=float(scored.rewards.total[place]),
                advantage=float(advantages[place]),
                length=int(lengths[place]),
                terminated=bool(terminated[place]),
                group=place // group,
                id=asked[place // group].id,
                question=asked[place // group].question,
                answer=asked[place // group].answer,
                task=asked[place // group].task,
                image=pictures[place // group],
                images=len(asked[place // group].images),
                aha_words=scored.aha_words[place],
            )
            for place, text in enumerate(scored.texts)
        ]


def _learned(scored: Scored) -> list[Learned]:
    """Every prompt with its completions."""
    group = len(scored.texts) // len(scored.asked)
    return [
        Learned(prompt.id, scored.texts[place * group : (place + 1) * group])
        for place, prompt in enumerate(scored.asked)
    ]


def _picture(prompt: PreparedPrompt) -> bytes | None:
    """The first image of a prompt, as a file."""
    images = prompt.example.images
    return image_file(images[0]) if images else None


def _asked(prompt: PreparedPrompt) -> Asked:
    images = tuple(int(count) for count in np.bincount(prompt.segments)[1:])
    question = prompt.example.question
    return Asked(prompt.id, prompt.text, question, prompt.answer, prompt.task, len(prompt.ids), images)


def _together(parts: Sequence[Scored], samples: Sequence[int]) -> Scored:
    """What the processes scored, as if one had scored everything.

    `samples` are the places in the batch of what the parts hold, one part after the other.
    """
    if len(parts) == 1:
        return parts[0]
    group = len(parts[0].texts) // len(parts[0].asked)
    places = (np.asarray(samples)[:, None] * group + np.arange(group)).reshape(-1)
    failures: list[RewardFailure] = []
    before = 0
    for part in parts:
        for failure in part.rewards.failures:
            place = None if failure.sample_index is None else int(places[before + failure.sample_index])
            failures.append(replace(failure, sample_index=place))
        before += len(part.texts)
    prompts, order = np.argsort(samples), np.argsort(places)
    asked = [prompt for part in parts for prompt in part.asked]
    texts = [text for part in parts for text in part.texts]
    words = [words for part in parts for words in part.aha_words]
    return Scored(
        [asked[at] for at in prompts],
        [texts[at] for at in order],
        [words[at] for at in order],
        RewardResult(
            np.concatenate([part.rewards.per_function for part in parts], axis=1)[:, order],
            np.concatenate([part.rewards.total for part in parts])[order],
            failures,
        ),
    )


def lengths_of(prompts: Sequence[Asked], completions: np.ndarray) -> costs.Lengths:
    """The real lengths of a step, padding left out."""
    images = tuple(count for prompt in prompts for count in prompt.images)
    groups = tuple(tuple(int(length) for length in group) for group in completions)
    return costs.Lengths(images, tuple(prompt.tokens for prompt in prompts), groups)


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
        NamedReward(name, load_reward(spec, settings, time_limit=config.reward_timeout), weight)
        for name, spec, weight in zip(names, config.reward_funcs, weights, strict=True)
    ]
