"""Tables of sampled completions, one parquet file a logged step, as TRL lays them out.

Knows files and plain values; knows no arrays of a device, no model and no rewards beyond their names.
"""

import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vtzero.data.example import ImageSource
from vtzero.data.images import open_image
from vtzero.terminal import one_line
from vtzero.whole_files import written_whole

FOLDER = "completions"
_STEM = "completions_"
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_COLUMNS = [
    ("step", pa.int64()),
    ("group", pa.int64()),
    ("id", pa.string()),
    ("question", pa.string()),
    ("prompt", pa.string()),
    ("image", _IMAGE),
    ("completion", pa.string()),
    ("length", pa.int64()),
    ("terminated", pa.bool_()),
    ("answer", pa.string()),
    ("task", pa.string()),
    ("aha_words", pa.list_(pa.string())),
]


@dataclass(frozen=True)
class CompletionRow:
    """One completion; `rewards` by the reward's name, NaN where there is no score, `reward` their total.

    `group` numbers the prompts of a step, `id` and `question` are the prompt's. `length` is in tokens, the
    stop token counted; `terminated` says there was one. `image` is the content of an image file; `aha_words`
    are those of `vtzero.rewards.text`, as they occur.
    """

    prompt: str
    completion: str
    rewards: Mapping[str, float]
    reward: float
    advantage: float
    length: int
    terminated: bool
    group: int = 0
    id: str = ""
    question: str = ""
    answer: str = ""
    task: str = ""
    image: bytes | None = None
    aha_words: Sequence[str] = ()


def image_file(source: ImageSource) -> bytes:
    """The content of an image's own file, as it is; a decoded image as a PNG file."""
    if isinstance(source, bytes):
        return source
    return source.read_bytes() if isinstance(source, Path) else png_bytes(open_image(source))


def png_bytes(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def write_completions(folder: str | Path, step: int, rows: Sequence[CompletionRow]) -> Path:
    """Write `folder/completions/completions_{step:05d}.parquet`, and return its path.

    Columns: step, group, id, question, prompt, image ({"bytes", "path"} as in Hugging Face datasets, or
    null), completion, length, terminated, answer, task, aha_words, `rewards/NAME` a reward and `reward`,
    their total (null where there is no score), advantage. The file appears whole or not at all; one of the
    same step is replaced.

    Raises ValueError without rows, or when rows have different rewards.
    """
    table = _table(step, rows)
    path = Path(folder) / FOLDER / f"{_STEM}{step:05d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as unfinished:
        pq.write_table(table, unfinished, compression="zstd")
    return path


def _table(step: int, rows: Sequence[CompletionRow]) -> pa.Table:
    if not rows:
        raise ValueError(f"step {step} has no completions to write")
    names = list(rows[0].rewards)
    for number, row in enumerate(rows):
        if row.rewards.keys() != rows[0].rewards.keys():
            raise ValueError(
                f"completion {number} of step {step} has rewards {list(row.rewards)}, not {names}"
            )
    rewards = [(f"rewards/{name}", pa.float64()) for name in names]
    schema = pa.schema([*_COLUMNS, *rewards, ("reward", pa.float64()), ("advantage", pa.float64())])
    return pa.Table.from_pylist([_record(step, row) for row in rows], schema=schema)


def _record(step: int, row: CompletionRow) -> dict[str, Any]:
    return {
        "step": step,
        "group": row.group,
        "id": row.id,
        "question": row.question,
        "prompt": row.prompt,
        "image": None if row.image is None else {"bytes": row.image, "path": None},
        "completion": row.completion,
        "length": row.length,
        "terminated": row.terminated,
        "answer": row.answer,
        "task": row.task,
        "aha_words": list(row.aha_words),
        **{f"rewards/{name}": _or_null(value) for name, value in row.rewards.items()},
        "reward": _or_null(row.reward),
        "advantage": float(row.advantage),
    }


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def read_completions(
    folder: str | Path, *, columns: Sequence[str] | None = None, steps: Collection[int] | None = None
) -> list[dict[str, Any]]:
    """The rows of a run folder's tables, by column name, in the order of the steps and as written.

    `columns` and `steps` read less than all; without `image` a long run fits in memory. No tables, no rows.

    Raises ValueError naming the file that is not a readable parquet file or lacks a column.
    """
    rows: list[dict[str, Any]] = []
    for step, path in sorted(completion_files(folder).items()):
        if steps is None or step in steps:
            rows += read_table(path, columns)
    return rows


def read_table(
    path: Path, columns: Sequence[str] | None = None, *, without: Collection[str] = ()
) -> list[dict[str, Any]]:
    """The rows of one table: all its columns but those `without`, or the given ones.

    Raises ValueError naming the file that is not a readable parquet file or lacks a column.
    """
    try:
        # Not pyarrow's `read_table`, which would take a parent folder such as `lr=1e-6` for one more column.
        with pq.ParquetFile(path) as file:
            known = file.schema_arrow.names
            missing = [name for name in columns or () if name not in known]
            if missing:
                raise ValueError(f"{path}: has no column {missing[0]!r}")
            wanted = [name for name in columns or known if name not in without]
            rows: list[dict[str, Any]] = file.read(columns=wanted).to_pylist()
    except pa.ArrowException as error:
        raise ValueError(f"{path}: not a readable parquet file ({one_line(error)})") from error
    return rows


def remove_completions_after(folder: str | Path, step: int) -> None:
    """Delete the tables of later steps, which a resumed run will write again."""
    for number, path in completion_files(folder).items():
        if number > step:
            path.unlink()


def completion_files(folder: str | Path) -> dict[int, Path]:
    """The tables by step; the steps of long runs have more digits than the names are padded to."""
    found = {}
    for path in (Path(folder) / FOLDER).glob(f"{_STEM}*.parquet"):
        digits = path.stem.removeprefix(_STEM)
        if digits.isdecimal():
            found[int(digits)] = path
    return found
