"""Where questions come from: files of known columns, and data sets registered by name.

A source has a length and gives, by number, an Example or the reason why that row cannot be one. Reading is
lazy, and no row raises. Knows no prompts and no tokenizer.
"""

import bisect
import glob
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from vtzero.data.example import Example, Rejected
from vtzero.data.rows import Row, RowError, Rows, open_rows
from vtzero.data.schemas import Place, Schema, recognise


class Source(Protocol):
    """grain's RandomAccessDataSource of questions; `repr` names it in errors."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example | Rejected: ...


SOURCES: dict[str, Callable[[str], Source]] = {}
"""Named data sets: the name -> a function of the split."""

_MODULES = ("vtzero.data.scenes_source",)


def register_source(name: str) -> Callable[[Callable[[str], Source]], Callable[[str], Source]]:
    """Decorator: give the function of a split that opens a data set a name that `open_source` knows."""

    def register(open_split: Callable[[str], Source]) -> Callable[[str], Source]:
        if name in SOURCES:
            raise ValueError(f"the source {name!r} is registered twice")
        SOURCES[name] = open_split
        return open_split

    return register


def open_source(
    spec: str | Path,
    *,
    split: str = "train",
    limit: int | None = None,
    shuffle_options_seed: int = 0,
    max_images: int | None = None,
) -> Source:
    """Open a registered data set by name, a `.jsonl` or `.parquet` file, or several (`data/test-*.parquet`).

    `split` is passed to registered data sets; a file is its own split. `limit` keeps the first rows only.
    `shuffle_options_seed` orders the options of SAT, whose files have the right one first. Rows with more
    than `max_images` images are rejected (the paper trains on one).

    Raises FileNotFoundError when there is no such file; ValueError when the name is unknown, the file is
    empty, or its columns are of no known data set.
    """
    source = _open_named(str(spec), split)
    if source is None:
        source = _open_files(str(spec), shuffle_options_seed)
    if max_images is not None:
        source = _FewImages(source, max_images)
    return source if limit is None else _First(source, limit)


def _open_named(name: str, split: str) -> Source | None:
    for module in _MODULES:
        if importlib.util.find_spec(module):
            importlib.import_module(module)
    return SOURCES[name](split) if name in SOURCES else None


def _open_files(spec: str, seed: int) -> Source:
    if not spec.endswith((".jsonl", ".parquet")):
        names = ", ".join(sorted(SOURCES)) or "none"
        raise ValueError(f"{spec}: not a .jsonl or .parquet file, nor a known source (known: {names})")
    paths = sorted(glob.glob(spec)) if glob.has_magic(spec) and not Path(spec).exists() else [spec]
    if not paths:
        raise FileNotFoundError(f"{spec}: no file matches")
    sources = [FileSource(open_rows(Path(path)), seed) for path in paths]
    return sources[0] if len(sources) == 1 else _Joined(spec, sources)


class FileSource:
    """The rows of one file, read by the schema that its columns show."""

    def __init__(self, rows: Rows, shuffle_options_seed: int = 0):
        self._rows = rows
        self._seed = shuffle_options_seed
        self.schema: Schema = recognise(rows.columns, str(rows.path))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example | Rejected:
        index = range(len(self))[index]
        place = Place(self._rows.label(index), index, self._rows.path.parent, self._seed)
        try:
            return self.schema.read(self._with_its_picture(self._rows.read(index)), place)
        except RowError as error:
            return Rejected(place.id, str(error))

    def _with_its_picture(self, row: Row) -> Row:
        """The row, unless it leaves out a picture that others have: it must not be asked blind."""
        named = {"image", "images"} & set(self._rows.columns)
        if named and not named & set(row):
            way_out = "a file that also holds questions without pictures has a column images, [] for none"
            raise RowError(f"{min(named)} is missing ({way_out})")
        return row

    def __repr__(self) -> str:
        return str(self._rows.path)


class _Joined:
    """Several files, one after the other."""

    def __init__(self, spec: str, sources: Sequence[FileSource]):
        self._spec = spec
        self._sources = sources
        self._ends = list(accumulate(len(source) for source in sources))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Example | Rejected:
        index = range(len(self))[index]
        number = bisect.bisect_right(self._ends, index)
        return self._sources[number][index - (self._ends[number - 1] if number else 0)]

    def __repr__(self) -> str:
        return self._spec


class _First:
    """The first rows of a source."""

    def __init__(self, source: Source, limit: int):
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        self._source = source
        self._length = min(limit, len(source))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example | Rejected:
        return self._source[range(self._length)[index]]

    def __repr__(self) -> str:
        return repr(self._source)


class _FewImages:
    """A source whose rows of many images are rejected."""

    def __init__(self, source: Source, max_images: int):
        self._source = source
        self._max_images = max_images

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example | Rejected:
        example = self._source[index]
        if isinstance(example, Rejected) or len(example.images) <= self._max_images:
            return example
        return Rejected(example.id, f"it has {len(example.images)} images; max_images is {self._max_images}")

    def __repr__(self) -> str:
        return repr(self._source)
