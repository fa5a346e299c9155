"""Several sources drawn from in given shares, each in its own order every epoch.

Position k of the endless stream is a pure function of the seed and k, so that it can be sliced by process and
continued anywhere. Knows no prompts and no batches.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import grain
import numpy as np

from vtzero.data.example import Example, Rejected
from vtzero.data.sources import (
    Selected,
    Source,
    SourceCounts,
    check_question_types,
    select,
    source_name,
)

BLOCK = 1000
"""The longest block: shares are kept to a thousandth."""


@dataclass(frozen=True)
class Mixture:
    """Sources with their names, and how many of each block of draws come from each.

    A name stands before the id of every question, as in `sat/SAT_train.parquet:5`; a source alone has none.
    """

    sources: tuple[Source, ...]
    names: tuple[str, ...]
    block: tuple[int, ...]

    def __len__(self) -> int:
        return sum(len(source) for source in self.sources)

    def __repr__(self) -> str:
        return " + ".join(repr(source) for source in self.sources)


class Drawn(NamedTuple):
    """A row, and the number of the source that it is of."""

    source: int
    row: Example | Rejected


def alone(source: Source) -> Mixture:
    """One source as a mixture."""
    return Mixture((source,), ("",), (1,))


def open_mixture(
    specs: Sequence[str],
    weights: Sequence[float] = (),
    *,
    split: str = "train",
    limit: int | None = None,
    shuffle_options_seed: int = 0,
    max_images: int | None = None,
    question_types: Sequence[str] = (),
    image_folders: Sequence[Path] = (),
) -> Mixture:
    """Open each source as `open_source` does, to be drawn from in the shares of `weights` (equal if none).

    `limit` is that of each source. `question_types` leaves sources whose questions have no types as they are.

    Raises what `open_source` raises, and ValueError when a source is named twice or its share is too small.
    """
    if doubled := next((spec for spec in specs if specs.count(spec) > 1), None):
        raise ValueError(f"{doubled} is named twice; give it once, with a larger weight")
    sources = [
        select(
            spec,
            split=split,
            limit=limit,
            shuffle_options_seed=shuffle_options_seed,
            max_images=max_images,
            question_types=question_types,
            image_folders=image_folders,
        )
        for spec in specs
    ]
    check_question_types(sources, question_types)
    short = [source_name(spec) or spec for spec in specs]
    names = [name if short.count(name) == 1 else spec for name, spec in zip(short, specs, strict=True)]
    block = block_of(weights or [1.0] * len(specs), names)
    return Mixture(tuple(sources), tuple(names), block)


def counts_of(source: Selected | Mixture) -> list[SourceCounts]:
    """What became of the rows of each source of a run."""
    sources = source.sources if isinstance(source, Mixture) else (source,)
    return [each.counts for each in sources if isinstance(each, Selected)]


def block_of(weights: Sequence[float], names: Sequence[str]) -> tuple[int, ...]:
    """How many draws of a block each source has: the shortest block of the exact shares, else the longest.

    Raises ValueError naming a source whose share is below one draw in the longest block.
    """
    shares = np.asarray(weights, np.float64) / np.sum(weights)
    for length in range(1, BLOCK + 1):
        draws = np.rint(shares * length)
        if np.abs(draws - shares * length).max() < 1e-9:
            return tuple(int(count) for count in draws)
    draws = np.rint(shares * BLOCK)
    if not draws.all():
        name = names[int(np.argmin(draws))]
        raise ValueError(f"data_weights: the share of {name} is below 1 in {BLOCK}; leave it out or raise it")
    return tuple(int(count) for count in draws)


class EndlessRows:
    """grain's RandomAccessDataSource of a mixture without end.

    Each block of draws has every source as often as its share says, in an order of its own; each source is
    read in another order every epoch.
    """

    def __init__(self, mixture: Mixture, seed: int):
        self._mixture, self._seed = mixture, seed
        self._orders = [
            grain.MapDataset.source(source).seed(_source_seed(seed, number)).shuffle().repeat()
            for number, source in enumerate(mixture.sources)
        ]
        self._places = np.repeat(np.arange(len(mixture.sources)), mixture.block)
        self._order_of_block = lru_cache(maxsize=64)(self._draw_block)

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> Drawn:
        block, place = divmod(index, len(self._places))
        order = self._order_of_block(block)
        source = int(order[place])
        before = int((order[:place] == source).sum())
        row = self._orders[source][block * self._mixture.block[source] + before]
        name = self._mixture.names[source]
        return Drawn(source, replace(row, id=f"{name}/{row.id}") if name else row)

    def _draw_block(self, block: int) -> np.ndarray:
        return np.random.default_rng([self._seed, block]).permutation(self._places)

    def __repr__(self) -> str:
        return repr(self._mixture)


def _source_seed(seed: int, number: int) -> int:
    """The run's seed for the first source; others differ, or sources of one length would share an order."""
    return seed if number == 0 else int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
