"""Benchmarks by name read files of exactly the published columns, and say what is wrong with others."""

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pyarrow.parquet as pq
import pytest
from fixtures.published import (
    AIME_COLUMNS,
    BLINK_COLUMNS,
    CV_BENCH_COLUMNS,
    GSM8K_COLUMNS,
    blink_row,
    cv_bench_row,
    picture,
    vsr_row,
    write_lines,
    write_parquet,
)
from fixtures.tiny_folder import make_tiny_folder

from vtzero.data.example import Example, Rejected
from vtzero.data.hub import HubError, HubSet, write_stream
from vtzero.data.processor import Processor
from vtzero.data.prompts import prompt_template
from vtzero.evaluation.benchmarks import BENCHMARKS, as_asked, benchmark_item, open_benchmark
from vtzero.evaluation.verdicts import judge

REAL_VSR = Path(__file__).parents[3] / "shared" / "real" / "vsr" / "vsr_random_test.jsonl"
REAL_SUPERCLEVR = (
    Path(__file__).parents[3] / "shared" / "real" / "r1v" / "superclevr_test200_counting_problems.jsonl"
)


def every(benchmark):
    return [benchmark.examples[index] for index in range(len(benchmark.examples))]


def test_cv_bench(tmp_path):
    rows = [cv_bench_row(number, answer="(B)") for number in range(3)]
    path = write_parquet(tmp_path / "test.parquet", CV_BENCH_COLUMNS, rows)
    benchmark = open_benchmark(f"cv_bench={path}", limit=2)
    assert (benchmark.name, benchmark.scoring, benchmark.images) == ("cv_bench", "paper_choices", 1)
    first, second = every(benchmark)
    assert (first.id, first.task, first.answer, first.options) == (
        "0",
        "Relation",
        "right",
        ("left", "right"),
    )
    assert second.columns["source"] == "COCO"
    assert second.images == (picture(1),)
    assert as_asked(first).question == rows[0]["prompt"]


def test_blink_joins_its_two_configs_and_leaves_out_questions_about_two_images(tmp_path):
    for task in ("Relative_Depth", "Spatial_Relation"):
        rows = [blink_row(task, 1), blink_row(task, 2, images=2), blink_row(task, 3)]
        write_parquet(tmp_path / f"{task}.parquet", BLINK_COLUMNS, rows)
    benchmark = open_benchmark(f"blink={tmp_path}/*.parquet")
    assert [(example.id, example.task) for example in every(benchmark)] == [
        ("val_Relative_Depth_1", "Relative_Depth"),
        ("val_Relative_Depth_3", "Relative_Depth"),
        ("val_Spatial_Relation_1", "Spatial_Relation"),
        ("val_Spatial_Relation_3", "Spatial_Relation"),
    ]
    assert len(open_benchmark(f"blink={tmp_path}/*.parquet", limit=3).examples) == 3
    assert as_asked(every(benchmark)[0]).question.endswith("(A) yes\n(B) no")


def test_vsr_is_worded_as_the_papers_evaluation_words_it(tmp_path):
    (tmp_path / "1.jpg").write_bytes(picture(1, kind="JPEG"))
    path = write_lines(tmp_path / "test.jsonl", [vsr_row("1.jpg", 0)])
    (example,) = every(open_benchmark(f"vsr={path}"))
    assert as_asked(example).question == (
        'Please analyze the provided image. Does the statement "The cat is on the mat." accurately describes '
        "what you see? Choose from (A) True or (B) False."
    )
    assert as_asked(example).options == ()
    assert (example.options, example.answer, example.task) == (("True", "False"), "False", "on")
    assert judge("<answer>(B)</answer>", benchmark_item(example), "paper_choices").correct_paper


def test_vsr_finds_its_images_in_a_coco_folder_and_lists_those_that_are_missing(tmp_path, monkeypatch):
    coco = tmp_path / "coco"
    for part, name in (("train2017", "1.jpg"), ("val2017", "2.jpg"), (".", "3.jpg")):
        (coco / part).mkdir(parents=True, exist_ok=True)
        (coco / part / name).write_bytes(picture(1, kind="JPEG"))
    rows = [vsr_row(f"{number}.jpg", number % 2) for number in range(1, 5)]
    path = write_lines(tmp_path / "test.jsonl", rows)
    monkeypatch.chdir(tmp_path)  # a relative folder must be read as it was given
    *found, missing = every(open_benchmark(f"vsr={path}", image_folder=Path("coco")))
    assert [example.images[0].parent.name for example in found] == ["train2017", "val2017", "coco"]
    assert isinstance(missing, Rejected)
    assert "4.jpg is in none of" in missing.reason
    assert "--image-folder" in missing.reason


def test_vsr_fetches_what_no_folder_holds_and_sets_aside_what_is_no_image(tmp_path, monkeypatch):
    served = tmp_path / "served" / "train2017"
    served.mkdir(parents=True)
    (served / "1.jpg").write_bytes(picture(1, kind="JPEG"))
    (served / "2.jpg").write_bytes(b"<html>not an image</html>")
    monkeypatch.setenv("VTZERO_CACHE", str(tmp_path / "cache"))
    handler = partial(_Quiet, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        link = f"http://127.0.0.1:{server.server_port}/train2017"
        rows = [vsr_row(f"{number}.jpg") for number in (1, 2, 3)]
        rows = [row | {"image_link": f"{link}/{row['image']}"} for row in rows]
        path = write_lines(tmp_path / "test.jsonl", [*rows, vsr_row("4.jpg") | {"image_link": "file:///4"}])
        fetched, damaged, missing, local = every(open_benchmark(f"vsr={path}", fetch_images=True))
        server.shutdown()
    assert fetched.images[0].read_bytes() == picture(1, kind="JPEG")
    assert "is not an image" in damaged.reason
    assert "404" in missing.reason
    assert "http" in local.reason
    assert len(list((tmp_path / "cache" / "images").iterdir())) == 1
    again = every(open_benchmark(f"vsr={path}", fetch_images=True))[0]  # the server is gone
    assert again.images == fetched.images


def test_a_vsr_label_is_true_or_false(tmp_path):
    (tmp_path / "1.jpg").write_bytes(picture(1, kind="JPEG"))
    path = write_lines(tmp_path / "test.jsonl", [vsr_row("1.jpg", 2), vsr_row("1.jpg", caption="")])
    label, caption = every(open_benchmark(f"vsr={path}"))
    assert "the label is 2" in label.reason
    assert "caption is missing" in caption.reason


@pytest.mark.skipif(not REAL_VSR.is_file(), reason="the real annotations are not here")
def test_the_real_vsr_is_read_rendered_and_scored(tmp_path):
    rows = [json.loads(line) for line in REAL_VSR.read_text().splitlines()]
    for name in {row["image"] for row in rows}:
        (tmp_path / name).write_bytes(SMALL_JPEG)
    benchmark = open_benchmark(f"vsr={REAL_VSR}", image_folder=tmp_path)
    examples = every(benchmark)
    assert len(examples) == 2195
    assert all(isinstance(example, Example) for example in examples)
    processor = Processor.from_folder(make_tiny_folder(tmp_path / "model"))
    template = prompt_template("r1_zero_base")
    for example, row in zip(examples, rows, strict=True):
        text = processor.prepare(as_asked(example), template).text
        assert text.count("<|image_pad|>") == 1
        assert f'Does the statement "{row["caption"]}" accurately' in text
    outputs = [
        f"<answer>{'(A)' if (row['label'] == 1) == (index < 1368) else '(B)'}</answer>"
        for index, row in enumerate(rows)
    ]
    verdicts = [
        judge(output, benchmark_item(example), benchmark.scoring)
        for output, example in zip(outputs, examples, strict=True)
    ]
    assert sum(verdict.correct for verdict in verdicts) == 1368
    assert sum(verdict.correct_paper for verdict in verdicts) == 1368
    assert int(10000 * 1368 / len(verdicts)) / 100 == 62.32


def test_superclevr_names_images_that_a_folder_holds(tmp_path):
    (tmp_path / "pictures" / "images").mkdir(parents=True)
    (tmp_path / "pictures" / "images" / "1.png").write_bytes(picture(1))
    row = {"image_path": "./images/1.png", "question": "How many?", "ground_truth": 4}
    path = write_lines(tmp_path / "test.jsonl", [row, row | {"image_path": "./images/2.png"}])
    benchmark = open_benchmark(f"superclevr={path}", image_folder=tmp_path / "pictures")
    found, missing = every(benchmark)
    assert (found.id, found.answer, benchmark.scoring) == ("superclevr-0", "4", "superclevr")
    assert "test.jsonl:2: image_path: there is no file" in missing.reason


@pytest.mark.skipif(not REAL_SUPERCLEVR.is_file(), reason="the real questions are not here")
def test_the_real_superclevr_questions_are_read(tmp_path):
    rows = [json.loads(line) for line in REAL_SUPERCLEVR.read_text().splitlines()]
    (tmp_path / "images").mkdir()
    for row in rows:
        (tmp_path / row["image_path"]).write_bytes(SMALL_JPEG)
    examples = every(open_benchmark(f"superclevr={REAL_SUPERCLEVR}", image_folder=tmp_path))
    assert [int(example.answer) for example in examples] == [row["ground_truth"] for row in rows]
    assert len(examples) == 200


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("r1_v_superclevr_eval", "First output the thinking process"),
        ("r1_v_geoqa_eval", "Output the thinking process"),
    ],
)
def test_r1v_asks_in_its_own_words(name, words):
    prompt = prompt_template(name).render("How many?", 1)
    wanted = f"How many? {words} in <think> </think> and final answer (number) in <answer> </answer> tags."
    assert f"<|vision_end|>{wanted}<|im_end|>" in prompt


def test_gsm8k(tmp_path):
    rows = [
        {"question": "How many?", "answer": "9 * 200 = <<9*200=1800>>1800\n#### 1,800"},
        {"question": "How many?", "answer": "no mark"},
    ]
    path = write_parquet(tmp_path / "test.parquet", GSM8K_COLUMNS, rows)
    first, second = every(benchmark := open_benchmark(f"gsm8k={path}"))
    assert (first.question, first.answer, first.images) == ("How many?", "1800", ())
    assert "####" in second.reason
    assert (benchmark.images, benchmark.scoring) == (0, "math")


def test_aime24(tmp_path):
    row = {"id": 60, "problem": "Find $x$.", "solution": "so", "answer": "073", "year": "2024"}
    path = write_parquet(tmp_path / "train.parquet", AIME_COLUMNS, [row])
    (example,) = every(open_benchmark(f"aime24={path}"))
    assert (example.id, example.question, example.answer) == ("60", "Find $x$.", "073")
    assert judge("<answer>73</answer>", benchmark_item(example), "math").correct


def test_options_with_commas_stay_whole(tmp_path):
    row = cv_bench_row(0, choices=["left, then right", "right, then left"], answer="(B)")
    path = write_parquet(tmp_path / "test.parquet", CV_BENCH_COLUMNS, [row])
    (example,) = every(benchmark := open_benchmark(f"cv_bench={path}"))
    assert example.answer == "right, then left"
    assert judge("<answer>right, then left</answer>", benchmark_item(example), benchmark.scoring).correct


def test_an_answer_that_is_not_among_the_options_is_set_aside(tmp_path):
    rows = [cv_bench_row(0, answer="(C)"), cv_bench_row(1)]
    path = write_parquet(tmp_path / "test.parquet", CV_BENCH_COLUMNS, rows)
    beyond, fine = every(open_benchmark(f"cv_bench={path}"))
    assert "'(C)' is beyond the 2 choices" in beyond.reason
    assert isinstance(fine, Example)


@pytest.mark.parametrize("name", ["source", "image", "prompt"])
def test_a_missing_column_is_named_with_its_file(tmp_path, name):
    columns = {other: kind for other, kind in CV_BENCH_COLUMNS.items() if other != name}
    path = write_parquet(tmp_path / "test.parquet", columns, [cv_bench_row(0)])
    with pytest.raises(ValueError, match=rf"test\.parquet: there is no column {name}, which cv_bench has"):
        open_benchmark(f"cv_bench={path}")


def test_what_is_not_on_the_hub_says_where_its_file_is():
    with pytest.raises(ValueError, match=r"superclevr=FILE.jsonl \(superclevr_test200.*R1-V"):
        open_benchmark("superclevr")


def test_images_are_asked_for_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("VTZERO_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="vsr names images that it does not hold; give their folder"):
        open_benchmark("vsr")
    with pytest.raises(FileNotFoundError, match=r"--image-folder .*none: no such folder"):
        open_benchmark("vsr", image_folder=tmp_path / "none")
    with pytest.raises(ValueError, match="cv_bench holds its images"):
        open_benchmark("cv_bench", image_folder=tmp_path)
    with pytest.raises(ValueError, match="gsm8k has no links"):
        open_benchmark("gsm8k", fetch_images=True)
    with pytest.raises(ValueError, match="--image-folder and --fetch-images are for vsr, superclevr, geoqa"):
        open_benchmark("scenes", fetch_images=True)


def test_every_published_set_is_asked_of_the_hub_and_no_network_names_the_local_form(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("VTZERO_CACHE", str(tmp_path))
    for name, definition in BENCHMARKS.items():
        for hub in definition.hub[:1]:
            with pytest.raises(HubError, match=f"{hub.repo}.*--benchmark NAME=FILE"):
                open_benchmark(name, fetch_images=definition.image_links)


def test_the_hubs_rows_are_read_as_a_local_files(tmp_path, monkeypatch):
    """What was streamed before is opened without the hub."""
    from datasets import load_dataset

    monkeypatch.setenv("VTZERO_CACHE", str(tmp_path))
    path = write_parquet(tmp_path / "test.parquet", CV_BENCH_COLUMNS, [cv_bench_row(i) for i in range(4)])
    stream = load_dataset("parquet", data_files={"test": str(path)}, split="test", streaming=True)
    assert BENCHMARKS["cv_bench"].hub == (HubSet("nyu-visionx/CV-Bench", "default", "test"),)
    write_stream(stream, tmp_path / "nyu-visionx_CV-Bench--default--test--main--first-3.parquet", limit=3)
    from_hub, local = open_benchmark("cv_bench", limit=3), open_benchmark(f"cv_bench={path}", limit=3)
    assert every(from_hub) == every(local)
    assert pq.read_table(path).num_rows == 4


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


SMALL_JPEG = picture(0, size=(28, 28), kind="JPEG")
