"""The endless stream of prompt batches that training reads: seeded, sliced by process, resumable.

Built on grain. Threads prepare prompts ahead; what comes out depends on the seed and the state alone.
Knows no model, no rewards and no device.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grain

from vtzero.data.batches import Buckets, collate, fits
from vtzero.data.example import Rejected
from vtzero.data.mixture import Drawn, EndlessRows, Mixture, alone
from vtzero.data.processor import PreparedPrompt, Processor
from vtzero.data.prompts import PromptTemplate
from vtzero.data.sources import Source
from vtzero.models.qwen2_vl.inputs import Prompts


@dataclass(frozen=True)
class PromptBatch:
    """A batch of prompts, as records and as arrays, and the rows set aside while it was drawn, in order."""

    prompts: list[PreparedPrompt]
    arrays: Prompts
    rejected: list[Rejected]


class GroupPipeline:
    """Draws batches from a source, or from several in their shares, for ever, each epoch in another order.

    With several processes, process i takes the i-th of every `process_count` rows of one common order, so
    that together they read each epoch exactly once, and none reads a row of another's.
    """

    def __init__(
        self,
        source: Source | Mixture,
        processor: Processor,
        template: PromptTemplate,
        buckets: Buckets,
        *,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        num_threads: int = 4,
        prefetch: int = 16,
        max_rejected: int | None = None,
    ):
        """`prefetch` prompts are prepared ahead by `num_threads` threads (0: none).

        After `max_rejected` rejections in a row drawing ends with an error; None stands for 1000, or twice
        around a smaller source. Each source counts its own. Raises ValueError when a source is empty or a
        number is out of range.
        """
        mixture = source if isinstance(source, Mixture) else alone(source)
        for each in mixture.sources:
            if not len(each):
                raise ValueError(f"{each!r} holds no rows")
        if not 0 <= process_index < process_count:
            raise ValueError(f"process_index {process_index} must be from 0 to {process_count - 1}")
        self._sources, self._processor = mixture.sources, processor
        self._template, self._buckets = template, buckets
        self._identity = {
            **_identity(mixture),
            "seed": seed,
            "process_index": process_index,
            "process_count": process_count,
        }
        # Twice, since two half epochs need not show every row; and a process sees its share of each only.
        self._max_rejected = [
            max_rejected or min(1000, 2 * len(each) * process_count) for each in mixture.sources
        ]
        self._rejected_in_a_row = [0] * len(mixture.sources)
        rows = grain.MapDataset.source(EndlessRows(mixture, seed))
        options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
        self._iterator = iter(
            rows[process_index::process_count].map(self._prepare).to_iter_dataset(read_options=options)
        )

    def next_batch(self, batch_size: int) -> PromptBatch:
        """The next `batch_size` prompts that fit the bucket, and the rows rejected on the way.

        Raises ValueError when too many rows of a source in a row were rejected.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        prompts: list[PreparedPrompt] = []
        rejected: list[Rejected] = []
        while len(prompts) < batch_size:
            source, drawn = next(self._iterator)
            if isinstance(drawn, PreparedPrompt):
                prompts.append(drawn)
                self._rejected_in_a_row[source] = 0
                continue
            rejected.append(drawn)
            self._rejected_in_a_row[source] += 1
            if self._rejected_in_a_row[source] >= self._max_rejected[source]:
                raise ValueError(self._exhausted(source, drawn))
        return PromptBatch(prompts, collate(prompts, self._buckets, self._processor.pad_id), rejected)

    def get_state(self) -> dict[str, Any]:
        """Where the stream stands after the last batch, in JSON's types; prefetched prompts do not count."""
        return {"iterator": self._iterator.get_state(), **self._identity}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue where `get_state` stood.

        Raises ValueError when the state is of another data set, seed or number of processes.
        """
        for name, value in self._identity.items():
            if state.get(name) != value:
                raise ValueError(
                    f"the saved data state has {name} {state.get(name)}, but this run has {value}"
                )
        self._iterator.set_state(state["iterator"])
        self._rejected_in_a_row = [0] * len(self._sources)

    def close(self) -> None:
        """Stop preparing ahead."""
        self._iterator.close()

    def _prepare(self, drawn: Drawn) -> tuple[int, PreparedPrompt | Rejected]:
        source, row = drawn
        if isinstance(row, Rejected):
            return source, row
        prepared = self._processor.prepare(row, self._template)
        if isinstance(prepared, Rejected):
            return source, prepared
        return source, fits(prepared, self._buckets) or prepared

    def _exhausted(self, number: int, last: Rejected) -> str:
        source, count = self._sources[number], self._rejected_in_a_row[number]
        every = count >= len(source)
        which = "every row" if every else f"{count} rows in a row"
        were = "was" if every else "were"
        return f"{which} of {source!r} {were} rejected; the last reason, of {last.id}: {last.reason}"


def _identity(mixture: Mixture) -> dict[str, Any]:
    """What a saved state must have been made with."""
    if len(mixture.sources) == 1:
        return {"rows": len(mixture)}
    rows = {name: len(source) for name, source in zip(mixture.names, mixture.sources, strict=True)}
    return {"rows": rows, "block": list(mixture.block)}
