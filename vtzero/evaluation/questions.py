"""The items of a benchmark as batches of prompts, each prepared by the process whose devices answer it.

Prompts are prepared in a thread while the batch before is asked. Which items can be asked the processes agree
on, so that all ask the same batches, and those of one process alone. Knows no model and no scores of answers.
"""

from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from threading import Event
from typing import TypeVar

from jax.sharding import Mesh

from vtzero.data.batches import Buckets, collate, fits
from vtzero.data.example import Example, Rejected
from vtzero.data.processor import PreparedPrompt, Processor
from vtzero.data.prompts import PromptTemplate
from vtzero.evaluation.benchmarks import Benchmark, as_asked, benchmark_item
from vtzero.evaluation.items import BenchmarkItem
from vtzero.evaluation.verdicts import check_answer
from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.parallel.processes import ALONE, RowShare, join_rows

Made = TypeVar("Made")


@dataclass(frozen=True)
class Question:
    """An item, its number in the benchmark, and the text of its prompt."""

    number: int
    item: BenchmarkItem
    text: str
    source: str | None


@dataclass(frozen=True)
class Batch:
    """At most as many questions as a batch has rows, and the items set aside on the way to them."""

    questions: list[Question]
    rejected: list[Rejected]


class Questions:
    """The questions of a benchmark in order, without those that are `done`, and their prompts as arrays."""

    def __init__(
        self,
        benchmark: Benchmark,
        processor: Processor,
        template: PromptTemplate,
        buckets: Buckets,
        *,
        batch_size: int,
        mesh: Mesh | None = None,
        share: RowShare = ALONE,
        done: Container[int] = (),
    ):
        self._benchmark, self._processor, self._template = benchmark, processor, template
        self._buckets, self._batch_size = buckets, batch_size
        self._mesh, self._share, self._done = mesh, share, done
        self._prepared: dict[int, PreparedPrompt] = {}
        self._given_up = Event()

    def batches(self) -> Iterator[Batch]:
        """Batches of the questions that can be asked; all are full but the last."""
        questions: list[Question] = []
        rejected: list[Rejected] = []
        for row in self._agreed():
            if isinstance(row, Rejected):
                rejected.append(row)
            else:
                questions.append(row)
            if len(questions) == self._batch_size:
                yield Batch(questions, rejected)
                questions, rejected = [], []
        if questions or rejected:
            yield Batch(questions, rejected)

    def arrays(self, questions: Sequence[Question]) -> Prompts:
        """The prompts of a batch on the mesh, if there is one; a batch that is not full is filled up.

        Raises ValueError when this process cannot read what another one could.
        """
        filled = filled_up(questions, self._batch_size)
        own = [self._prompt(filled[row].number) for row in self._share.rows(self._batch_size)]
        arrays = collate(own, self._buckets, self._processor.pad_id)
        return arrays if self._mesh is None else join_rows(arrays, self._mesh, self._share)

    def forget(self, question: Question) -> None:
        """Free the prompt of a question that is not asked again."""
        self._prepared.pop(question.number, None)

    def _agreed(self) -> Iterator[Question | Rejected]:
        """What one process cannot read no process asks: else their batches would hold other questions."""
        numbers = (number for number in range(len(self._benchmark.examples)) if number not in self._done)
        parts = iter(lambda: list(islice(numbers, self._batch_size)) or None, None)
        # The messages of processes have an order, and so are sent from this thread and not from that one.
        for own in self._one_ahead(map(self._own_of, parts)):
            told = {number: row for read in self._share.gather(own) for number, row in read.items()}
            yield from (told[number] for number in sorted(told))

    def _own_of(self, numbers: Sequence[int]) -> dict[int, Question | Rejected]:
        """Of the items with these numbers those that stand in this process's rows if none is set aside."""
        rows = (row for row in self._share.rows(self._batch_size) if row < len(numbers))
        own = map(numbers.__getitem__, rows)
        return {number: self._read(number) for number in own if not self._given_up.is_set()}

    def _one_ahead(self, made: Iterator[Made]) -> Iterator[Made]:
        """The same, each made in a thread while the one before it is in use."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepare") as pool:
            try:
                coming = pool.submit(next, made, None)
                while (one := coming.result()) is not None:
                    coming = pool.submit(next, made, None)
                    yield one
            except BaseException:
                self._given_up.set()  # else what is being read, over a slow network too, would be waited for
                raise

    def _prompt(self, number: int) -> PreparedPrompt:
        if number not in self._prepared and isinstance(fault := self._read(number), Rejected):
            raise ValueError(f"{fault.id}: {fault.reason}; another process of this job could read it")
        return self._prepared[number]

    def _read(self, number: int) -> Question | Rejected:
        example = self._benchmark.examples[number]
        if isinstance(example, Rejected):
            return example
        try:
            item = benchmark_item(example)
            check_answer(item, self._benchmark.scoring)
        except ValueError as error:
            return Rejected(example.id, str(error))
        prompt = self._processor.prepare(as_asked(example), self._template)
        if isinstance(prompt, Rejected):
            return prompt
        if fault := fits(prompt, self._buckets):
            return fault
        self._prepared[number] = prompt
        return Question(number, item, prompt.text, _source(example))


def filled_up(questions: Sequence[Question], batch_size: int) -> list[Question]:
    """The questions, and the first of them as often as it takes to fill a batch.

    It is repeated with its own key: it says the same and so never makes the batch run longer.
    """
    return [*questions, *[questions[0]] * (batch_size - len(questions))]


def _source(example: Example) -> str | None:
    source = example.columns.get("source")
    return source if isinstance(source, str) else None
