"""Files of every known schema become examples; bad rows become reasons; bad files become one-line errors."""

import io
import json
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vtzero.data import sources
from vtzero.data.example import Example, Rejected
from vtzero.data.images import open_image
from vtzero.data.sources import SOURCES, open_source, register_source


def png(value, size=(6, 4)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_jsonl(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def write_parquet(path, rows, **options):
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def red(source):
    return open_image(source).getpixel((0, 0))[0]


# --- a person's own data ---


def test_own_jsonl_with_relative_images(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(png(11))
    row = {"image": "pictures/a.png", "question": "Where?", "answer": "left", "options": ["right", "left"]}
    source = open_source(write_jsonl(tmp_path / "mine.jsonl", [row | {"level": 3}]))
    assert len(source) == 1
    example = source[0]
    assert (example.question, example.answer, example.options) == ("Where?", "left", ("right", "left"))
    assert example.id == "mine.jsonl:1"
    assert red(example.images[0]) == 11
    assert example.columns["level"] == 3


def test_own_jsonl_with_absolute_and_several_images(tmp_path):
    paths = [tmp_path / f"{name}.png" for name in "ab"]
    for value, path in enumerate(paths, 40):
        path.write_bytes(png(value))
    row = {"images": [str(path) for path in paths], "question": "q", "answer": 3, "id": "x7", "task": "count"}
    example = open_source(write_jsonl(tmp_path / "mine.jsonl", [row]))[0]
    assert [red(image) for image in example.images] == [40, 41]
    assert (example.id, example.answer, example.task) == ("x7", "3", "count")


@pytest.mark.parametrize("struct", [False, True])
def test_own_parquet_with_bytes(tmp_path, struct):
    images = [{"bytes": png(value), "path": None} if struct else png(value) for value in (5, 6, 7)]
    rows = [{"image": image, "question": f"q{i}", "answer": f"a{i}"} for i, image in enumerate(images)]
    source = open_source(write_parquet(tmp_path / "mine.parquet", rows))
    assert [red(example.images[0]) for example in source] == [5, 6, 7]
    assert [example.id for example in source] == ["mine.parquet:0", "mine.parquet:1", "mine.parquet:2"]
    assert "image" not in source[0].columns


def test_questions_without_images(tmp_path):
    source = open_source(write_jsonl(tmp_path / "t.jsonl", [{"question": "2 + 2?", "answer": "4"}]))
    assert source[0].images == ()


@pytest.mark.parametrize(("column", "picture"), [("image", "none.png"), ("images", [])])
def test_a_row_that_leaves_its_picture_out_is_set_aside(column, picture, tmp_path):
    rows = [{column: picture, "question": "Red?", "answer": "yes"}, {"question": "Red?", "answer": "yes"}]
    blind = open_source(write_jsonl(tmp_path / "mine.jsonl", rows))[1]
    assert isinstance(blind, Rejected)
    assert f"{column} is missing" in blind.reason


def test_rows_of_every_row_group(tmp_path):
    rows = [{"question": f"q{i}", "answer": str(i), "image": png(i)} for i in range(23)]
    source = open_source(write_parquet(tmp_path / "m.parquet", rows, row_group_size=5))
    order = np.random.default_rng(0).permutation(23)
    assert [source[int(i)].answer for i in order] == [str(i) for i in order]
    assert source[-1].answer == "22"
    with pytest.raises(IndexError):
        source[23]


def test_threads_read_the_same_rows(tmp_path):
    rows = [{"question": f"q{i}", "answer": str(i), "image": png(i)} for i in range(40)]
    source = open_source(write_parquet(tmp_path / "m.parquet", rows, row_group_size=3))
    answers = [None] * 40

    def read(start):
        for index in range(start, 40, 4):
            answers[index] = source[index].answer

    threads = [threading.Thread(target=read, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [str(i) for i in range(40)]


# --- lines of a file (rows that cannot be used: test_bad_rows.py) ---


def test_line_numbers_count_blank_lines_and_a_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "mine.jsonl"
    good = json.dumps({"question": "q", "answer": "a"})
    path.write_bytes(b"\xef\xbb\xbf" + f"{good}\r\n\r\n\r\nbroken\r\n{good}".encode())
    source = open_source(path)
    assert [row.id for row in source] == ["mine.jsonl:1", "mine.jsonl:4", "mine.jsonl:5"]
    assert [isinstance(row, Rejected) for row in source] == [False, True, False]


# --- published data sets ---


def sat_row(index, *, images=1, **changes):
    row = {
        "image_bytes": [{"bytes": png(index * 3 + i), "path": None} for i in range(images)],
        "question": f"Where is cube {index}?",
        "answers": ["left", "right", "above, nearly"],
        "question_type": "other",
        "correct_answer": "left",
    }
    return row | changes


def test_sat_shuffles_options_by_row_and_seed(tmp_path):
    path = write_parquet(tmp_path / "SAT.parquet", [sat_row(i) for i in range(40)])
    source = open_source(path)
    example = source[5]
    assert (example.answer, example.task, example.question) == ("left", "other", "Where is cube 5?")
    assert red(example.images[0]) == 15
    orders = [row.options for row in source]
    assert {frozenset(options) for options in orders} == {frozenset(["left", "right", "above, nearly"])}
    assert {options.index("left") for options in orders} == {0, 1, 2}
    assert orders == [row.options for row in open_source(path)]
    assert orders != [row.options for row in open_source(path, shuffle_options_seed=1)]


def test_sat_with_plain_bytes_and_several_images(tmp_path):
    row = sat_row(0, image_bytes=[png(8), png(9)])
    assert [red(image) for image in open_source(write_parquet(tmp_path / "s.parquet", [row]))[0].images] == [
        8,
        9,
    ]


def cv_bench_row(answer="(B)", **changes):
    row = {
        "idx": 4,
        "type": "2D",
        "task": "Relation",
        "image": {"bytes": png(77), "path": None},
        "question": "Where is the cat?",
        "choices": ["above", "below"],
        "answer": answer,
        "prompt": "Where is the cat? Select from the following choices.\n(A) above\n(B) below",
        "source": "COCO",
    }
    return row | changes


def test_cv_bench(tmp_path):
    example = open_source(write_parquet(tmp_path / "test.parquet", [cv_bench_row()]))[0]
    assert (example.id, example.task, example.options) == ("4", "Relation", ("above", "below"))
    assert example.answer == "below"
    assert red(example.images[0]) == 77
    assert example.columns["answer"] == "(B)"
    assert example.columns["source"] == "COCO"
    assert example.columns["prompt"].endswith("(B) below")


def test_blink(tmp_path):
    row = {
        "idx": "val_Relative_Depth_1",
        "question": "Which point is closer?",
        "sub_task": "Relative_Depth",
        **{f"image_{i}": {"bytes": png(i), "path": None} if i < 3 else None for i in range(1, 5)},
        "choices": ["A is closer", "B is closer"],
        "answer": "(A)",
        "prompt": "Which point is closer? (A) A is closer (B) B is closer",
    }
    example = open_source(write_parquet(tmp_path / "val.parquet", [row, row | {"answer": "hidden"}]))[0]
    assert (example.id, example.task, example.answer) == (
        "val_Relative_Depth_1",
        "Relative_Depth",
        "A is closer",
    )
    assert [red(image) for image in example.images] == [1, 2]
    assert not any(name.startswith("image") for name in example.columns)


@pytest.mark.parametrize(
    "solution", ["<answer> 3 </answer>", "<think>\n1, 2\n</think>\n<answer>\n3</answer>", "3"]
)
def test_problem_and_solution(tmp_path, solution):
    row = {"image": {"bytes": png(1), "path": "x.png"}, "problem": "How many items?", "solution": solution}
    example = open_source(write_parquet(tmp_path / "clevr.parquet", [row]))[0]
    assert (example.question, example.answer) == ("How many items?", "3")


def test_r1v_test_file(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "s.png").write_bytes(png(9))
    row = {"image_path": "./images/s.png", "question": "How many?", "ground_truth": 4}
    example = open_source(write_jsonl(tmp_path / "prompts.jsonl", [row]))[0]
    assert (example.answer, red(example.images[0])) == ("4", 9)


# --- opening ---


def test_limit_keeps_the_first_rows(tmp_path):
    rows = [{"question": f"q{i}", "answer": str(i)} for i in range(5)]
    path = write_jsonl(tmp_path / "m.jsonl", rows)
    assert [row.answer for row in open_source(path, limit=2)] == ["0", "1"]
    assert len(open_source(path, limit=50)) == 5
    with pytest.raises(ValueError, match="limit must be at least 1"):
        open_source(path, limit=0)


def test_several_files_follow_each_other(tmp_path):
    for number in range(3):
        rows = [{"question": "q", "answer": f"{number}{i}"} for i in range(number + 1)]
        write_parquet(tmp_path / f"part-{number}.parquet", rows)
    source = open_source(str(tmp_path / "part-*.parquet"))
    assert [row.answer for row in source] == ["00", "10", "11", "20", "21", "22"]
    with pytest.raises(FileNotFoundError, match="no file matches"):
        open_source(str(tmp_path / "other-*.parquet"))


def test_missing_files_and_unknown_names():
    with pytest.raises(FileNotFoundError, match=r"gone\.jsonl: no such file"):
        open_source("gone.jsonl")
    with pytest.raises(ValueError, match=r"not a \.json, \.jsonl or \.parquet file, nor a known source"):
        open_source("no_such_name")


def test_a_damaged_row_group_rejects_its_rows_only(tmp_path):
    rows = [{"question": f"q{i}" * 50, "answer": str(i)} for i in range(8)]
    path = write_parquet(
        tmp_path / "m.parquet", rows, row_group_size=4, compression="zstd", use_dictionary=False
    )
    group = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    start = group.data_page_offset
    content[start : start + group.total_compressed_size] = b"\xff" * group.total_compressed_size
    path.write_bytes(content)
    source = open_source(path)
    assert [row.answer for row in (source[i] for i in range(4))] == ["0", "1", "2", "3"]
    assert all("cannot be read" in source[i].reason for i in range(4, 8))


def test_registered_sources(monkeypatch):
    monkeypatch.setattr(sources, "SOURCES", dict(SOURCES))

    @register_source("numbers_for_test")
    def open_split(split):
        return [Example(f"{split}-{i}", "q", str(i)) for i in range(4)]

    assert [row.id for row in open_source("numbers_for_test", split="val", limit=2)] == ["val-0", "val-1"]
    with pytest.raises(ValueError, match="registered twice"):
        register_source("numbers_for_test")(open_split)
    with pytest.raises(ValueError, match="numbers_for_test"):
        open_source("no_such_name")
