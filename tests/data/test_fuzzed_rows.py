"""Whatever a file of rows holds: examples that can be asked, or one line a row, or one line for the file."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures.fuzzing import fuzzed
from fixtures.mutated import mutated, pieces
from fixtures.picture_files import encoded, photograph
from fixtures.tiny_folder import SPECIAL_TOKENS, make_tiny_folder
from hypothesis import example
from hypothesis import strategies as st

from vtzero.data.example import Example, Rejected
from vtzero.data.processor import PreparedPrompt, Processor
from vtzero.data.prompts import TEMPLATES, question_body
from vtzero.data.sources import open_source

PNG = encoded(photograph(30, 30))
ODD = ("left", "a.png", "../b.png", "/etc/hostname", "", " ", "\0", "\u200b", "#### 4", "(B)", "\ud800", "é")
TEXTS = pieces(*ODD, *SPECIAL_TOKENS[:4], "{question}", "<image>", most=4)
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -0.0, 1e300, 3.0])
SMALL = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SMALL,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
PATHS = st.sampled_from(["a.png", {"path": "a.png"}, {"bytes": None, "path": "a.png"}])
ROWS = st.fixed_dictionaries(
    {"question": st.just("Where is it?") | VALUES, "answer": st.just("left") | VALUES},
    optional={
        "image": PATHS | VALUES,
        "images": st.lists(PATHS | VALUES, max_size=3),
        "options": st.just(["left", "up"]) | VALUES,
        "id": VALUES,
        "task": VALUES,
        "level": VALUES,
    },
)


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return Processor.from_folder(make_tiny_folder(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows")
    (path / "a.png").write_bytes(PNG)
    return path


def outcome(folder, name, contents, processor):
    """What becomes of every row of a file, or what is said about it; sound rows are checked on the way."""
    (folder / name).write_bytes(contents)
    try:
        source = open_source(folder / name, max_images=5)
    except ValueError as error:
        said = str(error)
    else:
        return [_read(source[index], processor) for index in range(len(source))]
    assert said.isprintable()
    assert name in said
    return said


def _read(row, processor):
    prepared = row if isinstance(row, Rejected) else processor.prepare(row, TEMPLATES["r1_zero_base"])
    if isinstance(row, Example):
        assert row.answer.strip()
        assert not row.options or row.answer in row.options
        assert row.question.encode()
        assert row.id.isprintable()
    if isinstance(prepared, Rejected):
        assert prepared.reason
        assert (prepared.id + prepared.reason).isprintable()
        assert len(prepared.reason) < 600
        return prepared
    assert isinstance(prepared, PreparedPrompt)
    return prepared.id, prepared.text, prepared.ids.tolist()


def same_twice(*arguments):
    assert str(outcome(*arguments)) == str(outcome(*arguments))  # not a number equals itself as text


@fuzzed(50, rows=st.lists(ROWS, min_size=1, max_size=3))
def test_rows_of_any_values(folder, processor, rows):
    lines = [json.dumps(row).encode() for row in rows]
    same_twice(folder, "mine.jsonl", b"\n".join(lines), processor)
    same_twice(folder, "mine.json", b"[" + b",".join(lines) + b"]", processor)


def line(**row):
    return json.dumps(row).encode() + b"\n"


LINES = {
    "sound": b"".join(line(image="a.png", question="Where?", answer=i, options=[i, "up"]) for i in range(3)),
    "nested": line(question="é 😀", answer=[{"a": [1e5]}], images=["a.png", {"path": "a.png"}]),
    "list": b'[{"question": "q", "answer": "a"}, {"question": "q", "answer": null}]',
}
ANY = mutated(LINES) | st.binary(max_size=50)


@fuzzed(100, contents=ANY, name=st.sampled_from(["mine.jsonl", "mine.json"]))
@example(contents=b"[" * 5000 + b"\n", name="mine.jsonl")
@example(contents=b"\xef\xbb\xbf{}", name="mine.json")
def test_lines_of_any_bytes(folder, processor, contents, name):
    same_twice(folder, name, contents, processor)


# --- questions and templates ---

QUESTIONS = pieces(
    *SPECIAL_TOKENS, "{question}", "<image>", "<think>", "|>", "<|", "image_pad", "\0", "Where?", " "
)


@fuzzed(
    100,
    question=QUESTIONS,
    options=st.lists(pieces("left", "up", "<|im_end|>", most=3), max_size=3),
    template=st.sampled_from(sorted(TEMPLATES)),
    count=st.integers(0, 2),
)
def test_questions_of_any_text(processor, question, options, template, count):
    asked = Example("q", question, "left", (PNG,) * count, tuple(options))
    prepared = processor.prepare(asked, TEMPLATES[template])
    body = question_body(question, options)
    if isinstance(prepared, Rejected):
        assert prepared.reason.isprintable()
        assert len(body) > 200_000 or any(token in body for token in SPECIAL_TOKENS) or not _is_text(body)
        return
    assert body in prepared.text
    assert prepared.text == TEMPLATES[template].render(body, count)
    image = processor.config.image_token_id
    assert (prepared.ids == image).sum() == len(prepared.patches) // processor.config.vision.merge_count
    assert prepared.positions.shape == (3, len(prepared.ids))
    assert np.all(np.unique(prepared.segments) == np.arange(1, count + 1))


def _is_text(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- parquet ---


def parquet_file():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mine.parquet"
        table = pa.table(
            {
                "question": ["Where is it?", "And now?"] * 4,
                "answer": ["left", "up"] * 4,
                "images": [[{"bytes": PNG, "path": None}], []] * 4,
                "options": [["left", "up"], None] * 4,
            }
        )
        pq.write_table(table, path, row_group_size=3)
        return path.read_bytes()


@fuzzed(50, contents=mutated({"parquet": parquet_file()}))
def test_parquet_of_any_bytes(folder, processor, contents):
    same_twice(folder, "mine.parquet", contents, processor)
