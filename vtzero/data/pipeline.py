"""The endless stream of prompt batches that training reads: seeded, shared out among processes, resumable.

Rows come in one order, which grain draws. Threads prepare prompts ahead; what comes out depends on the seed
and the state alone, whatever the number of processes. Knows no model, no rewards and no device.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from vtzero.data.batches import Buckets, collate, fits
from vtzero.data.example import Rejected
from vtzero.data.mixture import Drawn, EndlessRows, Mixture, alone
from vtzero.data.processor import PreparedPrompt, Processor
from vtzero.data.prompts import PromptTemplate
from vtzero.data.sources import Source
from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.parallel.processes import ALONE, RowShare


@dataclass(frozen=True)
class PromptBatch:
    """A batch of prompts, as records and as arrays, and the rows set aside while it was drawn, in order.

    With several processes, prompts and arrays are this process's own; the rows set aside are everyone's.
    """

    prompts: list[PreparedPrompt]
    arrays: Prompts
    rejected: list[Rejected]


class RejectedRowsError(ValueError):
    """Too many rows of a source in a row were set aside: `rejected`, since the last batch."""

    def __init__(self, message: str, rejected: Sequence[Rejected]) -> None:
        super().__init__(message)
        self.rejected = rejected


class _Verdict(NamedTuple):
    """What became of the row at a position of the stream: the source it is of, and why it was set aside."""

    position: int
    source: int
    rejected: Rejected | None


class GroupPipeline:
    """Draws batches from a source, or from several in their shares, for ever, each epoch in another order.

    A batch is the next rows of the one order that fit. With several processes each prepares the rows of its
    own samples, and they tell each other which of them did not fit; the batches are those of one process.
    """

    def __init__(
        self,
        source: Source | Mixture,
        processor: Processor,
        template: PromptTemplate,
        buckets: Buckets,
        *,
        seed: int,
        share: RowShare = ALONE,
        fault: Callable[[PreparedPrompt], Rejected | None] | None = None,
        num_threads: int = 4,
        prefetch: int = 16,
        max_rejected: int | None = None,
    ):
        """`prefetch` prompts are prepared ahead by `num_threads` threads (0: none).

        `fault` says why a prompt that fits must be set aside nevertheless, if so.
        After `max_rejected` rejections in a row drawing ends with an error; None stands for 1000, or twice
        around a smaller source. Each source counts its own. Raises ValueError when a source is empty.
        """
        mixture = source if isinstance(source, Mixture) else alone(source)
        for each in mixture.sources:
            if not len(each):
                raise ValueError(f"{each!r} holds no rows")
        self._sources, self._processor = mixture.sources, processor
        self._template, self._buckets = template, buckets
        self._share, self._fault = share, fault or (lambda _: None)
        self._identity = {**_identity(mixture), "seed": seed}
        # Twice, since two half epochs need not show every row.
        self._max_rejected = [max_rejected or min(1000, 2 * len(each)) for each in mixture.sources]
        self._rejected_in_a_row = [0] * len(mixture.sources)
        self._rows = EndlessRows(mixture, seed)
        self._position, self._prefetch = 0, prefetch
        self._threads = ThreadPoolExecutor(max(num_threads, 1), thread_name_prefix="prepare")
        self._ahead: dict[int, Future[tuple[int, PreparedPrompt | Rejected]]] = {}

    def next_batch(self, batch_size: int) -> PromptBatch:
        """This process's part of the next `batch_size` prompts that fit the bucket; rows rejected on the way.

        Raises RejectedRowsError when too many rows of a source in a row were rejected.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        taken: list[int] = []
        rejected: list[Rejected] = []
        while len(taken) < batch_size:
            verdicts = self._judge(range(self._position, self._position + batch_size - len(taken)))
            for verdict in verdicts:
                if verdict.rejected is None:
                    taken.append(verdict.position)
                else:
                    rejected.append(verdict.rejected)
                self._count(verdict, rejected)
            self._position += len(verdicts)
        prompts = [self._prompt(taken[row]) for row in self._share.rows(batch_size)]
        self._look_ahead(batch_size)
        return PromptBatch(prompts, collate(prompts, self._buckets, self._processor.pad_id), rejected)

    def _judge(self, positions: Sequence[int]) -> list[_Verdict]:
        """Which of the rows fit, each prepared by one process."""
        own = positions[_part(len(positions), self._share)]
        self._ask(own)
        verdicts = []
        for position in own:
            source, prepared = self._ahead[position].result()
            fault = prepared if isinstance(prepared, Rejected) else None
            verdicts.append(_Verdict(position, source, fault))
        return [verdict for told in self._share.gather(verdicts) for verdict in told]

    def _count(self, verdict: _Verdict, rejected: Sequence[Rejected]) -> None:
        source = verdict.source
        self._rejected_in_a_row[source] = self._rejected_in_a_row[source] + 1 if verdict.rejected else 0
        if verdict.rejected and self._rejected_in_a_row[source] >= self._max_rejected[source]:
            raise RejectedRowsError(self._exhausted(source, verdict.rejected), rejected)

    def _prompt(self, position: int) -> PreparedPrompt:
        self._ask([position])
        prepared = self._ahead[position].result()[1]
        assert isinstance(prepared, PreparedPrompt), prepared
        return prepared

    def _ask(self, positions: Iterable[int]) -> None:
        for position in positions:
            if position not in self._ahead:
                self._ahead[position] = self._threads.submit(self._prepare_at, position)

    def _look_ahead(self, batch_size: int) -> None:
        """Forget what is behind, and have the rows prepared that the next batches will want if all fit."""
        self._ahead = {at: prompt for at, prompt in self._ahead.items() if at >= self._position}
        own, start = self._share.rows(batch_size), self._position
        while len(self._ahead) < self._prefetch:
            self._ask(start + row for row in own)
            start += batch_size

    def get_state(self) -> dict[str, Any]:
        """Where the stream stands after the last batch, in JSON's types; prefetched prompts do not count."""
        in_a_row = list(self._rejected_in_a_row)
        return {"position": self._position, "rejected_in_a_row": in_a_row, **self._identity}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue where `get_state` stood, in as many processes as there are now.

        Raises ValueError when the state is of another data set or seed.
        """
        for name, value in self._identity.items():
            if state.get(name) != value:
                raise ValueError(
                    f"the saved data state has {name} {state.get(name)}, but this run has {value}"
                )
        self._position = int(state["position"])
        self._drop()
        self._rejected_in_a_row = list(state.get("rejected_in_a_row", [0] * len(self._sources)))

    def close(self) -> None:
        """Stop preparing ahead."""
        self._drop()
        self._threads.shutdown()

    def _drop(self) -> None:
        for prompt in self._ahead.values():
            prompt.cancel()
        self._ahead = {}

    def _prepare_at(self, position: int) -> tuple[int, PreparedPrompt | Rejected]:
        return self._prepare(self._rows[position])

    def _prepare(self, drawn: Drawn) -> tuple[int, PreparedPrompt | Rejected]:
        source, row = drawn
        if isinstance(row, Rejected):
            return source, row
        prepared = self._processor.prepare(row, self._template)
        if isinstance(prepared, Rejected):
            return source, prepared
        return source, fits(prepared, self._buckets) or self._fault(prepared) or prepared

    def _exhausted(self, number: int, last: Rejected) -> str:
        source, count = self._sources[number], self._rejected_in_a_row[number]
        every = count >= len(source)
        which = "every row" if every else f"{count} rows in a row"
        were = "was" if every else "were"
        return f"{which} of {source!r} {were} rejected; the last reason, of {last.id}: {last.reason}"


def _part(count: int, share: RowShare) -> slice:
    """The part of `count` rows that this process judges; the parts of all are equal to within one."""
    edges = [count * number // share.blocks for number in (share.block, share.block + 1)]
    return slice(*edges)


def _identity(mixture: Mixture) -> dict[str, Any]:
    """What a saved state must have been made with."""
    if len(mixture.sources) == 1:
        return {"rows": len(mixture)}
    rows = {name: len(source) for name, source in zip(mixture.names, mixture.sources, strict=True)}
    return {"rows": rows, "block": list(mixture.block)}
