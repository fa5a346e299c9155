"""The drawn data set: items by number, in the columns of array/SAT and of CV-Bench, and as parquet files.

An item depends on its split, number and seed alone. Knows no prompts, no model and no reader of these files.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8
from PIL import Image

from vtzero.scenes.blank import IMAGE_SIDE
from vtzero.scenes.questions import FAMILIES, Question, draw_item
from vtzero.scenes.render import render
from vtzero.scenes.world import Draws, Scene, Split, Thing
from vtzero.whole_files import make_folder

SPLITS: tuple[Split, ...] = get_args(Split)

_DIMENSIONS = {"Count": "2D", "Relation": "2D", "Depth": "3D", "Distance": "3D"}
_ROWS_A_GROUP = 500


@dataclass(frozen=True, eq=False)
class Item:
    """A question, the scene that it is about, and the scene's picture."""

    scene: Scene
    question: Question
    picture: UInt8[np.ndarray, "side side 3"]


def scene_item(split: Split, index: int, seed: int = 0) -> Item:
    """Item `index` of a split, of the family FAMILIES[index % 4].

    Raises ValueError when there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"the drawn scenes have no split {split!r}; use one of {', '.join(SPLITS)}")
    draws = Draws(split, seed, index)
    scene, question = draw_item(draws, FAMILIES[index % len(FAMILIES)], split)
    return Item(scene, question, render(scene, IMAGE_SIDE, noise_seed=draws.below(1 << 30)))


def scene_row(split: Split, index: int, seed: int = 0) -> dict[str, Any]:
    """An item in the columns of array/SAT: one PNG picture; of the answers, the right one comes first."""
    item = scene_item(split, index, seed)
    question = item.question
    return {
        "image_bytes": [_stored(item.picture)],
        "question": question.text,
        "answers": [question.answer, *(o for o in question.options if o != question.answer)],
        "question_type": question.task,
        "correct_answer": question.answer,
    }


def cv_bench_row(split: Split, index: int, seed: int = 0) -> dict[str, Any]:
    """An item in CV-Bench's columns.

    `bbox` holds left, top, right and bottom in pixels of each object that the question speaks of, hidden
    parts included.
    """
    item = scene_item(split, index, seed)
    question, dimension = item.question, _DIMENSIONS[item.question.task]
    letters = [f"({chr(ord('A') + place)})" for place in range(len(question.options))]
    listed = "\n".join(f"{letter} {o}" for letter, o in zip(letters, question.options, strict=True))
    return {
        "idx": index,
        "type": dimension,
        "task": question.task,
        "image": _stored(item.picture),
        "question": question.text,
        "choices": list(question.options),
        "answer": letters[question.options.index(question.answer)],
        "prompt": f"{question.text} Select from the following choices.\n{listed}",
        "filename": f"img/{dimension}/{question.task.lower()}/scenes_{index}.png",
        "source": "vtzero-scenes",
        "source_dataset": f"vtzero scenes, {split}, seed {seed}",
        "source_filename": f"scenes-{split}-{index}",
        "target_class": _target_class(question),
        "target_size": [IMAGE_SIDE, IMAGE_SIDE],
        "bbox": [_bounding_box(thing) for thing in question.subjects],
    }


def write_scenes(folder: Path, *, train: int = 10_000, test: int = 2_000, seed: int = 0) -> None:
    """Write `SAT_train.parquet` and `cv_bench_test.parquet`, with `train` and `test` items.

    The same versions of Python's packages write the same bytes; any versions write the same questions and
    pixels. `datasets.load_dataset` decodes the pictures, as it does those of the published files.

    Raises ValueError when a file would be empty, and NotADirectoryError where there can be no such folder.
    """
    for name, count in (("train", train), ("test", test)):
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}: a file without rows cannot be read")
    make_folder(folder)
    _write(folder / "SAT_train.parquet", _SAT, train, lambda index: scene_row("train", index, seed))
    _write(folder / "cv_bench_test.parquet", _CV_BENCH, test, lambda index: cv_bench_row("test", index, seed))


def _write(path: Path, schema: pa.Schema, count: int, row: Callable[[int], dict[str, Any]]) -> None:
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, count, _ROWS_A_GROUP):
            rows = [row(index) for index in range(start, min(start + _ROWS_A_GROUP, count))]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _stored(picture: UInt8[np.ndarray, "side side 3"]) -> dict[str, Any]:
    """A picture as Hugging Face's Image feature stores it."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def _target_class(question: Question) -> str | None:
    """What is counted; CV-Bench's other families have no single class."""
    if question.task != "Count":
        return None
    return question.text.removeprefix("How many ").removesuffix("s are in the image?")


def _bounding_box(thing: Thing) -> list[float]:
    """Of the pixels that an object alone on the floor changes."""
    alone, nothing = (render(Scene(things), IMAGE_SIDE) for things in ((thing,), ()))
    rows, columns = np.nonzero((alone != nothing).any(axis=-1))
    return [float(edge) for edge in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


def _schema(columns: dict[str, pa.DataType], images: dict[str, Any]) -> pa.Schema:
    features = json.dumps({"info": {"features": images}})
    return pa.schema(columns, metadata={"huggingface": features})


_STORED = pa.struct({"bytes": pa.binary(), "path": pa.string()})
_SAT = _schema(
    {
        "image_bytes": pa.list_(_STORED),
        "question": pa.string(),
        "answers": pa.list_(pa.string()),
        "question_type": pa.string(),
        "correct_answer": pa.string(),
    },
    images={"image_bytes": [{"_type": "Image"}]},
)
_CV_BENCH = _schema(
    {
        "idx": pa.int32(),
        "type": pa.string(),
        "task": pa.string(),
        "image": _STORED,
        "question": pa.string(),
        "choices": pa.list_(pa.string()),
        "answer": pa.string(),
        "prompt": pa.string(),
        "filename": pa.string(),
        "source": pa.string(),
        "source_dataset": pa.string(),
        "source_filename": pa.string(),
        "target_class": pa.string(),
        "target_size": pa.list_(pa.int64()),
        "bbox": pa.list_(pa.list_(pa.float64())),
    },
    images={"image": {"_type": "Image"}},
)
