"""The completions of a run for its page: an index of all that are kept, a chunk a step, small pictures.

What does not fit into the page's size is left out evenly over the run: whole steps, and after these pictures.
Knows the files of completions; knows no page.
"""

import hashlib
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from PIL import Image

from vtzero.data.images import open_image
from vtzero.reports.page import Chunk, packed
from vtzero.terminal import one_line
from vtzero.training.completions import completion_files, read_table

NEEDED = ("prompt", "completion", "answer", "task", "aha_words", "advantage")
"""Columns of every table; those that later versions added may be missing."""

PICTURE_SHARE = 0.4
"""Of the bytes for completions; texts have what pictures do not need."""
_PICTURE_SIDE = 320  # pixels: what a column of the page shows
_SMALL_PICTURE = 4096  # bytes: such a file is kept as it is
_INDEX_BYTES = 6  # of a completion; 3.5 were measured
_REWARD = "rewards/"
_MIME = {"GIF": "image/gif", "JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}

Row = Mapping[str, Any]
Group = list[Row]


@dataclass(frozen=True)
class Packed:
    """What the page says of a run's completions, and the chunks that hold them, one after the other."""

    description: dict[str, Any]
    chunks: Iterator[Chunk]


def pack_completions(folder: Path, run: int, most_bytes: int, warnings: list[str]) -> Packed | None:
    """The completions of a run folder in about `most_bytes` of a page; None where there are none.

    Each table is read again when its chunk is taken: all texts of a long run would need gigabytes. A table or
    a picture that cannot be read is left out and told among the `warnings`.
    """
    files = completion_files(folder)
    packing = _Packing(files, run, most_bytes, warnings)
    with_pictures = any(map(_holds_pictures, files.values()))
    packing.take_steps(reserve=most_bytes * PICTURE_SHARE if with_pictures else 0)
    if not packing.index.steps:
        return None
    if with_pictures:
        packing.take_pictures(evenly(sorted(packing.index.steps)))
        packing.take_steps(with_pictures=True)  # there may be few pictures, and each is there once
    kept, pictures = sorted(packing.index.steps), packing.pictures
    description = packing.index.description() | {
        "steps_written": packing.readable,
        "note": _note(len(kept), packing.readable, pictures.left_out, packing.index.groups),
        "index": f"i{run}",
    }
    return Packed(description, _chunks(run, files, kept, packing.index, pictures))


class _Packing:
    """Steps and pictures of a run, evenly over it, while there is room for them in the page."""

    def __init__(self, files: Mapping[int, Path], run: int, most_bytes: float, warnings: list[str]) -> None:
        self._files, self._run, self._warnings = files, run, warnings
        self.readable = len(files)
        self._waiting: Iterator[int] = evenly(sorted(files))
        self._room = _Room(most_bytes)
        self.index, self.pictures = _Index(), _Pictures(run, self._room, warnings)

    def take_steps(self, *, reserve: float = 0, with_pictures: bool = False) -> None:
        """Take the texts of steps, of one at least, until only the reserve is left."""
        for step in self._waiting:
            try:
                groups = read_groups(self._files[step])
            except ValueError as error:
                self._warnings.append(one_line(error))
                self.readable -= 1
                continue
            size = _page_bytes(_chunk(self._run, step, groups, {}).data) + _INDEX_BYTES * sum(
                map(len, groups)
            )
            if not self._room.take(size, reserve) and self.index.steps:
                self._waiting = chain([step], self._waiting)
                return
            self.index.add(step, groups)
            if with_pictures:
                self.take_pictures([step])

    def take_pictures(self, steps: Iterable[int]) -> None:
        for step in steps:
            self.pictures.add(step, _first_images(self._files[step]))


@dataclass
class _Room:
    """Bytes of the page that are still free."""

    left: float

    def take(self, size: float, reserve: float = 0) -> bool:
        """Take them if that leaves the reserve."""
        fits = size <= self.left - reserve
        self.left -= size if fits else 0
        return fits


def evenly(steps: Sequence[int]) -> Iterator[int]:
    """All steps, in an order in which those up to any point lie evenly: the last, the first, then halves."""
    if not steps:
        return
    yield steps[-1]
    waiting = [(-1, len(steps) - 1)]
    if len(steps) > 1:
        yield steps[0]
        waiting = [(0, len(steps) - 1)]
    while waiting:
        start, end = waiting.pop(0)
        middle = (start + end) // 2
        if start < middle < end:
            yield steps[middle]
            waiting += [(start, middle), (middle, end)]


def read_groups(path: Path) -> list[Group]:
    """The completions of a table without their pictures, by the prompt that they answer.

    Raises ValueError naming a table that cannot be read, is empty or lacks a column.
    """
    rows = read_table(path, without=["image"])
    missing = [name for name in NEEDED if not rows or name not in rows[0]]
    if missing:
        raise ValueError(f"{path}: {f'has no column {missing[0]!r}' if rows else 'has no rows'}")
    return _grouped(rows)


def _grouped(rows: Iterable[Row]) -> list[Group]:
    """Tables of older runs have no number of the group; there a prompt's completions follow each other."""
    return [list(group) for _, group in groupby(rows, key=lambda row: row.get("group", row["prompt"]))]


def _holds_pictures(path: Path) -> bool:
    try:
        return any(row["image"] for row in read_table(path, ["image"]))
    except ValueError:
        return False


def _first_images(path: Path) -> list[bytes | None]:
    return [(group[0]["image"] or {}).get("bytes") for group in _grouped(read_table(path))]


def _chunks(
    run: int, files: Mapping[int, Path], kept: Sequence[int], index: "_Index", pictures: "_Pictures"
) -> Iterator[Chunk]:
    yield packed(f"i{run}", index.columns())
    for step in kept:
        yield _chunk(run, step, read_groups(files[step]), pictures.names)
    yield from pictures.chunks


def _chunk(run: int, step: int, groups: list[Group], pictures: Mapping[tuple[int, int], str]) -> Chunk:
    content = {"groups": [_group(rows, pictures.get((step, at))) for at, rows in enumerate(groups)]}
    return packed(f"r{run}-s{step}", content)


def _group(rows: Group, picture: str | None) -> dict[str, Any]:
    shared = {name: rows[0].get(name) for name in ("id", "question", "prompt", "answer", "task")}
    return {**shared, "image": picture, "completions": [_completion(row) for row in rows]}


def _completion(row: Row) -> dict[str, Any]:
    return {
        "text": row["completion"],
        "rewards": _rewards(row),
        "advantage": _rounded(row["advantage"]),
        "length": row.get("length"),
        "terminated": row.get("terminated"),
        "aha": row["aha_words"],
    }


def _rewards(row: Row) -> dict[str, float | None]:
    return {name.removeprefix(_REWARD): row[name] for name in row if name.startswith(_REWARD)}


def is_right(rewards: Mapping[str, float | None]) -> bool | None:
    """Whether the first reward for accuracy is 1, as it is for a right answer; None where none is given."""
    scores = [score for name, score in rewards.items() if name.startswith("accuracy") and score is not None]
    return scores[0] >= 1 if scores else None


class _Index:
    """A line of figures for each completion that is kept, by which the page filters."""

    def __init__(self) -> None:
        self.steps: dict[int, list[dict[str, Any]]] = {}
        self.groups, self._size, self._rewards = 0, 0, dict[str, None]()

    def add(self, step: int, groups: list[Group]) -> None:
        self.steps[step] = [
            _figures(step, group, place, row)
            for group, rows in enumerate(groups)
            for place, row in enumerate(rows)
        ]
        self.groups += len(groups)
        self._size = max(self._size, *map(len, groups))
        self._rewards |= dict.fromkeys(_rewards(groups[0][0]))

    def description(self) -> dict[str, Any]:
        return {
            "group_size": self._size,
            "rewards": list(self._rewards),
            "steps": sorted(self.steps),
            "rows": sum(map(len, self.steps.values())),
        }

    def columns(self) -> dict[str, list[Any]]:
        rows = [row for step in sorted(self.steps) for row in self.steps[step]]
        listed = {name: [row[name] for row in rows] for name in rows[0] if name not in ("task", "question")}
        return listed | _numbered(rows, "task") | _numbered(rows, "question")


def _numbered(rows: Sequence[Row], name: str) -> dict[str, list[Any]]:
    """A column of words as their places in the list of all that occur."""
    words = sorted({row[name] for row in rows})
    places = {word: place for place, word in enumerate(words)}
    return {name: [places[row[name]] for row in rows], f"{name}s": words}


def _figures(step: int, group: int, place: int, row: Row) -> dict[str, Any]:
    right, terminated = is_right(_rewards(row)), row.get("terminated")
    return {
        "step": step,
        "group": group,
        "place": place,
        "right": None if right is None else int(right),
        "terminated": None if terminated is None else int(terminated),
        "aha": len(row["aha_words"]),
        "length": row.get("length"),
        "reward": _rounded(row.get("reward")),
        "advantage": _rounded(row["advantage"]),
        "task": row["task"] or "",
        # By which the page finds it again at other steps and in other runs; "" is known of no question.
        "question": row.get("id") or "",
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)


class _Pictures:
    """Pictures as small files, each once however often it is asked about, while there is room."""

    def __init__(self, run: int, room: _Room, warnings: list[str]) -> None:
        self._run, self._room, self._warnings = run, room, warnings
        self._known: dict[bytes, str | None] = {}
        self.names: dict[tuple[int, int], str] = {}
        self.chunks: list[Chunk] = []
        self.left_out = 0

    def add(self, step: int, images: Sequence[bytes | None]) -> None:
        for group, image in enumerate(images):
            if image is None:
                continue
            name = self._named(image)
            if name:
                self.names[step, group] = name
            elif name is None:
                self.left_out += 1

    def _named(self, image: bytes) -> str | None:
        """Its name; None for one without room, "" for one that cannot be read."""
        digest = hashlib.sha256(image).digest()
        if digest not in self._known:
            self._known[digest] = self._stored(image)
        return self._known[digest]

    def _stored(self, image: bytes) -> str | None:
        if self._room.left < _SMALL_PICTURE:  # spares the making of thousands that would not fit
            return None
        try:
            data, kind = small_picture(image)
        except ValueError as error:
            self._warnings.append(one_line(error))
            return ""
        if not self._room.take(_page_bytes(data)):
            return None
        chunk = Chunk(f"m{self._run}-{len(self.chunks)}", data, gzip=False, mime=_MIME[kind])
        self.chunks.append(chunk)
        return chunk.name


def small_picture(image: bytes) -> tuple[bytes, str]:
    """An image file of at most `_PICTURE_SIDE` pixels a side, and its format; a small one as it is.

    Raises ValueError where it cannot be read.
    """
    picture = open_image(image)
    kind = Image.open(io.BytesIO(image)).format or ""
    if len(image) <= _SMALL_PICTURE and kind in _MIME:
        return image, kind
    picture.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
    file = io.BytesIO()
    picture.save(file, format="WEBP", quality=75)
    return file.getvalue(), "WEBP"


def _note(kept: int, written: int, left_out: int, groups: int) -> str | None:
    """What is not here, and how to have it."""
    said = []
    if kept < written:
        said.append(f"of {written:,} steps {kept:,} are here, evenly over the run")
    if left_out:
        said.append(f"{left_out:,} of {groups:,} questions are shown without their picture")
    return f"{'; '.join(said)}: a greater --max-size keeps more" if said else None


def _page_bytes(data: bytes) -> int:
    return math.ceil(len(data) / 3) * 4 + 60  # in base64, with its tags
