"""A benchmark, a model and a sampler in; one scored output for each item out.

Preparing a batch goes on in a thread while the device works on the one before; answers that make their batch
wait are asked again together (`patience`). Knows no training, no config of runs, no files of results and no
terminal.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import chain, islice
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from vtzero.data.batches import Buckets, blank_prompts, collate, fits
from vtzero.data.example import Example, Rejected
from vtzero.data.processor import PreparedPrompt, Processor
from vtzero.data.prompts import PromptTemplate
from vtzero.evaluation.benchmarks import Benchmark, as_asked, benchmark_item
from vtzero.evaluation.items import BenchmarkItem
from vtzero.evaluation.patience import answer_limit
from vtzero.evaluation.results import EvaluationResult, ItemResult
from vtzero.evaluation.verdicts import Scoring, Verdict, check_answer, judge
from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.parallel.messages import tell_all
from vtzero.parallel.processes import on_host
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
class _Question:
    """An item with its prompt, and its number in the benchmark."""

    number: int
    item: BenchmarkItem
    prompt: PreparedPrompt


@dataclass(frozen=True)
class _Said:
    """What the model said to one item; `output` begins with the forced opening."""

    output: str
    opening: str
    tokens: int
    terminated: bool


_Answer = tuple[_Question, _Said]


@dataclass(frozen=True)
class _Batch:
    """Some questions, the same as arrays of the full batch size, and the rows set aside among them."""

    questions: list[_Question]
    arrays: Prompts | None
    rejected: list[Rejected]


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
    with the number of items that are through, set aside or not, and the number of all. With a `mesh` a batch
    is spread over its devices, of all processes, each of which calls this with the same arguments.

    Raises ValueError when `batch_size` is below 1, or does not divide over the mesh.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if parameters is None:
        parameters = greedy(processor)
    result = EvaluationResult(list(done), [])
    template = _opened(template, forced_opening)
    rows = _questions(benchmark, {item.index for item in done}, processor, template, buckets)
    rounds = _Rounds(rows, buckets, batch_size, processor.pad_id, sampler.settings.max_completion_length)
    rounds.known += [item.tokens for item in done]
    for batch, limit in rounds:
        if batch.arrays is not None:
            arrays, keys = _placed(batch.arrays, _numbers(batch, batch_size), seed, mesh)
            completions = sampler(pieces, arrays, keys, parameters, limit)
            said = rounds.through(_said(completions, batch.questions, processor, forced_opening), limit)
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
        rows: Iterator[_Question | Rejected],
        buckets: Buckets,
        batch_size: int,
        pad_id: int,
        longest: int,
    ):
        self.known: list[int] = []
        self._rows, self._buckets, self._batch_size = rows, buckets, batch_size
        self._pad_id, self._longest = pad_id, longest
        self._waiting: list[_Question] = []

    def __iter__(self) -> Iterator[tuple[_Batch, int]]:
        for batch in _ahead(self._rows, self._collated, self._batch_size):
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
        prompt = self._buckets.prompt_length
        return answer_limit(known, longest=self._longest, prompt=prompt, rows=self._batch_size)

    def _again(self) -> _Batch:
        count = self._batch_size
        questions, self._waiting = self._waiting[:count], self._waiting[count:]
        return _Batch(questions, self._collated(questions), [])

    def _collated(self, questions: Sequence[_Question]) -> Prompts:
        """The prompts as arrays of the full batch size."""
        prompts = [question.prompt for question in _filled(questions, self._batch_size)]
        return collate(prompts, self._buckets, self._pad_id)


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
    arrays, keys = _placed(prompts, np.zeros(batch_size, np.int32), 0, mesh)
    return sampler.declare(pieces, arrays, keys, parameters)


def _placed(prompts: Prompts, numbers: Any, seed: int, mesh: Mesh | None) -> tuple[Prompts, Any]:
    """Prompts and the keys of the items with these numbers, where the sampler wants them."""
    prompts, numbers = (prompts, numbers) if mesh is None else shard_batch((prompts, numbers), mesh)
    return prompts, sample_keys(jax.random.key(seed), 0, numbers, 1)


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


def _questions(
    benchmark: Benchmark,
    done: Container[int],
    processor: Processor,
    template: PromptTemplate,
    buckets: Buckets,
) -> Iterator[_Question | Rejected]:
    for number in range(len(benchmark.examples)):
        if number in done:
            continue
        row = benchmark.examples[number]
        if isinstance(row, Rejected):
            yield row
        else:
            yield _question(number, row, benchmark.scoring, processor, template, buckets)


def _question(
    number: int,
    example: Example,
    scoring: Scoring,
    processor: Processor,
    template: PromptTemplate,
    buckets: Buckets,
) -> _Question | Rejected:
    try:
        item = benchmark_item(example)
        check_answer(item, scoring)
    except ValueError as error:
        return Rejected(example.id, str(error))
    prompt = processor.prepare(as_asked(example), template)
    if isinstance(prompt, Rejected):
        return prompt
    return fits(prompt, buckets) or _Question(number, item, prompt)


def _ahead(
    rows: Iterator[_Question | Rejected],
    collated: Callable[[Sequence[_Question]], Prompts],
    batch_size: int,
) -> Iterator[_Batch]:
    """Batches whose prompts are prepared in a thread, while the batch before is asked."""
    if jax.process_count() == 1:
        return _one_ahead(_batches(rows, collated, batch_size))
    # The messages of processes have an order, and so are sent from the main thread.
    prepared = _one_ahead(iter(lambda: list(islice(rows, batch_size)) or None, None))
    return _batches(chain.from_iterable(map(_agreed, prepared)), collated, batch_size)


def _agreed(rows: list[_Question | Rejected]) -> Iterable[_Question | Rejected]:
    """What one process cannot read no process asks: else their batches would hold other questions."""
    told = tell_all([row if isinstance(row, Rejected) else None for row in rows])
    faults = [next((fault for fault in faults if fault), None) for faults in zip(*told, strict=True)]
    return [fault or row for fault, row in zip(faults, rows, strict=True)]


def _batches(
    rows: Iterator[_Question | Rejected],
    collated: Callable[[Sequence[_Question]], Prompts],
    batch_size: int,
) -> Iterator[_Batch]:
    questions: list[_Question] = []
    rejected: list[Rejected] = []
    for row in rows:
        if isinstance(row, Rejected):
            rejected.append(row)
        else:
            questions.append(row)
        if len(questions) == batch_size:
            yield _Batch(questions, collated(questions), rejected)
            questions, rejected = [], []
    if questions:
        yield _Batch(questions, collated(questions), rejected)
    elif rejected:
        yield _Batch([], None, rejected)


def _filled(questions: Sequence[_Question], batch_size: int) -> list[_Question]:
    # The first is repeated with its own key: it says the same and so never makes the batch run longer.
    return [*questions, *[questions[0]] * (batch_size - len(questions))]


def _numbers(batch: _Batch, batch_size: int) -> Any:
    return np.array([question.number for question in _filled(batch.questions, batch_size)], np.int32)


def _one_ahead(made: Iterator[Made]) -> Iterator[Made]:
    """The same, each made in a thread while the one before it is in use."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepare") as pool:
        coming = pool.submit(next, made, None)
        while (one := coming.result()) is not None:
            coming = pool.submit(next, made, None)
            yield one


def _said(
    completions: Completions, questions: Sequence[_Question], processor: Processor, opening: str
) -> list[_Answer]:
    ids, lengths, terminated = on_host((completions.ids, completions.lengths, completions.terminated))
    said = []
    for row, question in enumerate(questions):
        length = int(lengths[row, 0])
        output = opening + processor.decode(ids[row, 0, :length])
        said.append((question, _Said(output, opening, length, bool(terminated[row, 0]))))
    return said


def _judged(question: _Question, said: _Said, scoring: Scoring) -> ItemResult | Rejected:
    try:
        return _item_result(question, said, judge(said.output, question.item, scoring))
    except SymbolicError as error:
        return Rejected(question.item.id, f"its answer could not be judged: {error}")


def _item_result(question: _Question, said: _Said, verdict: Verdict) -> ItemResult:
    item = question.item
    source = question.prompt.example.columns.get("source")
    return ItemResult(
        task=item.task,
        id=item.id,
        index=question.number,
        question=item.question,
        prompt=question.prompt.text.removesuffix(said.opening),
        choices=tuple(item.choices),
        answer=item.answer,
        output=said.output,
        tokens=said.tokens,
        terminated=said.terminated,
        source=source if isinstance(source, str) else None,
        correct=verdict.correct,
        correct_lenient=verdict.correct_lenient,
        correct_paper=verdict.correct_paper,
    )
