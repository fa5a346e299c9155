"""Rows of JSON, JSON-lines and parquet files by number, read when asked for.

Knows no meaning of any column.
"""

import bisect
import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vtzero.terminal import short_line

Row = Mapping[str, Any]


_MOST_LEVELS = 100
"""Of lists and objects within each other; what deeper ones are handed to ends in Python's own limit."""


class RowError(ValueError):
    """What is wrong with one row; the source that reads it turns this into `Rejected`."""


class Rows(Protocol):
    """Random access to the rows of one file."""

    path: Path
    columns: tuple[str, ...]

    def __len__(self) -> int: ...

    def label(self, index: int) -> str:
        """The file's name and the place where a person finds the row."""

    def read(self, index: int) -> Row:
        """One row; raises RowError when it cannot be read."""

    def values(self, column: str, count: int) -> list[Any]:
        """A column of the first `count` rows, the others unread; a RowError where it cannot be read."""

    def sizes(self, column: str, count: int) -> list[int]:
        """How much a column holds in each of the first `count` rows, its contents unread where possible.

        The length of a list, 1 for anything else, 0 for nothing and where it cannot be read.
        """


def open_rows(path: Path) -> Rows:
    """Open a `.json` (one list of objects), `.jsonl` or `.parquet` file.

    Raises FileNotFoundError when there is none, ValueError when it is of another kind, damaged or empty.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}: no such file")
    if not os.path.isfile(path):
        raise ValueError(f"{path}: it is no file, but a folder, a pipe or a device")
    kinds: dict[str, Callable[[Path], Rows]] = {".json": JsonList, ".jsonl": JsonLines, ".parquet": Parquet}
    if path.suffix not in kinds:
        raise ValueError(f"{path}: the file must end in {', '.join(kinds)}")
    try:
        rows = kinds[path.suffix](path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not len(rows):
        raise ValueError(f"{path}: the file holds no rows")
    return rows


class _Json:
    """What files of JSON objects have in common."""

    path: Path

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, index: int) -> Row:
        raise NotImplementedError

    def values(self, column: str, count: int) -> list[Any]:
        found = []
        for index in range(count):
            try:
                found.append(self.read(index).get(column))
            except RowError as error:
                found.append(error)
        return found

    def sizes(self, column: str, count: int) -> list[int]:
        return [
            len(value) if isinstance(value, list) else int(not isinstance(value, RowError | None))
            for value in self.values(column, count)
        ]

    def _find_columns(self) -> tuple[str, ...]:
        """Every key in the first thousand rows: a row may leave one out, or be damaged."""
        found: dict[str, None] = {}
        damaged: RowError | None = None
        for index in range(min(len(self), 1000)):
            try:
                found.update(dict.fromkeys(self.read(index)))
            except RowError as error:
                damaged = damaged or error
        if damaged and not found:
            raise ValueError(f"{self.path}: holds no row that can be read; {damaged}")
        return tuple(found)


class JsonList(_Json):
    """A file that is one JSON list of objects; it is read whole."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self._rows = _parsed(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not JSON ({short_line(error)})") from error
        if not isinstance(self._rows, list):
            raise ValueError(
                f"{path}: not a JSON list of objects; one object a line belongs in a .jsonl file"
            )
        self.columns = self._find_columns()

    def __len__(self) -> int:
        return len(self._rows)

    def label(self, index: int) -> str:
        return f"{self.path.name}:{index}"

    def read(self, index: int) -> Row:
        return _checked(self._rows[index], f"entry {index}")


class JsonLines(_Json):
    """A file of one JSON object a line; blank lines do not count."""

    def __init__(self, path: Path):
        self.path = path
        lines = path.read_bytes().split(b"\n")
        self._lines = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        self.columns = self._find_columns()

    def __len__(self) -> int:
        return len(self._lines)

    def label(self, index: int) -> str:
        return f"{self.path.name}:{self._lines[index][0]}"

    def read(self, index: int) -> Row:
        number, line = self._lines[index]
        try:
            row = _parsed(line)
        except (ValueError, RecursionError) as error:
            raise RowError(f"line {number} is not JSON ({error})") from error
        return _checked(row, f"line {number}")


class _Doubled(dict[str, Any]):
    """An object that has a key twice, of which one value would be lost."""

    key: str


def _parsed(text: bytes) -> Any:
    # As bytes json would also take UTF-16 and UTF-32, whose lines do not end where ours do.
    return json.loads(text.decode("utf-8-sig"), object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    names = [name for name, _ in pairs]
    doubled = _Doubled(found)
    doubled.key = next(name for name in names if names.count(name) > 1)
    return doubled


def _checked(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise RowError(f"{where} is not a JSON object")
    if isinstance(row, _Doubled):
        raise RowError(f"{where} has {row.key!r} twice")
    level: list[Any] = [row]
    for _ in range(_MOST_LEVELS):
        level = [inner for value in level for inner in _within(value)]
        if not level:
            return row
    raise RowError(f"{where} has more than {_MOST_LEVELS} lists and objects within each other")


def _within(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


# Arrow's own, the system's, and those of Python's for a value that it has no room for or no letters.
_UNREADABLE = (pa.ArrowException, OSError, ValueError, OverflowError)


class Parquet:
    """A parquet file; row groups are read whole, and the latest are kept, up to about half a gigabyte."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self._file = pq.ParquetFile(path)
            self.columns = tuple(self._file.schema_arrow.names)
            metadata = self._file.metadata
            groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        except _UNREADABLE as error:
            raise ValueError(f"{path}: not a readable parquet file ({short_line(error)})") from error
        if doubled := next((name for name in self.columns if self.columns.count(name) > 1), None):
            raise ValueError(f"{path}: it has two columns {doubled!r}; keep one of them")
        counts = [group.num_rows for group in groups]
        if sum(counts) != metadata.num_rows or min(counts, default=0) < 0:
            raise ValueError(f"{path}: not a readable parquet file (its parts and its total differ in rows)")
        self._ends = list(accumulate(counts))
        largest = max((group.total_byte_size for group in groups), default=1)
        self._group = lru_cache(maxsize=max(1, 2**29 // max(1, largest)))(self._read_group)
        self._lock = Lock()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def label(self, index: int) -> str:
        return f"{self.path.name}:{index}"

    def read(self, index: int) -> Row:
        number = bisect.bisect_right(self._ends, index)
        first = self._ends[number - 1] if number else 0
        try:
            with self._lock:
                group = self._group(number)
            rows: list[Row] = group.slice(index - first, 1).to_pylist()
        except _UNREADABLE as error:
            raise RowError(f"row {index} cannot be read ({short_line(error)})") from error
        if not rows:
            raise RowError(f"row {index} is not there: its part of the file holds fewer rows than it says")
        return rows[0]

    def values(self, column: str, count: int) -> list[Any]:
        unreadable = RowError(f"{column} cannot be read")
        return self._of_each_row(column, count, pa.Array.to_pylist, unreadable)

    def sizes(self, column: str, count: int) -> list[int]:
        return self._of_each_row(self._smallest_leaf(column), count, _sizes, 0)

    def _of_each_row(
        self, leaf: str, count: int, measure: Callable[[pa.Array], list[Any]], unreadable: Any
    ) -> list[Any]:
        """`measure` of a column's pieces, for the first rows; `unreadable` for a damaged row group's."""
        found: list[Any] = []
        for number, end in enumerate(self._ends):
            if len(found) >= count:
                break
            rows: list[Any] = []
            expected = end - len(found)
            try:
                with self._lock:
                    for batch in self._file.iter_batches(256, row_groups=[number], columns=[leaf]):
                        rows += measure(batch.column(0))
            except _UNREADABLE:
                rows = []
            found += rows if len(rows) == expected else [unreadable] * expected
        return found[:count]

    def _smallest_leaf(self, column: str) -> str:
        """Of the arrays that a nested column is stored as, the one with the fewest bytes."""
        metadata = self._file.metadata
        sizes: dict[str, int] = {}
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            for place in range(metadata.num_columns):
                leaf = group.column(place)
                if leaf.path_in_schema == column or leaf.path_in_schema.startswith(f"{column}."):
                    sizes[leaf.path_in_schema] = (
                        sizes.get(leaf.path_in_schema, 0) + leaf.total_compressed_size
                    )
        return min(sizes, key=sizes.__getitem__)

    def _read_group(self, number: int) -> pa.Table:
        # In small batches: Arrow cannot hold more than 2 GB of nested bytes, such as images, in one piece.
        batches = self._file.iter_batches(batch_size=64, row_groups=[number])
        return pa.Table.from_batches(list(batches), schema=self._file.schema_arrow)


def _sizes(column: pa.Array) -> list[int]:
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    is_list = any(kind(column.type) for kind in kinds)
    sizes = pc.list_value_length(column) if is_list else pc.is_valid(column)
    return [int(size or 0) for size in sizes.to_pylist()]
