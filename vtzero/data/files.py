"""Files of known columns as sources: one file, or several one after the other.

Reading is lazy, and no row raises. Knows no names of data sets.
"""

import bisect
import glob
import os
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from vtzero.data.example import Example, Rejected
from vtzero.data.image_paths import ImageFolders
from vtzero.data.rows import Row, RowError, Rows, open_rows
from vtzero.data.schemas import Place, Schema, named_schema, recognise

SUFFIXES = (".json", ".jsonl", ".parquet")


def open_files(
    spec: str,
    shuffle_options_seed: int,
    schemas: Sequence[Schema] = (),
    name: str = "",
    image_folders: Sequence[Path] = (),
) -> "FileSource | JoinedFiles":
    """The rows of a file, or of every file that a pattern such as `data/train-*.parquet` matches.

    `schemas` are those of the data set `name`; without them the columns of each file show its schema. Beside
    the folder of their file rows may name images in `image_folders`.

    Raises FileNotFoundError when there is no such file; ValueError when one is empty or lacks a column.
    """
    paths = sorted(glob.glob(spec)) if glob.has_magic(spec) and not os.path.exists(spec) else [spec]
    if not paths:
        raise FileNotFoundError(f"{spec}: no file matches")
    allowed = tuple(image_folders)
    sources = [_open_file(Path(path), shuffle_options_seed, schemas, name, allowed) for path in paths]
    return sources[0] if len(sources) == 1 else JoinedFiles(spec, sources)


def _open_file(
    path: Path, seed: int, schemas: Sequence[Schema], name: str, image_folders: tuple[Path, ...]
) -> "FileSource":
    rows = open_rows(path)
    schema = named_schema(schemas, rows.columns, str(path), name) if schemas else None
    return FileSource(rows, seed, schema, ImageFolders(path.parent, image_folders))


class FileSource:
    """The rows of one file, read by a schema: the given one, else the one that its columns show."""

    def __init__(
        self,
        rows: Rows,
        shuffle_options_seed: int = 0,
        schema: Schema | None = None,
        folders: ImageFolders | None = None,
    ):
        self._rows, self._folders = rows, folders or ImageFolders(rows.path.parent)
        self._seed = shuffle_options_seed
        self.schema: Schema = schema or recognise(rows.columns, str(rows.path))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example | Rejected:
        index = range(len(self))[index]
        place = Place(self._rows.label(index), index, self._folders, self._seed)
        try:
            return self.schema.read(self._with_its_picture(self._rows.read(index)), place)
        except RowError as error:
            return Rejected(place.id, str(error))

    def tasks(self, count: int) -> list[str | None] | None:
        """The kind of each of the first questions, None for one that cannot be read.

        None for all where the file has no such column.
        """
        if self.schema.task not in self._rows.columns:
            return None
        values = self._rows.values(self.schema.task, count)
        return [None if isinstance(value, RowError) else str(value or "") for value in values]

    def image_counts(self, count: int) -> list[int]:
        """The number of images of each of the first questions, 0 for one that cannot be read."""
        columns = [name for name in self.schema.images if name in self._rows.columns]
        sizes = [self._rows.sizes(column, count) for column in columns]
        return [sum(each) for each in zip(*sizes, strict=True)] if sizes else [0] * count

    def _with_its_picture(self, row: Row) -> Row:
        """The row, unless it leaves out a picture that others have: it must not be asked blind."""
        named = {"image", "images"} & set(self._rows.columns)
        if named and not named & set(row):
            way_out = "a file that also holds questions without pictures has a column images, [] for none"
            raise RowError(f"{min(named)} is missing ({way_out})")
        return row

    def __repr__(self) -> str:
        return str(self._rows.path)


class JoinedFiles:
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

    def tasks(self, count: int) -> list[str | None] | None:
        """As `FileSource.tasks`, over all files; questions of a file without kinds have the kind ""."""
        parts = [(source.tasks(rows), rows) for source, rows in self._first(count)]
        if all(tasks is None for tasks, _ in parts):
            return None
        return [task for tasks, rows in parts for task in (tasks or [""] * rows)]

    def image_counts(self, count: int) -> list[int]:
        """As `FileSource.image_counts`, over all files."""
        return [size for source, rows in self._first(count) for size in source.image_counts(rows)]

    def _first(self, count: int) -> list[tuple[FileSource, int]]:
        """The files that hold the first rows, each with how many of them."""
        starts = [0, *self._ends[:-1]]
        return [
            (source, min(len(source), count - start))
            for source, start in zip(self._sources, starts, strict=True)
            if start < count
        ]

    def __repr__(self) -> str:
        return self._spec
