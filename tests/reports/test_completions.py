"""A run's completions as an index and chunks: everything where there is room, an even part where not."""

import base64
import gzip
import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vtzero.reports.completions import evenly, is_right, pack_completions, small_picture
from vtzero.training.completions import CompletionRow, write_completions

PROMPTS, GROUP = 3, 4


def picture(seed: int, side: int = 64) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def row(step: int, prompt: int, place: int, **changes) -> CompletionRow:
    values = {
        "prompt": f"system {step}-{prompt}?",
        "completion": f"<think>{step} {prompt} {place}</think>",
        "rewards": {"accuracy_paper": float(place % 2), "format_paper": 1.0},
        "reward": place % 2 + 1.0,
        "advantage": place / 10,
        "length": 10 + place,
        "terminated": place > 0,
        "group": prompt,
        "id": f"row-{prompt}",
        "question": f"{step}-{prompt}?",
        "answer": str(prompt),
        "task": ("Count", "Depth")[prompt % 2],
        "aha_words": ["wait", "yet"] if place == 3 else [],
    }
    return CompletionRow(**values | changes)


def write_run(folder, steps, **changes):
    for step in steps:
        rows = [row(step, prompt, place, **changes) for prompt in range(PROMPTS) for place in range(GROUP)]
        write_completions(folder, step, rows)
    return folder


def content(chunk):
    return json.loads(gzip.decompress(chunk.data))


def packed(folder, most_bytes=10**6):
    result = pack_completions(folder, 0, most_bytes, [])
    return result.description, {chunk.name: chunk for chunk in result.chunks}


def test_without_tables_there_is_nothing(tmp_path):
    assert pack_completions(tmp_path, 0, 10**6, []) is None


def test_the_index_has_a_line_for_each_completion(tmp_path):
    description, chunks = packed(write_run(tmp_path, [20, 10]))
    index = content(chunks["i0"])
    assert description["rows"] == len(index["step"]) == 2 * PROMPTS * GROUP
    assert (description["steps"], description["steps_written"]) == ([10, 20], 2)
    assert (description["group_size"], description["note"]) == (GROUP, None)
    assert description["rewards"] == ["accuracy_paper", "format_paper"]
    assert index["step"] == [10] * 12 + [20] * 12
    assert index["group"] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2] * 2
    assert index["right"] == [0, 1, 0, 1] * 6
    assert index["terminated"] == [0, 1, 1, 1] * 6
    assert index["aha"] == [0, 0, 0, 2] * 6
    assert [index["tasks"][number] for number in index["task"]] == (
        ["Count"] * 4 + ["Depth"] * 4 + ["Count"] * 4
    ) * 2
    questions = [index["questions"][number] for number in index["question"]]
    assert questions == (["row-0"] * 4 + ["row-1"] * 4 + ["row-2"] * 4) * 2
    assert index["reward"][:4] == [1, 2, 1, 2]
    assert index["length"][:4] == [10, 11, 12, 13]


def test_a_step_is_a_chunk_of_its_groups(tmp_path):
    _, chunks = packed(write_run(tmp_path, [10]))
    group = content(chunks["r0-s10"])["groups"][1]
    assert (group["id"], group["question"], group["prompt"]) == ("row-1", "10-1?", "system 10-1?")
    assert group["image"] is None
    assert group["completions"][3] == {
        "text": "<think>10 1 3</think>",
        "rewards": {"accuracy_paper": 1.0, "format_paper": 1.0},
        "advantage": 0.3,
        "length": 13,
        "terminated": True,
        "aha": ["wait", "yet"],
    }


def test_texts_come_through_as_they_are(tmp_path):
    text = "</script> \0 \x1b[2J \u202e 👩‍🚀 " + "x" * 10_000
    _, chunks = packed(write_run(tmp_path, [1], completion=text))
    assert content(chunks["r0-s1"])["groups"][0]["completions"][0]["text"] == text


def test_a_picture_that_is_asked_about_twice_is_there_once(tmp_path):
    _, chunks = packed(write_run(tmp_path, [1, 2], image=picture(0)))
    pictures = [chunk for chunk in chunks.values() if chunk.mime]
    assert len(pictures) == 1
    groups = content(chunks["r0-s2"])["groups"]
    assert {group["image"] for group in groups} == {pictures[0].name}


def test_a_large_picture_becomes_small_and_a_small_one_stays():
    data, kind = small_picture(picture(0, 800))
    assert (kind, Image.open(io.BytesIO(data)).size) == ("WEBP", (320, 320))
    drawn = io.BytesIO()
    Image.new("RGB", (56, 56), "red").save(drawn, format="PNG")
    assert small_picture(drawn.getvalue()) == (drawn.getvalue(), "PNG")
    drawn = io.BytesIO()
    Image.new("RGB", (56, 56), "red").save(drawn, format="BMP")
    assert small_picture(drawn.getvalue())[1] == "WEBP"  # browsers may not show BMP


@pytest.mark.parametrize("pictures", [False, True])
def test_what_does_not_fit_is_left_out_evenly(tmp_path, pictures):
    noise = np.random.default_rng(0)
    for step in range(1, 41):
        rows = [
            row(
                step,
                prompt,
                place,
                completion=noise.bytes(600).hex(),
                image=picture(100 * step + prompt, 100) if pictures else None,
            )
            for prompt in range(PROMPTS)
            for place in range(GROUP)
        ]
        write_completions(tmp_path, step, rows)
    most = 200_000
    description, chunks = packed(tmp_path, most)
    size = sum(len(base64.b64encode(chunk.data)) + 40 for chunk in chunks.values())
    assert 0.85 * most < size <= most
    steps = description["steps"]
    assert 5 < len(steps) < 40
    assert (steps[0], steps[-1]) == (1, 40)
    assert max(np.diff(steps)) <= 2 * np.ceil(40 / len(steps))
    assert f"of 40 steps {len(steps)} are here" in description["note"]
    assert set(content(chunks["i0"])["step"]) == set(steps)
    if pictures:
        shown = [g["image"] for step in steps for g in content(chunks[f"r0-s{step}"])["groups"]]
        assert 0 < sum(name is not None for name in shown) < len(shown)
        assert all(name in chunks for name in shown if name)
        assert f"{shown.count(None)} of {len(shown)} questions are shown without" in description["note"]


def test_the_same_run_gives_the_same_bytes(tmp_path):
    write_run(tmp_path, [1, 2, 3], image=picture(0, 400))
    assert packed(tmp_path) == packed(tmp_path)


def test_tables_without_the_newer_columns_are_read(tmp_path):
    (path,) = [write_run(tmp_path, [1]) / "completions" / "completions_00001.parquet"]
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["group", "id", "question", "length", "terminated", "reward"]), path)
    description, chunks = packed(tmp_path)
    index = content(chunks["i0"])
    assert description["group_size"] == GROUP
    assert index["group"] == [0] * 4 + [1] * 4 + [2] * 4
    assert index["length"] == index["terminated"] == index["reward"] == [None] * 12


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 97])
def test_steps_are_taken_evenly(count):
    steps = list(range(5, 5 + count))
    order = list(evenly(steps))
    assert sorted(order) == steps
    if count > 2:
        assert order[:2] == [steps[-1], steps[0]]
        half = sorted(order[: count // 2 + 1])
        assert max(np.diff(half)) <= 4


@pytest.mark.parametrize(
    ("rewards", "right"),
    [
        ({"accuracy": 1.0}, True),
        ({"accuracy_paper": 0.5}, False),
        ({"format": 1.0}, None),
        ({"accuracy": None}, None),
        ({}, None),
    ],
)
def test_right_is_a_whole_point_of_accuracy(rewards, right):
    assert is_right(rewards) is right


def test_what_cannot_be_read_is_left_out_and_told(tmp_path):
    write_run(tmp_path, [1, 2], image=picture(0)[:300])
    (tmp_path / "completions" / "completions_00003.parquet").write_bytes(b"PAR1")
    warnings = []
    result = pack_completions(tmp_path, 0, 10**6, warnings)
    assert result.description["steps"] == [1, 2]
    assert result.description["note"] is None
    assert [chunk.name for chunk in result.chunks] == ["i0", "r0-s1", "r0-s2"]
    table, image = warnings
    assert "completions_00003.parquet: not a readable parquet file" in table
    assert "cannot be read" in image


@pytest.mark.parametrize("damage", ["advantage", "aha_words", "rows"])
def test_a_table_of_another_kind_is_left_out_and_told(tmp_path, damage):
    path = write_run(tmp_path, [1, 2]) / "completions" / "completions_00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 0) if damage == "rows" else table.drop_columns([damage]), path)
    warnings = []
    assert pack_completions(tmp_path, 0, 10**6, warnings).description["steps"] == [2]
    reason = "has no rows" if damage == "rows" else f"has no column {damage!r}"
    assert warnings == [f"{path}: {reason}"]
