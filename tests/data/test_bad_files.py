"""A file that cannot be used is one line that names it; bad rows of parquet and known sets are set aside."""

import datetime
import decimal
import io
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures.data_files import png
from fixtures.fuzzing import time_limit

from vtzero.data.example import Example, Rejected
from vtzero.data.sources import open_source
from vtzero.evaluation.benchmarks import open_benchmark

GOOD = {"question": "Where is it?", "answer": "left"}
LINE = json.dumps(GOOD).encode()


def parquet(columns, **options):
    buffer = io.BytesIO()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), buffer, **options)
    return buffer.getvalue()


SOUND = parquet({"question": ["Where is it?"] * 300, "answer": ["left", "right", "up"] * 100})
TWO_ANSWERS = pa.Table.from_arrays(
    [pa.array(["q"]), pa.array(["a"]), pa.array(["b"])], ["question", "answer", "answer"]
)

# The file's ending, what it holds, and words of the reason.
UNUSABLE = {
    "jsonl of nothing": (".jsonl", b"", "holds no rows"),
    "jsonl of blank lines": (".jsonl", b"\n \r\n\t\n", "holds no rows"),
    "jsonl of text": (
        ".jsonl",
        b"question,answer\nWhere?,left\n",
        "holds no row that can be read; line 1 is not JSON",
    ),
    "jsonl of a picture": (".jsonl", png(3), "holds no row that can be read; line 1 is not JSON"),
    "jsonl of zeros": (".jsonl", bytes(10_000), "line 1 is not JSON"),
    "jsonl in UTF-16": (".jsonl", LINE.decode().encode("utf-16"), "line 1 is not JSON"),
    "jsonl of one list": (".jsonl", b"[" + LINE + b"]", "line 1 is not a JSON object"),
    "jsonl with other columns": (
        ".jsonl",
        b'{"prompt": "q", "reply": "a"}',
        "its columns are prompt, reply, but",
    ),
    "jsonl without questions": (".jsonl", b'{"answer": "a"}', "its columns are answer, but"),
    "jsonl with columns of odd names": (".jsonl", b'{"a\\nb": 1, "\\u001b[31m": 2}', r"\\x1b"),
    "jsonl with ten thousand columns": (
        ".jsonl",
        json.dumps(dict.fromkeys(map(str, range(10_000)))).encode(),
        " … ",
    ),
    "jsonl with a misspelt column": (
        ".jsonl",
        b'{"question": "q", "answer": "a", "imgae": "a.png"}',
        "but imgae",
    ),
    "jsonl with image and images": (
        ".jsonl",
        b'{"question": "q", "answer": "a", "image": 1, "images": 2}',
        "keep one of them",
    ),
    "json of nothing": (".json", b"", "not JSON"),
    "json cut short": (".json", b"[" + LINE + b", {", "not JSON"),
    "json of one object": (".json", LINE, "not a JSON list of objects"),
    "json of a number": (".json", b"7", "not a JSON list of objects"),
    "json of no rows": (".json", b"[]", "holds no rows"),
    "json of numbers": (".json", b"[1, 2]", "entry 0 is not a JSON object"),
    "json of brackets": (".json", b"[" * 100_000, "not JSON"),
    "json that is no UTF-8": (".json", b'[{"question": "\xff"}]', "not JSON"),
    "parquet of nothing": (".parquet", b"", "not a readable parquet file"),
    "parquet of text": (".parquet", LINE, "not a readable parquet file"),
    "parquet cut in half": (".parquet", SOUND[: len(SOUND) // 2], "not a readable parquet file"),
    "parquet without its start": (".parquet", SOUND[len(SOUND) // 2 :], "."),
    "parquet whose end is damaged": (".parquet", SOUND[:-60] + bytes(52) + SOUND[-8:], "."),
    "parquet of no rows": (
        ".parquet",
        parquet({"question": pa.array([], pa.string()), "answer": pa.array([], pa.string())}),
        "holds no rows",
    ),
    "parquet of no columns": (".parquet", parquet(pa.table({})), "holds no rows"),
    "parquet without answers": (".parquet", parquet({"question": ["q"]}), "its columns are question, but"),
    "parquet with two answers": (".parquet", parquet(TWO_ANSWERS), "two columns 'answer'"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_unusable_files_are_one_line_that_names_them(kind, tmp_path):
    ending, contents, reason = UNUSABLE[kind]
    path = tmp_path / f"mine{ending}"
    path.write_bytes(contents)
    with time_limit(20), pytest.raises(ValueError, match=rf"mine\{ending}: .*{reason}") as caught:
        list(open_source(path))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2000


NO_FILES = {
    "nothing": (lambda path: None, "no such file"),
    "a folder": (lambda path: path.mkdir(), "no file, but a folder"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "no such file"),
    "a pipe": (os.mkfifo, "no file, but a folder, a pipe"),
    "a device without end": (lambda path: path.symlink_to("/dev/zero"), "or a device"),
    "a file that fails to be read": (lambda path: path.symlink_to("/proc/self/mem"), "cannot be read"),
}


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_one_line_that_names_it(kind, ending, tmp_path):
    make, reason = NO_FILES[kind]
    path = tmp_path / f"mine{ending}"
    make(path)
    with time_limit(20), pytest.raises((ValueError, FileNotFoundError), match=rf"mine\{ending}: .*"):
        open_source(path)
    if ending != ".parquet":
        with pytest.raises((ValueError, FileNotFoundError), match=reason):
            open_source(path)


@pytest.mark.parametrize("name", ["a" * 5000 + ".jsonl", "a\0b.jsonl", "\ud800.jsonl"])
def test_names_that_no_file_can_have(name):
    with pytest.raises((ValueError, FileNotFoundError), match="no such file"):
        open_source(name)


# --- rows of parquet files: kind -> (columns beside a sound one, words of the reason for the first row) ---

BAD_TEXT = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), pa.py_buffer(b"\xff\xfeup")]
)
PARQUET_ROWS = {
    "questions that are lists": (
        {"question": [["q"], ["q"]]},
        "question is neither text nor a number, but a list",
    ),
    "questions that are bytes": (
        {"question": [b"q", b"q"]},
        "question is neither text nor a number, but bytes",
    ),
    "questions that are all null": ({"question": pa.nulls(2)}, "question is missing"),
    "questions that are no UTF-8": ({"question": BAD_TEXT}, "cannot be read|question"),
    "answers that are dates": ({"answer": [datetime.datetime(2026, 1, 1)] * 2}, "answer is neither"),
    "answers that are dates of no calendar": (
        {"answer": pa.array([2**62] * 2, pa.timestamp("us"))},
        "cannot be read|neither",
    ),
    "answers that are decimals": ({"answer": [decimal.Decimal("1.5")] * 2}, "answer is neither"),
    "answers that are true": ({"answer": [True, True]}, "answer is neither"),
    "answers that are not numbers": ({"answer": [float("nan"), 1.0]}, "answer is missing"),
    "answers that are maps": (
        {"answer": pa.array([[("a", "b")]] * 2, pa.map_(pa.string(), pa.string()))},
        "answer is neither",
    ),
    "options that are text": ({"options": ["left", "left"]}, "options is not a list"),
    "options within options": ({"options": [[["left"]]] * 2}, "options is neither"),
    "options with a null": ({"options": [["left", None]] * 2}, "options is missing"),
    "images that are numbers": ({"image": [1, 2]}, "image is neither a path nor the bytes"),
    "images that are null": ({"image": pa.array([None, png(1)])}, "image is missing"),
    "images without bytes": ({"image": [{"bytes": None, "path": None}] * 2}, "image is missing"),
    "images of empty bytes": ({"image": [{"bytes": b"", "path": "gone.png"}] * 2}, "there is no file"),
    "images outside": ({"image": [{"bytes": None, "path": "/etc/hostname"}] * 2}, "lies outside"),
    "images within images": ({"images": [[[png(1)]]] * 2}, "images is neither"),
    "images with a null": ({"images": [[png(1), None]] * 2}, "images is missing"),
    "lists of images that are null": ({"images": pa.array([None, [png(1)]])}, "images is not a list"),
    "tasks that are lists": ({"task": [["a"], ["a"]]}, "task is neither"),
}


@pytest.mark.parametrize("kind", PARQUET_ROWS)
def test_bad_rows_of_parquet_files_are_set_aside(kind, tmp_path):
    columns, reason = PARQUET_ROWS[kind]
    sound = {"question": ["Where is it?"] * 2, "answer": ["left"] * 2}
    (tmp_path / "mine.parquet").write_bytes(parquet(sound | columns))
    source = open_source(tmp_path / "mine.parquet", max_images=9)
    assert isinstance(source[0], Rejected)
    assert source[0].id == "mine.parquet:0"
    with pytest.raises(ValueError, match=reason):
        raise ValueError(source[0].reason)


LEFT = {"question": ["Where is it?"], "answer": ["left"]}
FINE_PARQUET = {
    "large texts": (
        {name: pa.array(value, pa.large_string()) for name, value in LEFT.items()},
        {"answer": "left"},
    ),
    "texts of few kinds": (
        {"question": ["q"], "answer": pa.array(["left"]).dictionary_encode()},
        {"answer": "left"},
    ),
    "whole numbers with a gap": ({"question": ["q"], "answer": pa.array([3.0])}, {"answer": "3"}),
    "options of a fixed number": (
        LEFT | {"options": pa.array([["left", "up"]], pa.list_(pa.string(), 2))},
        {"options": ("left", "up")},
    ),
    "large lists of options": (
        LEFT | {"options": pa.array([["left", "up"]], pa.large_list(pa.string()))},
        {"options": ("left", "up")},
    ),
    "large bytes": (LEFT | {"image": pa.array([png(1)], pa.large_binary())}, {"images": (png(1),)}),
    "images of a fixed number": (
        LEFT | {"images": pa.array([[png(1), png(2)]], pa.list_(pa.binary(), 2))},
        {"images": (png(1), png(2))},
    ),
}


@pytest.mark.parametrize("kind", FINE_PARQUET)
def test_every_way_to_store_a_column_is_read(kind, tmp_path):
    columns, expected = FINE_PARQUET[kind]
    (tmp_path / "mine.parquet").write_bytes(parquet(columns))
    example = open_source(tmp_path / "mine.parquet", max_images=2)[0]
    assert {name: getattr(example, name) for name in expected} == expected


def test_images_of_a_fixed_number_are_counted(tmp_path):
    images = pa.array([[png(1), png(2)]] * 3, pa.list_(pa.binary(), 2))
    (tmp_path / "mine.parquet").write_bytes(
        parquet({"question": ["q"] * 3, "answer": ["a"] * 3, "images": images})
    )
    with pytest.raises(ValueError, match="3 with too many images"):
        open_source(tmp_path / "mine.parquet", max_images=1)


# --- rows of published data sets: kind -> (a sound row, what is changed, words of the reason) ---

STORED = {"bytes": png(1), "path": None}
SAT = {
    "image_bytes": [STORED],
    "question": "q",
    "answers": ["left", "up"],
    "correct_answer": "left",
    "question_type": "other",
}
CV_BENCH = {
    "idx": 3,
    "task": "Count",
    "image": STORED,
    "question": "q",
    "choices": ["2", "3"],
    "answer": "(B)",
}
BLINK = {
    "idx": "b",
    "image_1": STORED,
    "question": "q",
    "choices": ["2", "3"],
    "answer": "(A)",
    "sub_task": "s",
}
R1_V = {"image": STORED, "problem": "How many?", "solution": "<answer> 3 </answer>"}
LLAVA = {
    "image": STORED,
    "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "Answer: B"}],
}
PUBLISHED = {
    "SAT without the right answer": ("sat", SAT, {"correct_answer": "down"}, "'down' is not among"),
    "SAT with one text as answers": ("sat", SAT, {"answers": "left"}, "answers is not a list"),
    "SAT with a null among answers": ("sat", SAT, {"answers": ["left", None]}, "answers is missing"),
    "SAT with a null image": ("sat", SAT, {"image_bytes": [None]}, "image_bytes is missing"),
    "SAT with one image as images": ("sat", SAT, {"image_bytes": STORED}, "image_bytes is not a list"),
    "SAT with a type that is a list": ("sat", SAT, {"question_type": ["other"]}, "question_type is neither"),
    "CV-Bench beyond its choices": ("", CV_BENCH, {"answer": "(C)"}, r"'\(C\)' is beyond the 2 choices"),
    "CV-Bench without a letter": ("", CV_BENCH, {"answer": "3"}, "'3' is not a letter"),
    "CV-Bench with two letters": ("", CV_BENCH, {"answer": "(AB)"}, "not a letter"),
    "CV-Bench in small letters": ("", CV_BENCH, {"answer": "(b)"}, "not a letter"),
    "CV-Bench without choices": ("", CV_BENCH, {"choices": None}, "choices is not a list"),
    "CV-Bench of no choices": ("", CV_BENCH, {"choices": []}, "beyond the 0 choices"),
    "CV-Bench with a number that is an object": ("", CV_BENCH, {"idx": {"a": 1}}, "idx is neither"),
    "BLINK with an image that is a number": ("", BLINK, {"image_1": 3}, "image_1 is neither"),
    "BLINK with a choice that is null": ("", BLINK, {"choices": ["2", None]}, "choices is missing"),
    "R1-V without an answer in its tags": (
        "clevr",
        R1_V,
        {"solution": "<answer> </answer>"},
        "solution holds no answer",
    ),
    "R1-V with a number as image": ("clevr", R1_V, {"image": 5}, "image is neither"),
    "R1-V without a problem": ("clevr", R1_V, {"problem": None}, "problem is missing"),
    "R1-V with an image outside": (
        "clevr",
        R1_V,
        {"image": {"bytes": None, "path": "../a.png"}},
        "there is no file|outside",
    ),
    "Geo170K with one turn": (
        "geo170k",
        LLAVA,
        {"conversations": [{"from": "human", "value": "q"}]},
        "no question with its answer",
    ),
    "Geo170K with turns of text": (
        "geo170k",
        LLAVA,
        {"conversations": ["q", "Answer: B"]},
        "no question with its answer",
    ),
    "Geo170K with turns of null": (
        "geo170k",
        LLAVA,
        {"conversations": [None, None]},
        "no question with its answer",
    ),
    "Geo170K without a letter": (
        "geo170k",
        LLAVA,
        {"conversations": [{"value": "q"}, {"value": "Answer: 7"}]},
        "no letter after",
    ),
    "GSM8K without its mark": ("gsm8k", GOOD, {"answer": "It is 4."}, "no number after"),
    "GSM8K with nothing behind it": ("gsm8k", GOOD, {"answer": "It is 4.\n#### "}, "no number after"),
    "MATH without a box": ("math", {"problem": "q", "solution": r"\boxed{3}"}, {"solution": "3"}, "holds no"),
    "MATH with an open box": (
        "math",
        {"problem": "q", "solution": r"\boxed{3}"},
        {"solution": r"\boxed{3"},
        "holds no",
    ),
    "R1-V tests without an image": (
        "",
        {"image_path": "a", "question": "q", "ground_truth": 3},
        {},
        "there is no file",
    ),
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_bad_rows_of_published_sets_are_set_aside(kind, tmp_path):
    name, sound, changes, reason = PUBLISHED[kind]
    row = sound | changes
    if any(isinstance(value, bytes) for value in _leaves(row)):
        path = tmp_path / "set.parquet"
        path.write_bytes(parquet(pa.Table.from_pylist([row])))
    else:
        path = tmp_path / "set.json"
        path.write_text(json.dumps([row]))
    rejected = open_source(f"{name}={path}" if name else path)[0]
    assert isinstance(rejected, Rejected), rejected
    with pytest.raises(ValueError, match=reason):
        raise ValueError(rejected.reason)


def _leaves(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value, *(leaf for each in inner for leaf in _leaves(each))]


def test_a_hundred_thousand_open_tags_take_no_time(tmp_path):
    row = {"image": STORED, "problem": "How many?", "solution": "<answer>" * 100_000}
    (tmp_path / "set.parquet").write_bytes(parquet(pa.Table.from_pylist([row])))
    with time_limit(5):
        example = open_source(f"clevr={tmp_path / 'set.parquet'}")[0]
    assert isinstance(example, Example)


# --- VSR names files of a folder, and links ---


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        (None, "'None' is not a link"),
        ("", "'' is not a link"),
        ("file:///etc/hostname", "is not a link that starts with http"),
        ("http://", "could not be fetched"),
        ("http://a b/\n\x1b[31m.jpg", "could not be fetched"),
        ("http://[::1/a.jpg", "could not be fetched"),
        ("http://127.0.0.1:9/" + "a" * 5000, "could not be fetched"),
        ("http://127.0.0.1:9/é/\ud800.jpg", "could not be fetched"),
    ],
)
def test_bad_links_are_set_aside(link, reason, tmp_path, monkeypatch):
    monkeypatch.setenv("VTZERO_CACHE", str(tmp_path))
    row = {"image": "a.jpg", "caption": "It is left.", "label": 1, "relation": "left of", "image_link": link}
    (tmp_path / "vsr.jsonl").write_text(json.dumps(row))
    read = open_benchmark(f"vsr={tmp_path / 'vsr.jsonl'}", fetch_images=True).examples
    assert isinstance(read[0], Rejected)
    assert read[0].reason.isprintable()
    with pytest.raises(ValueError, match=reason):
        raise ValueError(read[0].reason)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"label": 2}, "the label is 2"),
        ({"label": None}, "the label is None"),
        ({"label": [1]}, r"the label is \[1\]"),
        ({"caption": " "}, "caption is missing"),
        ({"caption": 7}, "caption is missing"),
        ({"image": None}, "image is missing"),
        ({"image": "gone.jpg"}, "gone.jpg is in none of"),
        ({"image": "../outside.jpg"}, "outside.jpg is in none of"),
        ({"image": "train2017/../../outside.jpg"}, "outside.jpg is in none of"),
        ({"image": "/etc/hostname"}, "hostname is in none of"),
        ({"relation": ["left of"]}, "task is neither"),
    ],
)
def test_bad_rows_of_vsr_are_set_aside(changes, reason, tmp_path):
    (tmp_path / "coco" / "train2017").mkdir(parents=True)
    for name in ("outside.jpg", "coco/train2017/a.jpg"):
        (tmp_path / name).write_bytes(png(1))
    good = {
        "image": "a.jpg",
        "caption": "It is left.",
        "label": 1,
        "relation": "left of",
        "image_link": "none",
    }
    rows = [good, good | changes]
    (tmp_path / "vsr.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = open_benchmark(f"vsr={tmp_path / 'vsr.jsonl'}", image_folder=tmp_path / "coco").examples
    assert isinstance(read[0], Example)
    assert isinstance(read[1], Rejected)
    with pytest.raises(ValueError, match=rf"vsr\.jsonl:2: .*{reason}"):
        raise ValueError(read[1].reason)
