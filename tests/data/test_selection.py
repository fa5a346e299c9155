"""Rows that were not asked for are left out when a source is opened: counted, not read, not rejected."""

import json

import pyarrow.parquet as pq
import pytest
from fixtures.data_files import png, sat_row, stored, write_published

from vtzero.data import rows as rows_module
from vtzero.data import sources
from vtzero.data.example import Example, Rejected
from vtzero.data.sources import SOURCES, open_source, register_source
from vtzero.scenes.questions import FAMILIES

KINDS = ("other", "obj_movement", "goal_aim")


@pytest.fixture
def sat(tmp_path):
    """Thirty rows, their types taking turns; every fifth has two images."""
    rows = [
        sat_row(index, images=2 if index % 5 == 0 else 1, question_type=KINDS[index % 3])
        for index in range(30)
    ]
    return write_published(tmp_path / "SAT_train.parquet", "sat", rows, row_group_size=7)


def numbers(source):
    return [int(row.id.rpartition(":")[2]) for row in source]


def test_the_first_rows_are_taken_before_the_filters(sat):
    source = open_source(sat, limit=15, max_images=1, question_types=["other", "goal_aim"])
    expected = [index for index in range(15) if index % 5 and index % 3 != 1]
    assert numbers(source) == expected
    assert len(source) == len(expected)
    counts = source.counts
    assert (counts.rows, counts.first, counts.other_types, counts.too_many_images) == (30, 15, 5, 2)
    assert counts.kept == len(expected)
    assert str(counts) == (
        f"{sat}: 8 of the first 15 of 30 rows (left out: 5 of other types, 2 with too many images)"
    )


def test_nothing_is_left_out_unasked(sat):
    source = open_source(sat)
    assert numbers(source) == list(range(30))
    assert str(source.counts) == f"{sat}: 30 of 30 rows"
    assert source[-1].id.endswith(":29")
    with pytest.raises(IndexError):
        source[30]


def test_a_row_keeps_its_options_order_whatever_is_left_out(sat):
    whole = {row.id: row.options for row in open_source(sat)}
    assert all(whole[row.id] == row.options for row in open_source(sat, max_images=1))


def test_filters_read_no_picture(sat, monkeypatch):
    read = []
    real = pq.ParquetFile.iter_batches

    def spy(self, *arguments, **options):
        read.append(options["columns"])
        return real(self, *arguments, **options)

    monkeypatch.setattr(rows_module.pq.ParquetFile, "iter_batches", spy)
    open_source(sat, max_images=1, question_types=["other"], limit=8)
    assert {column for columns in read for column in columns} == {
        "question_type",
        "image_bytes.list.element.path",
    }
    assert len(read) == 4  # of five row groups, the two that hold the first eight rows


def test_an_unknown_type_names_the_known(sat):
    with pytest.raises(ValueError, match=r"SAT_train\.parquet: there is no question type 'static'") as caught:
        open_source(sat, question_types=["other", "static"])
    assert "there are goal_aim, obj_movement or other" in str(caught.value)
    with pytest.raises(
        ValueError, match=r"no question is of the types asked for; there are goal_aim, obj_mo"
    ):
        open_source(sat, question_types=["static"])


def test_a_file_without_types_is_named(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"question": "q", "answer": "a"}\n')
    with pytest.raises(ValueError, match=r"question_types is \['other'\], but .*m\.jsonl tells no types"):
        open_source(path, question_types=["other"])


def test_nothing_left_by_max_images_says_so(tmp_path):
    path = write_published(tmp_path / "SAT.parquet", "sat", [sat_row(i, images=2) for i in range(3)])
    with pytest.raises(ValueError, match=r"3 with too many images.*none is left; max_images is 1"):
        open_source(path, max_images=1)


def test_no_images_at_all(tmp_path):
    rows = [{"image": stored(1), "problem": "q", "solution": "1"}] * 2
    rows.append({"image": None, "problem": "q", "solution": "1"})
    source = open_source(write_published(tmp_path / "t.parquet", "r1_v", rows), max_images=0)
    assert numbers(source) == [2]
    assert source[0].reason == "image is missing"


def test_jsonl_rows_are_counted_and_bad_ones_are_kept_for_their_reason(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    good = {"question": "q", "answer": "a", "task": "count", "images": ["a.png"]}
    lines = [good, good | {"images": ["a.png"] * 2}, good | {"task": "depth"}, good | {"images": None}]
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{broken\n")
    source = open_source(path, max_images=1, question_types=["count"])
    assert numbers(source) == [1, 4, 5]
    assert [type(row) for row in source] == [Example, Rejected, Rejected]
    assert (source.counts.other_types, source.counts.too_many_images) == (1, 1)


def test_rows_of_a_damaged_row_group_are_kept_for_their_reason(sat):
    metadata = pq.ParquetFile(sat).metadata
    names = [metadata.row_group(0).column(i).path_in_schema for i in range(metadata.num_columns)]
    chunk = metadata.row_group(1).column(names.index("question_type"))
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content = bytearray(sat.read_bytes())
    content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    sat.write_bytes(content)
    source = open_source(sat, question_types=["other"])
    damaged = [row for row in source if isinstance(row, Rejected)]
    assert [row.id for row in damaged] == [f"SAT_train.parquet:{index}" for index in range(7, 14)]
    assert all("cannot be read" in row.reason for row in damaged)


def test_several_files(tmp_path):
    kinds = (("other", 1), ("goal_aim", 1), ("other", 2), ("other", 1))
    for number, (kind, images) in enumerate(kinds):
        row = sat_row(number, images=images, question_type=kind)
        write_published(tmp_path / f"{number}.parquet", "sat", [row, row])
    source = open_source(tmp_path / "*.parquet", limit=7, max_images=1, question_types=["other"])
    assert [row.id for row in source] == ["0.parquet:0", "0.parquet:1", "3.parquet:0"]


def test_scenes_are_selected_without_being_drawn(monkeypatch):
    def drawn(*_):
        raise AssertionError("a scene was drawn")

    monkeypatch.setattr("vtzero.data.scenes_source.scene_item", drawn)
    source = open_source("scenes", question_types=FAMILIES[:1], max_images=1)
    assert len(source) == 25_000
    monkeypatch.undo()
    assert {source[index].task for index in (0, 1, 24_999)} == {FAMILIES[0]}


def test_a_registered_source_that_tells_nothing_of_its_rows_is_read(monkeypatch):
    monkeypatch.setattr(sources, "SOURCES", dict(SOURCES))

    @register_source("pictures_for_test")
    def open_split(split):
        rows = [Example(str(i), "q", "a", (png(i),) * (i % 3), task=f"kind {i % 2}") for i in range(9)]
        return [*rows, Rejected("9", "broken")]

    source = open_source("pictures_for_test", max_images=1, question_types=["kind 0"])
    assert [row.id for row in source] == ["0", "4", "6", "9"]
