"""Every bad row becomes one line that says where it stands and what is wrong; sound ones are as written.

Rows go the whole way: file, source, prompt, bucket.
"""

import base64
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from fixtures.fuzzing import time_limit
from fixtures.picture_files import encoded, photograph
from fixtures.tiny_folder import SPECIAL_TOKENS, make_tiny_folder

from vtzero.data.batches import Buckets, fits
from vtzero.data.example import Example, Rejected
from vtzero.data.mixture import open_mixture
from vtzero.data.pipeline import GroupPipeline
from vtzero.data.processor import PreparedPrompt, Processor
from vtzero.data.prompts import prompt_template
from vtzero.data.sources import open_source
from vtzero.evaluation.benchmarks import open_benchmark

BUCKETS = Buckets(prompt_length=200, patches=64)
TEMPLATE = prompt_template("r1_zero_base")
GOOD = {"image": "a.png", "question": "Where is it?", "answer": "left"}
CHOICE = GOOD | {"options": ["left", "right"]}
PNG = encoded(photograph(60, 60))


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return Processor.from_folder(make_tiny_folder(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def folder(tmp_path):
    """Pictures to name: sound, bad, none, and one outside."""
    data = tmp_path / "data"
    (data / "folder.png").mkdir(parents=True)
    files = {"data/a.png": PNG, "data/empty.png": b"", "data/page.png": b"<html>", "data/cut.png": PNG[:900]}
    for name, contents in (
        files | {"outside.png": PNG, "data/strip.png": encoded(photograph(900, 4))}
    ).items():
        (tmp_path / name).write_bytes(contents)
    os.mkfifo(data / "pipe.png")
    (data / "device.png").symlink_to("/dev/zero")
    return data


def line(row):
    return row if isinstance(row, bytes) else json.dumps(row).encode()


def written(folder, *rows):
    path = folder / "mine.jsonl"
    path.write_bytes(b"".join(line(row) + b"\n" for row in rows))
    return path


def asked(row, processor):
    """What becomes of a row of a source on its way into a batch."""
    prepared = row if isinstance(row, Rejected) else processor.prepare(row, TEMPLATE)
    return prepared if isinstance(prepared, Rejected) else fits(prepared, BUCKETS) or prepared


# --- kind -> (the row, or the bytes of its line; words of the reason) ---


def without(name):
    return {key: value for key, value in GOOD.items() if key != name}


def values(name, **kinds):
    return {
        f"{name} is {kind.replace('_', ' ')}": (GOOD | {name: value}, reason)
        for kind, (value, reason) in kinds.items()
    }


MISSING = (None, "is missing")
NO_TEXT = "neither text nor a number"
ABSENT = {f"no {name}": (without(name), f"{name} is missing") for name in GOOD}
QUESTIONS = values(
    "question",
    null=MISSING,
    empty=("", "is missing"),
    blank=(" \n\t", "is missing"),
    without_a_shape=("\u200b\u2060\0", "is missing"),
    a_list=(["Where?"], f"{NO_TEXT}, but a list"),
    an_object=({"text": "Where?"}, f"{NO_TEXT}, but an object"),
    true=(True, f"{NO_TEXT}, but true or false"),
    half_a_pair=("\ud83d", "surrogate"),
    of_ten_megabytes=("long " * 2_000_000, "10000000 characters"),
    a_megabyte_of_spaces=(" " * 1_000_000 + "x", "1000001 characters"),
    beyond_the_bucket=("Where? " * 100, "tokens, the bucket holds 200"),
)
ANSWERS = values(
    "answer",
    null=MISSING,
    empty=("", "is missing"),
    blank=("\u3000", "is missing"),
    a_list=(["left"], NO_TEXT),
    an_object=({"text": "left"}, NO_TEXT),
    false=(False, NO_TEXT),
    half_a_pair=("\udc00", "surrogate"),
    of_ten_megabytes=("long " * 2_000_000, "the answer has 10000000 characters|the answer has 9999999"),
    of_GSM8K=("2 + 2 = 4\n#### 4", "name the file as gsm8k=FILE"),
) | {
    "answer is not a number": (
        b'{"image": "a.png", "question": "Where?", "answer": NaN}',
        "answer is missing",
    ),
    "answer is infinite": (
        b'{"image": "a.png", "question": "Where?", "answer": -Infinity}',
        "not a finite number",
    ),
    "answer is 1e999": (b'{"image": "a.png", "question": "Where?", "answer": 1e999}', "not a finite number"),
}
IMAGES = values(
    "image",
    null=MISSING,
    empty=("", "is missing"),
    a_number=(4, "neither a path nor the bytes"),
    true=(True, "neither a path nor the bytes"),
    a_list=(["a.png"], "neither a path nor the bytes"),
    an_object_of_nothing=({}, "is missing"),
    without_bytes_and_path=({"bytes": None, "path": None}, "is missing"),
    an_object_with_a_number=({"path": 4}, "neither a path nor the bytes"),
    bytes_as_numbers=({"bytes": [137, 80, 78]}, "neither a path nor the bytes"),
    in_base64=(base64.b64encode(PNG).decode(), "there is no file"),
    a_data_link=("data:image/png;base64," + base64.b64encode(PNG).decode(), "there is no file"),
    a_link=("https://example.org/a.png", "there is no file"),
    gone=("gone.png", "there is no file .*gone.png"),
    a_path_with_a_zero_byte=("a\0.png", "there is no file"),
    a_path_too_long=("a" * 5000, "there is no file"),
    a_path_with_a_break=("a\n\x1b[31m.png", r"there is no file .*\\x1b"),
    a_folder=("folder.png", "there is no file"),
    a_pipe=("pipe.png", "there is no file"),
    a_device=("device.png", "there is no file"),
    outside=("../outside.png", "lies outside .*image_folders"),
    outside_in_a_detour=("folder.png/../../outside.png", "lies outside"),
    a_file_of_the_system=("/etc/hostname", "lies outside"),
    an_empty_file=("empty.png", "empty.png cannot be read: it is empty"),
    a_web_page=("page.png", "page.png cannot be read: it is none of"),
    cut_short=("cut.png", "cut.png cannot be read"),
    a_strip=("strip.png", r"aspect ratio is beyond 200 \(900x4 pixels\)"),
)
SEVERAL = {
    f"images are {kind}": (without("image") | {"images": value}, reason)
    for kind, value, reason in (
        ("null", None, "images is not a list"),
        ("a path", "a.png", "images is not a list"),
        ("a null", [None], "images is missing"),
        ("a picture and a null", ["a.png", None], "images is missing"),
        ("a picture and a number", ["a.png", 4], "images is neither"),
        ("lists", [["a.png"]], "images is neither"),
        ("a picture and none", ["a.png", "gone.png"], "there is no file"),
        ("a picture and a bad one", ["a.png", "cut.png"], "image 2 of 2: .*cut.png"),
        ("too many", ["a.png"] * 9, "prompt has (9 images|2.. tokens)"),
    )
}
OPTIONS = {
    f"options are {kind}": (GOOD | {"options": value}, reason)
    for kind, value, reason in (
        ("text", "left, right", "options is not a list"),
        ("a number", 2, "options is not a list"),
        ("an object", {"A": "left"}, "options is not a list"),
        ("false", False, "options is not a list"),
        ("with a null", ["left", None], "options is missing"),
        ("with an empty one", ["left", " "], "options is missing"),
        ("with a list", ["left", ["right"]], NO_TEXT),
        ("with true", ["left", True], NO_TEXT),
        ("with half a pair", ["left", "\ud800"], "surrogate"),
        ("without the answer", ["up", "down"], "'left' is not among"),
        ("the answer in capitals", ["LEFT", "right"], "'left' is not among"),
        ("letters", ["A", "B"], "'left' is not among"),
        ("of one letter's look-alike", ["l\u0435ft", "right"], "'left' is not among"),
        ("hundreds", ["left", *map(str, range(300))], "tokens, the bucket holds 200"),
        ("a megabyte", ["left", "x" * 1_000_000], "characters"),
    )
} | {
    "answer is a letter": (CHOICE | {"answer": "A"}, "'A' is not among the options"),
    "answer is two options": (CHOICE | {"answer": "left or right"}, "is not among the options"),
}
NAMES = {
    "id is an object": (GOOD | {"id": {}}, "id is neither"),
    "id is half a pair": (GOOD | {"id": "\ud800"}, "id holds half"),
    "task is a list": (GOOD | {"task": ["count"]}, "task is neither"),
    "task is true": (GOOD | {"task": True}, "task is neither"),
}
TOKENS = {
    f"{token} in the {place}": (CHOICE | changed, f"contains the special token {token}".replace("|", r"\|"))
    for token in ("<|image_pad|>", "<|im_end|>", "<|vision_start|>", "<|endoftext|>", "<|video_pad|>")
    for place, changed in (
        ("question", {"question": f"Where {token}?"}),
        ("options", {"options": ["left", f"r{token}"]}),
        ("answer", {"answer": f"left{token}", "options": []}),
    )
}
LINES = {
    "half a line": (b'{"image": "a.png", "question": "Wh', "is not JSON"),
    "Python's notation": (b"{'question': 'q', 'answer': None}", "is not JSON"),
    "text": (b"hello", "is not JSON"),
    "a string": (b'"hello"', "is not a JSON object"),
    "a list": (b"[1, 2]", "is not a JSON object"),
    "a number": (b"12", "is not a JSON object"),
    "null": (b"null", "is not a JSON object"),
    "true": (b"true", "is not a JSON object"),
    "an empty object": (b"{}", "image is missing"),
    "two objects": (line(GOOD) + line(GOOD), "is not JSON"),
    "an object and more": (line(GOOD) + b" //", "is not JSON"),
    "a key twice": (
        b'{"image": "a.png", "question": "Where?", "answer": "left", "answer": "right"}',
        "has 'answer' twice",
    ),
    "no UTF-8": (line(GOOD).replace(b"left", b"\xff\xfe"), "is not JSON .*utf-8"),
    "Latin letters": (
        '{"image": "a.png", "question": "où?", "answer": "là"}'.encode("latin-1"),
        "is not JSON .*utf-8",
    ),
    "UTF-16": (json.dumps(GOOD).encode("utf-16-le"), "is not JSON"),
    "zeros": (bytes(50), "is not JSON"),
    "a hundred thousand brackets": (b"[" * 100_000, "is not JSON"),
    "two hundred lists within each other": (
        line(GOOD | {"level": "?"}).replace(b'"?"', b"[" * 200 + b"]" * 200),
        "more than 100 lists",
    ),
    "a number of 5,000 digits": (
        line(GOOD | {"answer": 7}).replace(b"7", b"7" * 5000),
        "is not JSON .*digits",
    ),
    "half a pair as bytes": (line(GOOD).replace(b"left", b"\xed\xa0\x80"), "is not JSON .*utf-8"),
}
BAD = ABSENT | QUESTIONS | ANSWERS | IMAGES | SEVERAL | OPTIONS | NAMES | TOKENS | LINES


@pytest.mark.parametrize("kind", BAD)
def test_bad_rows_are_set_aside_with_their_place_and_reason(kind, folder, processor):
    row, reason = BAD[kind]
    key = "images" if kind.startswith("images") else "image"
    good = without("image") | {"images": ["a.png"]} if key == "images" else GOOD
    with time_limit(20):
        source = open_source(written(folder, good, row, good))
        rows = [asked(row, processor) for row in source]
    assert [type(row) for row in rows] == [PreparedPrompt, Rejected, PreparedPrompt]
    assert rows[1].id == "mine.jsonl:2"
    assert re.search(reason, rows[1].reason), rows[1].reason
    assert rows[1].reason.isprintable()
    assert len(rows[1].reason) <= 500


def test_a_stream_sets_every_bad_row_aside_and_goes_on(folder, processor):
    """All kinds in one file, with one sound row."""
    bad = [row for name, (row, _) in BAD.items() if not name.startswith("images") and "mega" not in name]
    source = open_source(written(folder, *bad, GOOD))
    stream = GroupPipeline(source, processor, TEMPLATE, BUCKETS, seed=0)
    drawn = stream.next_batch(2)
    stream.close()
    assert [prompt.id for prompt in drawn.prompts] == [f"mine.jsonl:{len(bad) + 1}"] * 2
    places = {rejected.id for rejected in drawn.rejected}
    assert len(drawn.rejected) >= len(bad) == len(places)


# --- what is unusual and right: kind -> (row, what the example or prompt holds) ---

FINE = {
    "a whole number": (GOOD | {"answer": 3}, {"answer": "3"}),
    "a whole number of a column with gaps": (GOOD | {"answer": 3.0}, {"answer": "3"}),
    "a fraction": (GOOD | {"answer": 2.5}, {"answer": "2.5"}),
    "a large number": (GOOD | {"answer": 1e300}, {"answer": "1e+300"}),
    "a number as question": (GOOD | {"question": 7}, {"question": "7"}),
    "numbers as options": (GOOD | {"answer": 3, "options": [2, 3.0]}, {"answer": "3", "options": ("2", "3")}),
    "spaces around the answer": (
        CHOICE | {"answer": " left\n", "options": ["left ", "right"]},
        {"answer": "left", "options": ("left", "right")},
    ),
    "spaces around the question": (GOOD | {"question": " Where?\n "}, {"question": " Where?\n "}),
    "no options": (GOOD | {"options": []}, {"options": ()}),
    "options of null": (GOOD | {"options": None}, {"options": ()}),
    "one option": (GOOD | {"options": ["left"]}, {"options": ("left",)}),
    "an option twice": (
        GOOD | {"options": ["left", "left", "up"]},
        {"options": ("left", "left", "up"), "answer": "left"},
    ),
    "letters as options": (
        GOOD | {"answer": "B", "options": ["B", "A"]},
        {"answer": "B", "options": ("B", "A")},
    ),
    "twelve options": (
        GOOD | {"answer": "7", "options": list(range(12))},
        {"options": tuple(map(str, range(12)))},
    ),
    "an object with a path": (
        GOOD | {"image": {"bytes": None, "path": "a.png"}},
        {"question": "Where is it?"},
    ),
    "a path with dots": (GOOD | {"image": "./folder.png/../a.png"}, {"question": "Where is it?"}),
    "control letters": (GOOD | {"question": "Where\0\x1b[31m\x7f?"}, {"question": "Where\0\x1b[31m\x7f?"}),
    "the words of a template": (
        GOOD | {"question": "{question} <image> <think> </think>"},
        {"question": "{question} <image> <think> </think>"},
    ),
    "look-alikes of special tokens": (
        GOOD | {"question": "<｜image_pad｜> <|IMAGE_PAD|> <| im_end|>"},
        {"question": "<｜image_pad｜> <|IMAGE_PAD|> <| im_end|>"},
    ),
    "letters of every script": (
        GOOD | {"question": "椅子 كرسي 🧊‍ e\u0301"},
        {"question": "椅子 كرسي 🧊‍ e\u0301"},
    ),
    "an id that is long and broken": (GOOD | {"id": "a\nb" + "c" * 900}, {"question": "Where is it?"}),
    "an id that is a number": (GOOD | {"id": 7}, {"id": "7"}),
    "further columns": (
        GOOD | {"level": {"of": [1, None]}, "": 0},
        {"columns": {"question": "Where is it?", "answer": "left", "level": {"of": [1, None]}, "": 0}},
    ),
    "not a number elsewhere": (GOOD | {"level": float("nan")}, {"answer": "left"}),
    "a byte order mark": (b"\xef\xbb\xbf" + line(GOOD), {"answer": "left"}),
    "a carriage return": (line(GOOD) + b"\r", {"answer": "left"}),
    "a line separator within": (GOOD | {"question": "a\u2028b"}, {"question": "a\u2028b"}),
}


@pytest.mark.parametrize("kind", FINE)
def test_unusual_rows_are_as_they_are_written(kind, folder, processor):
    row, expected = FINE[kind]
    example = open_source(written(folder, GOOD, row))[1]
    assert isinstance(example, Example), example
    assert {name: getattr(example, name) for name in expected} == expected
    assert example.id.isprintable()
    assert len(example.id) < 500
    prompt = asked(example, processor)
    assert isinstance(prompt, PreparedPrompt), prompt
    assert prompt.text == TEMPLATE.render(_body(example), 1)
    special = {processor.tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    vision = prompt.ids[np.isin(prompt.ids, list(special))]
    assert len(vision) == 2 + len(prompt.patches) // 4


def _body(example):
    if not example.options:
        return example.question
    *most, last = example.options
    listed = f"{', '.join(most)} or {last}" if most else last
    return f"Answer in natural language. {example.question} Choose between the following options: {listed}"


def test_a_line_of_fifty_megabytes_is_set_aside_at_once(folder, processor):
    path = written(folder, GOOD, GOOD | {"question": "long " * 10_000_000})
    with time_limit(20):
        rejected = asked(open_source(path)[1], processor)
    assert rejected.reason == "the question or an option has 50000000 characters, more than 200000"


@pytest.mark.parametrize("opened", [open_source, lambda *files, **options: open_mixture(files, **options)])
def test_a_person_allows_further_folders(folder, opened):
    rows = [GOOD | {"image": "../outside.png"}, GOOD | {"image": str(folder.parent / "outside.png")}]
    path = str(written(folder, *rows))
    (source,) = getattr(opened(path), "sources", None) or (opened(path),)
    assert [type(row) for row in source] == [Rejected, Rejected]
    allowed = opened(path, image_folders=[Path("/nowhere"), folder.parent])
    (source,) = getattr(allowed, "sources", None) or (allowed,)
    assert [type(row) for row in source] == [Example, Example]


def test_an_evaluation_allows_further_folders(folder):
    path = written(folder, GOOD | {"image": "../outside.png"})
    assert isinstance(open_benchmark(path).examples[0], Rejected)
    assert isinstance(open_benchmark(path, image_folder=folder.parent).examples[0], Example)
    with pytest.raises(FileNotFoundError, match="--image-folder /nowhere: no such folder"):
        open_benchmark(path, image_folder=Path("/nowhere"))


def test_a_link_beside_the_file_leads_on(folder):
    (folder / "pictures").symlink_to(folder.parent)
    assert isinstance(open_source(written(folder, GOOD | {"image": "pictures/outside.png"}))[0], Example)
