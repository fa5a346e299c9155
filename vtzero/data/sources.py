"""Where questions come from: data sets known by name, and files of known columns.

A source has a length and gives, by number, an Example or the reason why that row cannot be one. Rows that
were not asked for (another type, too many images) are left out when it is opened, so that they are neither
read nor rejected. Knows no prompts and no tokenizer.
"""

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from vtzero.data.example import Example, Rejected
from vtzero.data.files import SUFFIXES, open_files
from vtzero.data.hub import HubSet, cached_path, hub_file
from vtzero.data.named_sets import NAMED_SETS, NamedSet


class Source(Protocol):
    """grain's RandomAccessDataSource of questions; `repr` names it in errors."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example | Rejected: ...


@runtime_checkable
class Surveyed(Protocol):
    """A source that tells what its first rows are without reading them; others are read to find out."""

    def tasks(self, count: int) -> Sequence[str | None] | None:
        """The kinds of questions, None for a row that cannot be read; None where they have no kinds."""

    def image_counts(self, count: int) -> Sequence[int]:
        """The numbers of images, 0 for a row that cannot be read."""


@dataclass(frozen=True)
class SourceCounts:
    """What became of the rows of a source: `first` were looked at; of those some were left out."""

    name: str
    rows: int
    first: int
    other_types: int
    too_many_images: int

    @property
    def kept(self) -> int:
        return self.first - self.other_types - self.too_many_images

    def __str__(self) -> str:
        of = f"the first {self.first:,} of {self.rows:,}" if self.first < self.rows else f"{self.rows:,}"
        left_out = {"of other types": self.other_types, "with too many images": self.too_many_images}
        why = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count)
        return f"{self.name}: {self.kept:,} of {of} rows" + (f" (left out: {why})" if why else "")


class Selected:
    """The rows of a source that were asked for.

    `types` are the kinds of its questions; None where they have no kinds or nothing asked for them.
    """

    def __init__(
        self, source: Source, rows: Sequence[int], counts: SourceCounts, types: frozenset[str] | None
    ):
        self._source, self._rows = source, rows
        self.counts, self.types = counts, types

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example | Rejected:
        return self._source[self._rows[range(len(self))[index]]]

    def __repr__(self) -> str:
        return repr(self._source)


SOURCES: dict[str, Callable[[str], Source]] = {}
"""Data sets that need no file: the name -> a function of the split."""

_MODULES = ("vtzero.data.scenes_source",)


def register_source(name: str) -> Callable[[Callable[[str], Source]], Callable[[str], Source]]:
    """Decorator: give the function of a split that opens a data set a name that `open_source` knows."""

    def register(open_split: Callable[[str], Source]) -> Callable[[str], Source]:
        if name in SOURCES:
            raise ValueError(f"the source {name!r} is registered twice")
        SOURCES[name] = open_split
        return open_split

    return register


def known_sources() -> list[str]:
    """Every name that `open_source` knows."""
    for module in _MODULES:
        importlib.import_module(module)
    return sorted({*SOURCES, *NAMED_SETS})


def open_source(
    spec: str | Path,
    *,
    split: str = "train",
    limit: int | None = None,
    shuffle_options_seed: int = 0,
    max_images: int | None = None,
    question_types: Sequence[str] = (),
    image_folders: Sequence[Path] = (),
) -> Selected:
    """Open a data set by its name, from files of its columns (`sat=SAT_train.parquet`), or one's own file.

    A name alone is fetched from the hub (or drawn: `scenes`). Files end in `.json`, `.jsonl` or `.parquet`;
    several are given by a pattern (`data/test-*.parquet`). A file without a name is read by the data set that
    its columns show.

    `split` is that of a name alone; "train" is the one that the data set is trained on, and a file is its own
    split. `limit` keeps the first rows, before `question_types` and `max_images` leave out what is of another
    type or has more images: the paper takes the first 15,000 rows of SAT and of these those with one image.
    `shuffle_options_seed` orders the options of SAT, whose files have the right one first. Rows of a file may
    name images in its folder, and in `image_folders`.

    Raises FileNotFoundError when there is no such file, or no network (naming what to give instead);
    ValueError when the name is unknown, a file is empty or lacks a column, or no row is left.
    """
    source = select(
        spec,
        split=split,
        limit=limit,
        shuffle_options_seed=shuffle_options_seed,
        max_images=max_images,
        question_types=question_types,
        image_folders=image_folders,
    )
    check_question_types([source], question_types)
    return source


def select(
    spec: str | Path,
    *,
    split: str,
    limit: int | None,
    shuffle_options_seed: int,
    max_images: int | None,
    question_types: Sequence[str],
    image_folders: Sequence[Path],
) -> Selected:
    """As `open_source`, without the error for a type that no question has: another source may have it."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    text = str(spec)
    name = source_name(text)
    source = _open(text, name, split, limit, shuffle_options_seed, image_folders)
    first = len(source) if limit is None else min(limit, len(source))
    without = NAMED_SETS[name].without_types if name in NAMED_SETS else ()
    kinds = _tasks(source, first) if question_types or without else None
    sizes = _image_counts(source, first) if max_images is not None else None
    rows, other_types = [], 0
    for row in range(first):
        kind = kinds[row] if kinds is not None else None
        if kind is not None and (kind in without or (question_types and kind not in question_types)):
            other_types += 1
        elif sizes is None or max_images is None or sizes[row] <= max_images:
            rows.append(row)
    counts = SourceCounts(text, len(source), first, other_types, first - other_types - len(rows))
    types = None if kinds is None else frozenset(kind for kind in kinds if kind)
    if not rows and first:
        raise ValueError(_nothing_left(counts, types, max_images))
    return Selected(source, rows, counts, types)


def check_question_types(sources: Sequence[Selected], wanted: Sequence[str]) -> None:
    """ValueError when no question of the sources is of a wanted type."""
    known = frozenset[str]().union(*(source.types or () for source in sources))
    names = ", ".join(source.counts.name for source in sources)
    for kind in wanted:
        if not known:
            raise ValueError(f"question_types is {list(wanted)}, but {names} tells no types of questions")
        if kind not in known:
            raise ValueError(f"{names}: there is no question type {kind!r}; there are {_listed(known)}")


def source_name(spec: str) -> str:
    """The data set's name in `NAME` or `NAME=FILE`; "" for a file alone.

    Raises ValueError listing the known names when it is none of them.
    """
    name, named, _ = spec.partition("=")
    if name in known_sources():
        if named and name not in NAMED_SETS:
            raise ValueError(f"{spec}: {name} is drawn and takes no file; give {name} alone")
        return name
    is_file = spec.endswith(SUFFIXES) and (not named or not name.isidentifier() or os.path.isfile(spec))
    if not is_file:
        what = f"{name!r} in {spec} is not" if named else f"{spec}: not a {_listed(SUFFIXES)} file, nor"
        raise ValueError(f"{what} a known source (known: {', '.join(known_sources())})")
    return ""


def _open(
    spec: str, name: str, split: str, limit: int | None, seed: int, image_folders: Sequence[Path]
) -> Source:
    if name in SOURCES:
        return SOURCES[name](split)
    path = spec.partition("=")[2] if name else spec
    if not name:
        return open_files(path, seed, image_folders=image_folders)
    known = NAMED_SETS[name]
    path = path or _fetched(name, known, split, limit)
    return open_files(path, seed, known.schemas, name, image_folders)


def missing_from_cache(spec: str, *, split: str = "train", limit: int | None = None) -> HubSet | None:
    """What opening this source would fetch from the hub; None when everything it needs is here."""
    if spec not in NAMED_SETS:
        return None
    hub = _hub_set(NAMED_SETS[spec], split)
    return None if cached_path(hub, limit).is_file() else hub


def _hub_set(known: NamedSet, split: str) -> HubSet:
    return known.hub if split == "train" else replace(known.hub, split=split)


def _fetched(name: str, known: NamedSet, split: str, limit: int | None) -> str:
    try:
        return str(hub_file(_hub_set(known, split), limit))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; as data give {name}=FILE.parquet") from error


def _tasks(source: Source, count: int) -> Sequence[str | None] | None:
    if isinstance(source, Surveyed):
        return source.tasks(count)
    rows = (source[index] for index in range(count))
    return [None if isinstance(row, Rejected) else row.task for row in rows]


def _image_counts(source: Source, count: int) -> Sequence[int]:
    if isinstance(source, Surveyed):
        return source.image_counts(count)
    rows = (source[index] for index in range(count))
    return [0 if isinstance(row, Rejected) else len(row.images) for row in rows]


def _nothing_left(counts: SourceCounts, types: frozenset[str] | None, max_images: int | None) -> str:
    if not counts.too_many_images:
        return f"{counts.name}: no question is of the types asked for; there are {_listed(types or ())}"
    return f"{counts}: none is left; max_images is {max_images}"


def _listed(names: Sequence[str] | frozenset[str]) -> str:
    *most, last = sorted(names) or ["none"]
    return f"{', '.join(most)} or {last}" if most else last
