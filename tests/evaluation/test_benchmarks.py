"""Benchmarks open by file; their items carry an answer that the scorers read as it is meant."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vtzero.data.example import Example, Rejected
from vtzero.evaluation.benchmarks import BENCHMARKS, as_asked, benchmark_item, open_benchmark
from vtzero.evaluation.scorers import SCORERS, gold_index

ASKED = "How many cubes are there? Select from the following choices.\n(A) 2\n(B) 3"


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_cv_bench(path):
    picture = io.BytesIO()
    Image.new("RGB", (30, 30)).save(picture, "PNG")
    row = {
        "idx": 5,
        "task": "Count",
        "image": {"bytes": picture.getvalue(), "path": None},
        "question": "How many cubes are there?",
        "choices": ["2", "3"],
        "answer": "(B)",
        "prompt": ASKED,
    }
    pq.write_table(pa.Table.from_pylist([row]), path)
    return path


def test_a_file_of_ones_own(tmp_path):
    rows = [{"question": f"q{i}", "answer": "yes", "options": ["yes", "no"], "task": "T"} for i in range(3)]
    path = write_lines(tmp_path / "mine.v2.jsonl", [*rows, {"question": "q3"}])
    benchmark = open_benchmark(path)
    assert benchmark.name == "mine.v2"
    assert [benchmark.examples[i].question for i in range(3)] == ["q0", "q1", "q2"]
    assert isinstance(benchmark.examples[3], Rejected)
    assert len(open_benchmark(path, limit=2).examples) == 2


def test_several_files_make_one_benchmark_whose_name_is_a_file_name(tmp_path):
    for number in range(2):
        write_lines(tmp_path / f"test-{number}.jsonl", [{"question": f"q{number}", "answer": "yes"}])
    benchmark = open_benchmark(tmp_path / "test-*.jsonl")
    assert benchmark.name == "test"
    assert [benchmark.examples[i].question for i in range(2)] == ["q0", "q1"]


def test_cv_bench_is_asked_in_its_published_words_and_scored_by_its_choices(tmp_path):
    example = open_benchmark(write_cv_bench(tmp_path / "cv.parquet")).examples[0]
    assert as_asked(example).question == ASKED
    assert as_asked(example).options == ()
    item = benchmark_item(example)
    assert (item.id, item.task, item.choices, item.answer) == ("5", "Count", ("2", "3"), "3")
    assert item.question == "How many cubes are there?"
    assert SCORERS["strict"]("<answer>(B)</answer>", item)


def test_other_questions_are_asked_as_they_are():
    plain = Example("1", "Which?", "a", options=("a", "b"))
    assert as_asked(plain) is plain
    own = Example("1", "Which?", "a", options=("a", "b"), columns={"prompt": "something else"})
    assert as_asked(own) is own


def test_the_scenes_are_the_held_out_ones():
    benchmark = open_benchmark("scenes", limit=4)
    assert benchmark.name == "scenes"
    assert len(benchmark.examples) == 4
    examples = [benchmark.examples[i] for i in range(4)]
    assert all(example.id.startswith("scenes-test-") for example in examples)
    assert all(example.images and example.task for example in examples)


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (("left", "right"), "right"),
        (("(B)", "(A)"), "(A)"),
        (("B", "A"), "A"),
        (("D", "C", "B"), "B"),
        (("!", "?"), "?"),
        (("3", "4", "3"), "3"),
    ],
)
def test_the_answer_names_its_own_choice(options, answer):
    item = benchmark_item(Example("1", "Which?", answer, options=options))
    assert gold_index(item) == options.index(answer)


def test_a_readable_answer_stays_text():
    assert benchmark_item(Example("1", "Which?", "right", options=("left", "right"))).answer == "right"
    assert benchmark_item(Example("1", "Which?", "(A)", options=("(B)", "(A)"))).answer == "(B)"


def test_an_answer_that_is_no_choice_is_refused():
    with pytest.raises(ValueError, match="item '7': its answer 'up'"):
        benchmark_item(Example("7", "Which?", "up", options=("left", "right")))


def test_unknown_names_and_missing_files_say_what_exists(tmp_path):
    with pytest.raises(ValueError, match=r"unknown benchmark 'cvbench'; give scenes, cv_bench,") as caught:
        open_benchmark("cvbench")
    assert all(name in str(caught.value) for name in BENCHMARKS)
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_benchmark(tmp_path / "none.jsonl")
