"""The drawn data set in published columns: right answers, whole pictures, files that the loaders read."""

import io
from collections import Counter

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vtzero.data.images import open_image
from vtzero.data.sources import open_source
from vtzero.scenes.blank import IMAGE_SIDE
from vtzero.scenes.dataset import cv_bench_row, scene_item, scene_row, write_scenes
from vtzero.scenes.questions import FAMILIES
from vtzero.scenes.render import render
from vtzero.scenes.world import Scene

SAT_COLUMNS = ["image_bytes", "question", "answers", "question_type", "correct_answer"]
CV_BENCH_COLUMNS = [
    *("idx", "type", "task", "image", "question", "choices", "answer", "prompt", "filename", "source"),
    *("source_dataset", "source_filename", "target_class", "target_size", "bbox"),
]
TRAIN, TEST = 520, 80  # more than one row group of the first


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("scenes") / "new" / "folder"
    write_scenes(path, train=TRAIN, test=TEST, seed=5)
    return path


def pixels(stored):
    return np.asarray(Image.open(io.BytesIO(stored["bytes"])))


# --- items ---


def test_families_take_turns():
    assert [scene_item("train", index).question.task for index in range(8)] == list(FAMILIES) * 2


def test_items_depend_on_split_number_and_seed_alone():
    assert scene_item("test", 41, 3).scene == scene_item("test", 41, 3).scene
    np.testing.assert_array_equal(scene_item("test", 41, 3).picture, scene_item("test", 41, 3).picture)
    others = [scene_item("test", 41, 3), scene_item("test", 45, 3), scene_item("test", 41, 4)]
    others.append(scene_item("train", 41, 3))
    assert len({item.scene for item in others}) == 4


def test_items_are_of_their_split():
    for split in ("train", "test"):
        assert {scene_item(split, index).scene.split for index in range(24)} == {split}


def test_pictures_show_the_scene_with_noise_of_their_own():
    differences = []
    for index in range(20):
        item = scene_item("train", index)
        expected = render(item.scene, IMAGE_SIDE, noise_seed=0).astype(int)
        differences.append(np.abs(item.picture - expected))
    assert item.picture.shape == (84, 84, 3)
    assert np.max(differences) <= 8
    assert len({difference.tobytes() for difference in differences}) == 20


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match="no split 'val'; use one of train, test"):
        scene_item("val", 0)


# --- rows ---


@pytest.mark.parametrize("index", range(12))
def test_sat_rows(index):
    item, row = scene_item("train", index, 2), scene_row("train", index, 2)
    assert list(row) == SAT_COLUMNS
    (image,) = row["image_bytes"]
    np.testing.assert_array_equal(pixels(image), item.picture)
    assert image["bytes"].startswith(b"\x89PNG")
    assert row["answers"][0] == row["correct_answer"] == item.question.answer
    assert sorted(row["answers"]) == sorted(item.question.options)
    assert (row["question"], row["question_type"]) == (item.question.text, item.question.task)


@pytest.mark.parametrize("index", range(12))
def test_cv_bench_rows(index):
    item, row = scene_item("test", index, 2), cv_bench_row("test", index, 2)
    question = item.question
    assert list(row) == CV_BENCH_COLUMNS
    np.testing.assert_array_equal(pixels(row["image"]), item.picture)
    assert row["choices"] == list(question.options)
    assert row["choices"]["ABC".index(row["answer"].strip("()"))] == question.answer
    assert row["type"] == {"Count": "2D", "Relation": "2D", "Depth": "3D", "Distance": "3D"}[row["task"]]
    assert row["target_size"] == [84, 84]
    assert (row["idx"], row["source"]) == (index, "vtzero-scenes")


def test_cv_bench_prompts_list_lettered_choices():
    row = next(row for row in (cv_bench_row("test", 4 * n) for n in range(9)) if row["choices"][0] == "0")
    first, second, third = row["choices"]
    listed = f"\n(A) {first}\n(B) {second}\n(C) {third}"
    assert row["prompt"] == f"{row['question']} Select from the following choices.{listed}"


def test_target_class_is_what_is_counted():
    for index in range(0, 40, 4):
        row = cv_bench_row("test", index)
        assert row["question"] == f"How many {row['target_class']}s are in the image?"
        assert len(row["bbox"]) == int(row["choices"]["(A)(B)(C)".index(row["answer"]) // 3])
    assert cv_bench_row("test", 1)["target_class"] is None


def test_boxes_hold_their_object():
    for index in range(24):
        item, row = scene_item("test", index), cv_bench_row("test", index)
        for thing, box in zip(item.question.subjects, row["bbox"], strict=True):
            left, top, right, bottom = map(int, box)
            changed = render(Scene((thing,)), IMAGE_SIDE) != render(Scene(()), IMAGE_SIDE)
            assert changed[top:bottom, left:right].sum() == changed.sum()
            x, foot, _ = thing.picture
            assert left < 84 * x < right
            assert top < 84 * foot < bottom + 1


# --- files ---


def test_the_sat_loader_reads_the_file(folder):
    source = open_source(folder / "SAT_train.parquet")
    assert len(source) == TRAIN
    for index in (0, 1, 2, 3, 499, 500, TRAIN - 1):
        item, example = scene_item("train", index, 5), source[index]
        assert (example.question, example.answer) == (item.question.text, item.question.answer)
        assert sorted(example.options) == sorted(item.question.options)
        assert example.task == item.question.task
        np.testing.assert_array_equal(np.asarray(open_image(example.images[0])), item.picture)


def test_the_sat_loader_puts_the_right_option_anywhere(folder):
    source = open_source(folder / "SAT_train.parquet")
    places = Counter(len(e.options) * 10 + e.options.index(e.answer) for e in source)
    for options, rows in ((2, 3 * TRAIN // 4), (3, TRAIN // 4)):
        share = 1 / options
        allowed = 4.5 * (rows * share * (1 - share)) ** 0.5
        assert all(abs(places[options * 10 + n] - rows * share) < allowed for n in range(options))


def test_the_cv_bench_loader_reads_the_file(folder):
    source = open_source(folder / "cv_bench_test.parquet")
    assert len(source) == TEST
    assert Counter(example.task for example in source) == dict.fromkeys(FAMILIES, TEST // 4)
    for index in range(0, TEST, 7):
        item, example = scene_item("test", index, 5), source[index]
        assert (example.id, example.answer) == (str(index), item.question.answer)
        assert example.options == item.question.options
        np.testing.assert_array_equal(np.asarray(open_image(example.images[0])), item.picture)


def test_files_have_the_published_columns(folder):
    assert pq.read_schema(folder / "SAT_train.parquet").names == SAT_COLUMNS
    assert pq.read_schema(folder / "cv_bench_test.parquet").names == CV_BENCH_COLUMNS


def test_files_are_the_same_when_written_again(tmp_path):
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    for folder, seed in ((first, 5), (second, 5), (other, 6)):
        write_scenes(folder, train=9, test=6, seed=seed)
    assert sorted(path.name for path in first.iterdir()) == ["SAT_train.parquet", "cv_bench_test.parquet"]
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()
        assert path.read_bytes() != (other / path.name).read_bytes()


def test_hugging_face_datasets_decodes_the_pictures(folder, tmp_path):
    sat, bench = (
        datasets.Dataset.from_parquet(str(folder / name), cache_dir=str(tmp_path))
        for name in ("SAT_train.parquet", "cv_bench_test.parquet")
    )
    np.testing.assert_array_equal(np.asarray(sat[9]["image_bytes"][0]), scene_item("train", 9, 5).picture)
    np.testing.assert_array_equal(np.asarray(bench[9]["image"]), scene_item("test", 9, 5).picture)
    assert bench[9]["target_size"] == [84, 84]


@pytest.mark.parametrize("counts", [{"train": 0}, {"test": -1}])
def test_empty_files_are_refused(counts, tmp_path):
    with pytest.raises(ValueError, match=f"{next(iter(counts))} must be at least 1"):
        write_scenes(tmp_path, **({"train": 4, "test": 4} | counts))
    assert list(tmp_path.iterdir()) == []
