"""A benchmark, a model and a sampler in; one scored output for each item out, with its summary and files.

Preparing a batch goes on in a thread while the device works on the one before. Knows no training, no config
of runs and no terminal.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vtzero.data.batches import Buckets, collate, fits
from vtzero.data.example import Example, Rejected
from vtzero.data.processor import PreparedPrompt, Processor
from vtzero.data.prompts import PromptTemplate
from vtzero.evaluation.benchmarks import Benchmark, as_asked, benchmark_item
from vtzero.evaluation.items import BenchmarkItem
from vtzero.evaluation.scorers import lenient, strict
from vtzero.evaluation.totals import wilson_interval
from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.rewards.accuracy import lenient_accuracy, strict_accuracy
from vtzero.sampling.decode import Completions, sample_keys
from vtzero.sampling.parameters import SamplingParameters
from vtzero.sampling.sampler import Sampler


@dataclass(frozen=True)
class ItemResult:
    """What the model said to one item.

    `prompt` and `output` join to the whole text; a forced opening is part of `output`, which is what was
    scored. `tokens` counts what the model drew, the stop token included; `terminated` says there was one.
    """

    id: str
    task: str
    prompt: str
    choices: tuple[str, ...]
    answer: str
    output: str
    tokens: int
    terminated: bool
    strict: bool
    lenient: bool


@dataclass(frozen=True)
class EvaluationResult:
    """The items that were answered, and those set aside, each in the benchmark's order."""

    items: list[ItemResult]
    rejected: list[Rejected]


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
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Answer every item once and score the answers; greedily, unless `parameters` say otherwise.

    The last batch is filled up with a repeated prompt, so that one program serves all batches; what the
    repetitions say is dropped. An item's random key depends on `seed` and its place in the benchmark, not on
    `batch_size`. Items that cannot be asked (a bad image, a prompt longer than the bucket) are set aside.
    `forced_opening` is put before the model's own words and scored with them. After each batch `progress` is
    called with the number of items that are through, set aside or not, and the number of all.

    Raises ValueError when `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if parameters is None:
        parameters = SamplingParameters(temperature=0.0, banned_ids=processor.config.vision_token_ids)
    result = EvaluationResult([], [])
    rows = _questions(benchmark, processor, _opened(template, forced_opening), buckets)
    for batch in _one_ahead(_batches(rows, buckets, batch_size, processor.pad_id)):
        if batch.arrays is not None:
            keys = sample_keys(jax.random.key(seed), 0, _numbers(batch, batch_size), 1)
            completions = sampler(pieces, batch.arrays, keys, parameters)
            result.items.extend(_read(completions, batch.questions, processor, forced_opening))
        result.rejected.extend(batch.rejected)
        if progress is not None:
            progress(len(result.items) + len(result.rejected), len(benchmark.examples))
    return result


def is_correct(output: str, item: BenchmarkItem) -> tuple[bool, bool]:
    """Whether an output answers an item, strictly and leniently.

    Items with choices go to the scorers of those names; open questions, which have nothing to choose from, to
    the accuracy rewards of those names.
    """
    if item.choices:
        return strict(output, item), lenient(output, item)
    return strict_accuracy(output, item.answer) == 1.0, lenient_accuracy(output, item.answer) == 1.0


def _opened(template: PromptTemplate, opening: str) -> PromptTemplate:
    own = {field.name: getattr(template, field.name) for field in fields(PromptTemplate)}
    return OpenedTemplate(**own, opening=opening) if opening else template


def _questions(
    benchmark: Benchmark, processor: Processor, template: PromptTemplate, buckets: Buckets
) -> Iterator[_Question | Rejected]:
    for number in range(len(benchmark.examples)):
        row = benchmark.examples[number]
        if isinstance(row, Rejected):
            yield row
        else:
            yield _question(number, row, processor, template, buckets)


def _question(
    number: int, example: Example, processor: Processor, template: PromptTemplate, buckets: Buckets
) -> _Question | Rejected:
    try:
        item = benchmark_item(example)
    except ValueError as error:
        return Rejected(example.id, str(error))
    prompt = processor.prepare(as_asked(example), template)
    if isinstance(prompt, Rejected):
        return prompt
    return fits(prompt, buckets) or _Question(number, item, prompt)


def _batches(
    rows: Iterator[_Question | Rejected], buckets: Buckets, batch_size: int, pad_id: int
) -> Iterator[_Batch]:
    questions: list[_Question] = []
    rejected: list[Rejected] = []
    for row in rows:
        if isinstance(row, Rejected):
            rejected.append(row)
        else:
            questions.append(row)
        if len(questions) == batch_size:
            yield _Batch(questions, _arrays(questions, buckets, batch_size, pad_id), rejected)
            questions, rejected = [], []
    if questions:
        yield _Batch(questions, _arrays(questions, buckets, batch_size, pad_id), rejected)
    elif rejected:
        yield _Batch([], None, rejected)


def _filled(questions: Sequence[_Question], batch_size: int) -> list[_Question]:
    # The first is repeated with its own key: it says the same and so never makes the batch run longer.
    return [*questions, *[questions[0]] * (batch_size - len(questions))]


def _arrays(questions: Sequence[_Question], buckets: Buckets, batch_size: int, pad_id: int) -> Prompts:
    return collate([question.prompt for question in _filled(questions, batch_size)], buckets, pad_id)


def _numbers(batch: _Batch, batch_size: int) -> Any:
    return np.array([question.number for question in _filled(batch.questions, batch_size)], np.int32)


def _one_ahead(batches: Iterator[_Batch]) -> Iterator[_Batch]:
    """The same batches, each made in a thread while the one before it is in use."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepare") as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


def _read(
    completions: Completions, questions: Sequence[_Question], processor: Processor, opening: str
) -> Iterator[ItemResult]:
    ids, lengths, terminated = jax.device_get((completions.ids, completions.lengths, completions.terminated))
    for row, question in enumerate(questions):
        length = int(lengths[row, 0])
        output = opening + processor.decode(ids[row, 0, :length])
        yield _item_result(question, output, opening, length, bool(terminated[row, 0]))


def _item_result(question: _Question, output: str, opening: str, tokens: int, terminated: bool) -> ItemResult:
    item = question.item
    strictly, leniently = is_correct(output, item)
    return ItemResult(
        id=item.id,
        task=item.task,
        prompt=question.prompt.text.removesuffix(opening),
        choices=tuple(item.choices),
        answer=item.answer,
        output=output,
        tokens=tokens,
        terminated=terminated,
        strict=strictly,
        lenient=leniently,
    )


def summary(result: EvaluationResult) -> dict[str, Any]:
    """The figures of a result in JSON's types: over all items (micro), and under "tasks" for each task.

    `accuracy` (strict) and `accuracy_lenient` are in percent, each with a 95 % Wilson `_interval`;
    `mean_length` is in tokens; `clipped_ratio` is the share of outputs that no stop token ended. Without any
    item they are None. `rejected` counts the items that were set aside, which no other figure includes.
    """
    tasks: dict[str, list[ItemResult]] = {}
    for item in result.items:
        tasks.setdefault(item.task or "no task", []).append(item)
    return {
        **_figures(result.items),
        "rejected": len(result.rejected),
        "tasks": {name: _figures(items) for name, items in tasks.items()},
    }


def _figures(items: Sequence[ItemResult]) -> dict[str, Any]:
    count = len(items)
    return {
        "n": count,
        **_accuracy("accuracy", [item.strict for item in items]),
        **_accuracy("accuracy_lenient", [item.lenient for item in items]),
        "mean_length": sum(item.tokens for item in items) / count if count else None,
        "clipped_ratio": sum(not item.terminated for item in items) / count if count else None,
    }


def _accuracy(name: str, scores: Sequence[bool]) -> dict[str, Any]:
    if not scores:
        return {name: None, f"{name}_interval": None}
    low, high = wilson_interval(sum(scores), len(scores))
    return {name: 100 * sum(scores) / len(scores), f"{name}_interval": [100 * low, 100 * high]}


def write_result(folder: str | Path, benchmark_name: str, step: int, result: EvaluationResult) -> Path:
    """Write `eval/NAME-STEP.jsonl`, an object an item, and `eval/NAME-STEP.json`, the summary.

    Returns the path of the summary, which also lists the rejected items. Each file appears whole or not at
    all, and the summary last, so that where it is, the items are too.
    """
    path = Path(folder) / "eval" / f"{benchmark_name}-{step}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(_record(item), ensure_ascii=False) + "\n" for item in result.items]
    listed = [{"id": rejected.id, "reason": rejected.reason} for rejected in result.rejected]
    content = {"benchmark": benchmark_name, "step": step, **summary(result), "rejected_items": listed}
    _write_whole(path.with_name(path.name + "l"), "".join(lines))
    _write_whole(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
    return path


def _record(item: ItemResult) -> dict[str, Any]:
    return {
        "task": item.task,
        "id": item.id,
        "prompt": item.prompt,
        "choices": list(item.choices),
        "answer": item.answer,
        "output": item.output,
        "correct": item.strict,
        "correct_lenient": item.lenient,
        "tokens": item.tokens,
        "terminated": item.terminated,
    }


def _write_whole(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
