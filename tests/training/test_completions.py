"""Tables of completions: every value comes back, files appear whole, and pandas' and TRL's layout holds."""

import io
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vtzero.training.completions import (
    CompletionRow,
    image_file,
    png_bytes,
    read_completions,
    remove_completions_after,
    write_completions,
)


def row(number: int = 0, **changes: object) -> CompletionRow:
    values = {
        "prompt": f"question {number}?",
        "completion": f"<think>…</think> {number}\n",
        "rewards": {"accuracy": 1.0, "format": 0.5},
        "reward": 1.5,
        "advantage": -0.25,
        "length": 7,
        "terminated": True,
        "group": number,
        "id": f"row-{number}",
        "question": f"{number}?",
        "answer": str(number),
        "task": "count",
    }
    return CompletionRow(**(values | changes))  # type: ignore[arg-type]


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8))


def test_every_value_comes_back(tmp_path: Path) -> None:
    image = png_bytes(picture(0))
    write_completions(
        tmp_path,
        3,
        [
            row(1, image=image, aha_words=["wait", "yet", "wait"]),
            row(2, rewards={"accuracy": math.nan, "format": 0.0}, reward=math.nan),
        ],
    )
    common = {"step": 3, "task": "count", "advantage": -0.25, "length": 7, "terminated": True}
    assert read_completions(tmp_path) == [
        common
        | {
            "group": 1,
            "id": "row-1",
            "question": "1?",
            "reward": 1.5,
            "prompt": "question 1?",
            "image": {"bytes": image, "path": None},
            "completion": "<think>…</think> 1\n",
            "answer": "1",
            "aha_words": ["wait", "yet", "wait"],
            "rewards/accuracy": 1.0,
            "rewards/format": 0.5,
        },
        common
        | {
            "group": 2,
            "id": "row-2",
            "question": "2?",
            "reward": None,
            "prompt": "question 2?",
            "image": None,
            "completion": "<think>…</think> 2\n",
            "answer": "2",
            "aha_words": [],
            "rewards/accuracy": None,
            "rewards/format": 0.0,
        },
    ]


def test_columns_have_the_same_order_and_types_whatever_the_rows(tmp_path: Path) -> None:
    paths = [
        write_completions(tmp_path, step, [row(image=image)]) for step, image in enumerate([None, b"png"])
    ]
    first, second = (pq.read_schema(path) for path in paths)
    assert first == second
    assert first.names == [
        "step",
        "group",
        "id",
        "question",
        "prompt",
        "image",
        "completion",
        "length",
        "terminated",
        "answer",
        "task",
        "aha_words",
        "rewards/accuracy",
        "rewards/format",
        "reward",
        "advantage",
    ]


def test_the_file_is_named_as_trl_names_it(tmp_path: Path) -> None:
    assert write_completions(tmp_path, 7, [row()]) == tmp_path / "completions" / "completions_00007.parquet"


def test_an_image_is_a_png_without_loss() -> None:
    image = Image.open(io.BytesIO(png_bytes(picture(1))))
    assert image.format == "PNG"
    assert np.array_equal(np.asarray(image), np.asarray(picture(1)))


def test_an_images_own_file_is_kept_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    picture(2).save(path, quality=60)
    assert image_file(path) == path.read_bytes()
    assert image_file(path.read_bytes()) == path.read_bytes()
    assert image_file(picture(2)) == png_bytes(picture(2))


def test_steps_are_read_in_order_and_as_many_as_asked_for(tmp_path: Path) -> None:
    for step in (100_000, 9, 99_999):
        write_completions(tmp_path, step, [row(step), row(step + 1)])
    everything = read_completions(tmp_path, columns=["step", "answer"])
    assert everything[:3] == [
        {"step": 9, "answer": "9"},
        {"step": 9, "answer": "10"},
        {"step": 99_999, "answer": "99999"},
    ]
    assert [row["step"] for row in everything] == [9, 9, 99_999, 99_999, 100_000, 100_000]
    assert [row["answer"] for row in read_completions(tmp_path, steps=[9])] == ["9", "10"]


def test_a_parent_folder_adds_no_column(tmp_path: Path) -> None:
    write_completions(tmp_path / "lr=0.1", 1, [row()])
    assert "lr" not in read_completions(tmp_path / "lr=0.1")[0]


def test_writing_a_step_again_replaces_it(tmp_path: Path) -> None:
    for number in (1, 2):
        path = write_completions(tmp_path, 5, [row(number)])
    assert [row["answer"] for row in read_completions(tmp_path)] == ["2"]
    assert list(path.parent.iterdir()) == [path]


def test_what_an_interruption_left_is_not_read(tmp_path: Path) -> None:
    path = write_completions(tmp_path, 1, [row()])
    (path.parent / ".completions_00002.parquet.partial").write_bytes(path.read_bytes()[:40])
    assert [row["step"] for row in read_completions(tmp_path)] == [1]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = write_completions(tmp_path, 1, [row(1)])
    with pytest.raises(Exception, match="int"):
        write_completions(tmp_path, 1, [row(2), row(3, answer=3)])
    assert [row["answer"] for row in read_completions(tmp_path)] == ["1"]
    assert list(path.parent.iterdir()) == [path]


def test_later_steps_can_be_removed(tmp_path: Path) -> None:
    for step in (1, 2, 100_000):
        write_completions(tmp_path, step, [row()])
    remove_completions_after(tmp_path, 1)
    assert [row["step"] for row in read_completions(tmp_path)] == [1]


def test_no_tables_no_rows(tmp_path: Path) -> None:
    remove_completions_after(tmp_path, 0)
    assert read_completions(tmp_path) == []


def test_rows_must_be_there_and_agree(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="step 4 has no completions to write"):
        write_completions(tmp_path, 4, [])
    with pytest.raises(ValueError, match="completion 1 of step 4 has rewards"):
        write_completions(tmp_path, 4, [row(), row(rewards={"accuracy": 1.0})])


def test_a_damaged_table_or_a_missing_column_is_named(tmp_path: Path) -> None:
    path = write_completions(tmp_path, 1, [row()])
    with pytest.raises(ValueError, match=r"completions_00001\.parquet: has no column 'rewards/length'"):
        read_completions(tmp_path, columns=["step", "rewards/length"])
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"completions_00001\.parquet: not a readable parquet file"):
        read_completions(tmp_path)
