"""The endless stream of prompt batches that training reads: seeded, sliced by process, resumable.

Built on grain. Threads prepare prompts ahead; what comes out depends on the seed and the state alone.
Knows no model, no rewards and no device.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grain

from vtzero.data.batches import Buckets, collate, fits
from vtzero.data.example import Example, Rejected
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
    """Draws batches from a source for ever, each epoch in another order.

    With several processes, process i takes the i-th of every `process_count` rows of one common order, so
    that together they read each epoch exactly once, and none reads a row of another's.
    """

    def __init__(
        self,
        source: Source,
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
        around a smaller source. Raises ValueError when the source is empty or a number is out of range.
        """
        if not len(source):
            raise ValueError(f"{source!r} holds no rows")
        if not 0 <= process_index < process_count:
            raise ValueError(f"process_index {process_index} must be from 0 to {process_count - 1}")
        self._source, self._processor = source, processor
        self._template, self._buckets = template, buckets
        self._identity = {
            "rows": len(source),
            "seed": seed,
            "process_index": process_index,
            "process_count": process_count,
        }
        # Twice, since two half epochs need not show every row; and a process sees its share of each only.
        self._max_rejected = max_rejected or min(1000, 2 * len(source) * process_count)
        rows = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
        options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
        self._iterator = iter(
            rows[process_index::process_count].map(self._prepare).to_iter_dataset(read_options=options)
        )

    def next_batch(self, batch_size: int) -> PromptBatch:
        """The next `batch_size` prompts that fit the bucket, and the rows rejected on the way.

        Raises ValueError when too many rows in a row were rejected.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        prompts: list[PreparedPrompt] = []
        rejected: list[Rejected] = []
        in_a_row = 0
        while len(prompts) < batch_size:
            drawn = next(self._iterator)
            if isinstance(drawn, PreparedPrompt):
                prompts.append(drawn)
                in_a_row = 0
                continue
            rejected.append(drawn)
            in_a_row += 1
            if in_a_row >= self._max_rejected:
                raise ValueError(self._exhausted(in_a_row, drawn))
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

    def close(self) -> None:
        """Stop preparing ahead."""
        self._iterator.close()

    def _prepare(self, row: Example | Rejected) -> PreparedPrompt | Rejected:
        if isinstance(row, Rejected):
            return row
        prepared = self._processor.prepare(row, self._template)
        if isinstance(prepared, Rejected):
            return prepared
        return fits(prepared, self._buckets) or prepared

    def _exhausted(self, count: int, last: Rejected) -> str:
        every = count >= len(self._source)
        which = "every row" if every else f"{count} rows in a row"
        were = "was" if every else "were"
        reason = f"the last reason, of {last.id}: {last.reason}"
        return f"{which} of {self._source!r} {were} rejected; {reason}"
