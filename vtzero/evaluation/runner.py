"""A benchmark, a model and a sampler in; one scored output for each item out.

Answers that make their batch wait are asked again together (`patience`). Knows no training, no config of
runs, no files of results and no terminal.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from vtzero.data.batches import Buckets, blank_prompts
from vtzero.data.example import Rejected
from vtzero.data.processor import Processor
from vtzero.data.prompts import PromptTemplate
from vtzero.evaluation.benchmarks import Benchmark
from vtzero.evaluation.patience import answer_limit
from vtzero.evaluation.questions import Batch, Question, Questions, filled_up
from vtzero.evaluation.results import EvaluationResult, ItemResult
from vtzero.evaluation.verdicts import Scoring, Verdict, judge
from vtzero.parallel.processes import ALONE, on_host, row_share
from vtzero.parallel.sharding import shard_batch
from vtzero.rewards.symbolic import SymbolicError
from vtzero.sampling.decode import Completions, sample_keys
from vtzero.sampling.parameters import SamplingParameters
from vtzero.sampling.sampler import Sampler

Made = TypeVar("Made")


@dataclass(frozen=True)
class OpenedTemplate(PromptTemplate):
    """A template whose prompts end with the start of the answer, for base and chat models alike."""

    opening: str = ""

    def render(self, body: str, images: int) -> str:
        return super().render(body, images) + self.opening


@dataclass(frozen=True)
class _Said:
    """What the model said to one item; `output` begins with the forced opening."""

    output: str
    opening: str
    tokens: int
    terminated: bool


_Answer = tuple[Question, _Said]


def evaluate(
    benchmark: Benchmark,
    *,
    sampler: Sampler,
    pieces: tuple[Any, ...],
    processor: Processor,
    template: PromptTemplate,
    buckets: Buckets,
    batch_size: int,
    parameters: SamplingParameters | None = None,
    seed: int = 0,
    forced_opening: str = "",
    mesh: Mesh | None = None,
    done: Sequence[ItemResult] = (),
    on_batch: Callable[[list[ItemResult]], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    wait: Callable[[Completions], object] = jax.block_until_ready,
) -> EvaluationResult:
    """Answer every item once and score the answers; greedily, unless `parameters` say otherwise.

    An answer that makes its batch wait (`patience`) is cut off and asked again with others like it and the
    same key: the result does not depend on it. The last batch is filled up with a repeated prompt, so that
    one program serves all batches; what the repetitions say is dropped. An item's random key depends on
    `seed` and its place in the benchmark, not on `batch_size`. Items that cannot be asked (a bad image, a
    prompt longer than the bucket) are set aside, and so are those whose answer cannot be judged (math-verify
    runs out of time).
    `forced_opening` is put before the model's own words and scored with them. Items that are `done` are part
    of the result and not asked again. After each batch `on_batch` is called with its items, and `progress`
    with the number of items that are through, set aside or not, and the number of all. `wait` is what waits
    for the answers of a batch, and ends the evaluation where it raises. With a `mesh` a batch
    is spread over its devices, of all processes, each of which calls this with the same arguments and
    prepares the prompts of its own devices.

    Raises ValueError when `batch_size` is below 1, or does not divide over the mesh.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if parameters is None:
        parameters = greedy(processor)
    result = EvaluationResult(list(done), [])
    template = _opened(template, forced_opening)
    questions = Questions(
        benchmark,
        processor,
        template,
        buckets,
        batch_size=batch_size,
        mesh=mesh,
        share=ALONE if mesh is None else row_share(mesh),
        done={item.index for item in done},
    )
    rounds = _Rounds(
        questions.batches(), buckets.prompt_length, batch_size, sampler.settings.max_completion_length
    )
    rounds.known += [item.tokens for item in done]
    for batch, limit in rounds:
        if batch.questions:
            arrays = questions.arrays(batch.questions)
            keys = _keys(_numbers(batch, batch_size), seed, mesh)
            completions = sampler(pieces, arrays, keys, parameters, limit)
            wait(completions)
            said = rounds.through(_said(completions, batch.questions, processor, forced_opening), limit)
            for question, _ in said:
                questions.forget(question)
            read = [_judged(question, one, benchmark.scoring) for question, one in said]
            items = [row for row in read if isinstance(row, ItemResult)]
            result.items.extend(items)
            result.rejected.extend(row for row in read if isinstance(row, Rejected))
            if on_batch is not None:
                on_batch(items)
        result.rejected.extend(batch.rejected)
        if progress is not None:
            progress(len(result.items) + len(result.rejected), len(benchmark.examples))
    return EvaluationResult(sorted(result.items, key=lambda item: item.index), result.rejected)


class _Rounds:
    """Batches in the order in which they are asked, each with the tokens that its answers may have.

    `known` are the lengths of the answers that are through; what waits is asked last, or as soon as it fills
    a batch.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        prompt_length: int,
        batch_size: int,
        longest: int,
    ):
        self.known: list[int] = []
        self._batches, self._prompt_length = batches, prompt_length
        self._batch_size, self._longest = batch_size, longest
        self._waiting: list[Question] = []

    def __iter__(self) -> Iterator[tuple[Batch, int]]:
        for batch in self._batches:
            yield batch, self._limit()
            if len(self._waiting) >= self._batch_size:
                yield self._again(), self._longest
        while self._waiting:
            yield self._again(), self._longest

    def through(self, said: list[_Answer], limit: int) -> list[_Answer]:
        """The answers that are not to be asked again."""
        whole = limit == self._longest
        self._waiting += [question for question, one in said if not (one.terminated or whole)]
        through = [answer for answer in said if answer[1].terminated or whole]
        self.known += [one.tokens for _, one in through]
        return through

    def _limit(self) -> int:
        # What waits is longer than any limit yet; how much longer nobody knows.
        known = self.known + [self._longest] * len(self._waiting)
        prompt = self._prompt_length
        return answer_limit(known, longest=self._longest, prompt=prompt, rows=self._batch_size)

    def _again(self) -> Batch:
        count = self._batch_size
        questions, self._waiting = self._waiting[:count], self._waiting[count:]
        return Batch(questions, [])


def declare(
    *,
    sampler: Sampler,
    pieces: tuple[Any, ...],
    processor: Processor,
    buckets: Buckets,
    batch_size: int,
    parameters: SamplingParameters,
    mesh: Mesh | None = None,
) -> Callable[[], Any]:
    """Prepare the program of `evaluate` with these arguments, before it is called; see `Program.declare`."""
    prompts = blank_prompts(batch_size, buckets, processor.config.vision.patch_dim)
    arrays = prompts if mesh is None else shard_batch(prompts, mesh)
    keys = _keys(np.zeros(batch_size, np.int32), 0, mesh)
    return sampler.declare(pieces, arrays, keys, parameters)


def _keys(numbers: Any, seed: int, mesh: Mesh | None) -> Any:
    """The keys of the items with these numbers, where the sampler wants them."""
    numbers = numbers if mesh is None else shard_batch(numbers, mesh)
    return sample_keys(jax.random.key(seed), 0, numbers, 1)


def greedy(processor: Processor, repetition_penalty: float = 1.0) -> SamplingParameters:
    """Greedy decoding without vision tokens; a penalty that does nothing is left out of the program."""
    penalty = None if repetition_penalty == 1.0 else repetition_penalty
    banned = processor.config.vision_token_ids
    return SamplingParameters(temperature=0.0, repetition_penalty=penalty, banned_ids=banned)


def used_settings(
    benchmark: Benchmark,
    *,
    processor: Processor,
    template: PromptTemplate,
    prompt_length: int,
    completion_length: int,
    parameters: SamplingParameters,
    opening: str = "",
) -> dict[str, Any]:
    """How a benchmark is asked, in JSON's types: what its outputs depend on beside the model and seed."""
    limits = processor.image_processor.size
    penalty = parameters.repetition_penalty
    return {
        "items": len(benchmark.examples),
        "scoring": benchmark.scoring,
        "prompt_template": template.name,
        "opening": opening,
        "min_pixels": int(limits["shortest_edge"]),
        "max_pixels": int(limits["longest_edge"]),
        "max_prompt_length": prompt_length,
        "max_completion_length": completion_length,
        "temperature": float(parameters.temperature),
        "repetition_penalty": 1.0 if penalty is None else float(penalty),
    }


def _opened(template: PromptTemplate, opening: str) -> PromptTemplate:
    own = {field.name: getattr(template, field.name) for field in fields(PromptTemplate)}
    return OpenedTemplate(**own, opening=opening) if opening else template


def _numbers(batch: Batch, batch_size: int) -> Any:
    return np.array([question.number for question in filled_up(batch.questions, batch_size)], np.int32)


def _said(
    completions: Completions, questions: Sequence[Question], processor: Processor, opening: str
) -> list[_Answer]:
    ids, lengths, terminated = on_host((completions.ids, completions.lengths, completions.terminated))
    said = []
    for row, question in enumerate(questions):
        length = int(lengths[row, 0])
        output = opening + processor.decode(ids[row, 0, :length])
        said.append((question, _Said(output, opening, length, bool(terminated[row, 0]))))
    return said


def _judged(question: Question, said: _Said, scoring: Scoring) -> ItemResult | Rejected:
    try:
        return _item_result(question, said, judge(said.output, question.item, scoring))
    except SymbolicError as error:
        return Rejected(question.item.id, f"its answer could not be judged: {error}")


def _item_result(question: Question, said: _Said, verdict: Verdict) -> ItemResult:
    item = question.item
    return ItemResult(
        task=item.task,
        id=item.id,
        index=question.number,
        question=item.question,
        prompt=question.text.removesuffix(said.opening),
        choices=tuple(item.choices),
        answer=item.answer,
        output=said.output,
        tokens=said.tokens,
        terminated=said.terminated,
        source=question.source,
        correct=verdict.correct,
        correct_lenient=verdict.correct_lenient,
        correct_paper=verdict.correct_paper,
    )
