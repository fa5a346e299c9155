"""Supervised fine-tuning as a method of the loop."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import jax
import numpy as np

from vtzero.data.example import Rejected
from vtzero.data.supervised import AnswerStream, DocumentStream, SupervisedBatch, SupervisedStream
from vtzero.models.qwen2_vl import costs
from vtzero.parallel.processes import RowShare, join_rows, on_host, row_share
from vtzero.parallel.program import Program
from vtzero.parallel.sharding import readers
from vtzero.sft.step import Targets, count_tokens, prompt_loss_mask, sft_loss
from vtzero.training.ceilings import run_limits
from vtzero.training.method import NEVER, Clock, Learned, StepReport, Stops, tell_nobody, when_ready
from vtzero.training.micro_batches import fewest_parts, possible_parts
from vtzero.training.outline import compute_dtype
from vtzero.training.preemption import Stopped
from vtzero.training.setup import Setup, learning_rates, training_source
from vtzero.training.state import TrainState, make_update
from vtzero.training.throughput import throughput_metrics

DOCUMENTS = "scene_documents"


@dataclass(frozen=True)
class Begun:
    """A step whose update may still be under way; `ids` and `lengths` are everyone's, `values` on devices."""

    index: int
    ids: list[str]
    lengths: costs.Lengths
    rejected: list[Rejected]
    values: dict[str, jax.Array]
    clock: Clock
    ended: Future[float]


class SFT:
    """Next-token prediction on target texts; `data: scene_documents` makes the tiny base model."""

    def __init__(self, setup: Setup):
        config = setup.config
        self._setup, self._share = setup, row_share(setup.mesh)
        self._stream = open_stream(setup, self._share)
        self._rates = learning_rates(setup)
        self._waiter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="update")
        self._limits = run_limits(compute_dtype(config.dtype))
        self._begun: Begun | None = None
        self._ready: StepReport | None = None
        self.tell: Callable[[str], None] = tell_nobody
        parts = config.gradient_accumulation_steps
        self._update = self._make_update(parts) if parts else None

    def declare(self, state: TrainState) -> Iterator[tuple[str, Callable[[], Any]]]:
        batches = self._stream.blank_batches()
        # The largest decides how many micro-batches fit.
        for name in sorted(batches, key=lambda name: _slots(batches[name]), reverse=True):
            arguments = self._arguments(state, batches[name])
            update = self._chosen_update(arguments)
            yield f"update {name}".rstrip(), update.declare(*arguments)

    def step(
        self, state: TrainState, index: int, stops: Stops = NEVER
    ) -> tuple[TrainState, StepReport | None]:
        """Read a batch and update."""
        clock = Clock()
        self.tell("data")
        if stops.agreed():
            raise Stopped
        batch = self._stream.next_batch()
        ids, lengths = zip(*self._share.gather((batch.ids, lengths_of(batch))), strict=True)
        arguments = self._arguments(state, batch)
        state, values = self._chosen_update(arguments)(*arguments)
        asked = perf_counter()
        self._ready = self._finish(clock)
        clock.lap("data", at=asked)
        self.tell("update")
        ended = self._waiter.submit(when_ready, values)
        every = [id for own in ids for id in own]
        self._begun = Begun(index, every, _together(lengths), batch.rejected, values, clock, ended)
        return state, self._taken()

    def _arguments(self, state: TrainState, batch: SupervisedBatch) -> tuple[TrainState, Targets, jax.Array]:
        targets = join_rows(self._targets(batch), self._setup.mesh, self._share)
        return state, targets, count_tokens(targets)

    def _make_update(self, parts: int) -> Program:
        setup = self._setup
        loss = partial(sft_loss, chunk=setup.config.logprob_chunk)
        return make_update(setup.parts, loss, setup.optimizer, parts, setup.shardings)

    def _chosen_update(self, arguments: tuple[Any, ...]) -> Program:
        """The update, in as few parts as fit where the config leaves that open."""
        if self._update is None:
            candidates = possible_parts(self._setup.config.prompts_per_step, readers(self._setup.mesh))
            _, self._update = fewest_parts(
                self._make_update, candidates, arguments, memory=self._setup.memory
            )
        return self._update

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
        values = on_host(begun.values)
        metrics = {name: float(value) for name, value in values.items()}
        metrics |= {"learning_rate": float(self._rates[begun.index - 1])} | begun.clock.metrics()
        metrics["num_tokens"] = float(begun.lengths.prompt_tokens + begun.lengths.completion_tokens)
        metrics |= self._throughput(begun.lengths, metrics)
        metrics["rejected_samples"] = float(len(begun.rejected))
        skipped = [Learned(id) for id in begun.ids] if metrics["skipped_updates"] else []
        return StepReport(begun.index, metrics, rejected=begun.rejected, skipped=skipped)

    def _throughput(self, lengths: costs.Lengths, metrics: Mapping[str, float]) -> dict[str, float]:
        config = self._setup.config
        # Where prompts count too, the head reads more than `costs` knows of.
        counted = config.completion_only_loss
        model = self._setup.processor.config
        return throughput_metrics(
            self._limits,
            devices=self._setup.mesh.size,
            tokens=metrics["num_tokens"],
            seconds=metrics["timing_s/step"],
            update_flops=costs.update(model, lengths, config.freeze) if counted else None,
            update_seconds=metrics["timing_s/update_actor"],
        )

    def _targets(self, batch: SupervisedBatch) -> Targets:
        counted: Any = None
        if not self._setup.config.completion_only_loss:
            model = self._setup.processor.config
            ignored = (model.vision_start_token_id, model.vision_end_token_id, model.image_token_id)
            counted = prompt_loss_mask(batch.prompts, ignored)
        return Targets(batch.prompts, batch.target_ids, batch.mask, counted)  # type: ignore[arg-type]

    def data_state(self) -> Mapping[str, Any]:
        return self._stream.get_state()

    def restore_data(self, state: Mapping[str, Any]) -> None:
        self._stream.set_state(state)

    def close(self) -> None:
        self._stream.close()
        self._waiter.shutdown()


def lengths_of(batch: SupervisedBatch) -> costs.Lengths:
    """The real lengths of a batch, padding left out."""
    segments = np.asarray(batch.prompts.segments)
    images = [int(count) for row in segments for count in np.bincount(row)[1:]]
    prompts = np.asarray(batch.prompts.mask).sum(axis=-1)
    groups = tuple(tuple(int(length) for length in group) for group in batch.mask.sum(axis=-1))
    return costs.Lengths(tuple(images), tuple(int(length) for length in prompts), groups)


def _together(parts: Sequence[costs.Lengths]) -> costs.Lengths:
    """What the processes read, as if one had read everything; in the order of the parts."""
    return costs.Lengths(
        images=tuple(count for part in parts for count in part.images),
        prompts=tuple(count for part in parts for count in part.prompts),
        completions=tuple(group for part in parts for group in part.completions),
    )


def _slots(batch: SupervisedBatch) -> int:
    return np.asarray(batch.prompts.ids).size + batch.target_ids.size


def open_stream(setup: Setup, share: RowShare) -> SupervisedStream:
    """This process's part of the supervised stream that the config's `data` names."""
    config = setup.config
    if config.data == (DOCUMENTS,):
        return DocumentStream(
            setup.processor,
            setup.template,
            seed=config.seed,
            prompts_per_step=config.prompts_per_step,
            max_steps=config.max_steps,
            share=share,
        )
    return AnswerStream(
        training_source(config),
        setup.processor,
        setup.template,
        setup.buckets,
        seed=config.seed,
        share=share,
        batch_size=config.prompts_per_step,
        length=config.max_completion_length,
        target=config.sft_target,
    )
