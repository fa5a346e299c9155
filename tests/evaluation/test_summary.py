"""Figures, files and table of a result whose every number can be checked by hand."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import binomtest

from vtzero.data.example import Rejected
from vtzero.evaluation.items import BenchmarkItem
from vtzero.evaluation.results import EvaluationResult, ItemResult, ResultFiles, summary
from vtzero.evaluation.tables import summary_table
from vtzero.evaluation.totals import wilson_interval
from vtzero.evaluation.verdicts import judge

CHOICES = ("left", "right")


SETTINGS = {"model": "tiny", "prompt_template": "r1_zero_base", "max_pixels": 1000, "temperature": 0.0}


def item(name, task, output, tokens, *, terminated=True, answer="right", paper=None):
    verdict = judge(output, BenchmarkItem(name, task, "Where?", CHOICES, answer), "choices")
    return ItemResult(
        task=task,
        id=name,
        index=ord(name) - ord("a"),
        question="Where?",
        prompt="Where? ",
        choices=CHOICES,
        answer=answer,
        output=output,
        correct=verdict.correct,
        correct_lenient=verdict.correct_lenient,
        tokens=tokens,
        terminated=terminated,
        correct_paper=paper,
        source=None if paper is None else "COCO",
    )


def write_all(folder, name, step, result):
    files = ResultFiles(folder, name, step, SETTINGS, overwrite=True)
    files.finish(result)
    return files.path


@pytest.fixture
def result():
    items = [
        item("a", "Depth", "<answer>right</answer>", 5),
        item("b", "Relation", "It is right.", 3),
        item("c", "Relation", "<answer>left</answer>", 6),
        item("d", "Relation", "links … 椅子\nwrong", 8, terminated=False, answer="left"),
    ]
    return EvaluationResult(items, [Rejected("e", "the image is broken")])


def test_the_interval_against_values_worked_out_by_hand():
    # z² = 3.841459. 5 of 10: 0.5 ± 1.959964 · sqrt(0.025 + 3.841459 / 400) / 1.3841459.
    np.testing.assert_allclose(wilson_interval(5, 10), (0.236593, 0.763407), atol=1e-6)
    # 0 of 10: from 0 to z² / (10 + z²) = 3.841459 / 13.841459.
    np.testing.assert_allclose(wilson_interval(0, 10), (0.0, 0.277533), atol=1e-6)
    # 1 of 1: from 1 / (1 + z²) to 1.
    np.testing.assert_allclose(wilson_interval(1, 1), (0.206549, 1.0), atol=1e-6)
    # The paper's 1569 of 2638: (0.5954971 ± 0.0187484) / 1.0014562, 1.9 points to either side.
    np.testing.assert_allclose(wilson_interval(1569, 2638), (0.575910, 0.613352), atol=1e-6)


def test_the_interval_against_scipy():
    random = np.random.default_rng(3)
    for count in random.integers(1, 3000, 50):
        correct = int(random.integers(0, count + 1))
        expected = binomtest(correct, int(count)).proportion_ci(method="wilson")
        np.testing.assert_allclose(wilson_interval(correct, int(count)), expected, atol=1e-12)


@pytest.mark.parametrize(("correct", "count"), [(0, 0), (2, 1), (-1, 3)])
def test_an_impossible_proportion_is_refused(correct, count):
    with pytest.raises(ValueError, match="an interval needs"):
        wilson_interval(correct, count)


def test_summary(result):
    figures = summary(result)
    assert {name: figures[name] for name in ("n", "accuracy", "accuracy_lenient", "rejected")} == {
        "n": 4,
        "accuracy": 25.0,
        "accuracy_lenient": 50.0,
        "rejected": 1,
    }
    assert figures["mean_length"] == 5.5
    assert figures["clipped_ratio"] == 0.25
    low, high = wilson_interval(1, 4)
    assert figures["accuracy_interval"] == [100 * low, 100 * high]
    assert list(figures["tasks"]) == ["Depth", "Relation"]
    relation = figures["tasks"]["Relation"]
    assert (relation["n"], relation["accuracy"], relation["mean_length"]) == (3, 0.0, pytest.approx(17 / 3))
    assert relation["accuracy_lenient"] == pytest.approx(100 / 3)
    assert figures["tasks"]["Depth"]["accuracy"] == 100.0


def test_cv_benchs_official_total_weighs_its_sources():
    verdicts = {"ADE20K": (True, True), "COCO": (False, True), "Omni3D": (False, False, False, True)}
    items = [
        replace(item("a", "T", "", 1), source=source, correct=correct)
        for source, given in verdicts.items()
        for correct in given
    ]
    figures = summary(EvaluationResult(items, []))
    assert (figures["n"], figures["accuracy"]) == (8, 50.0)
    assert figures["accuracy_official"] == pytest.approx((100 + 50) / 2 / 2 + 25 / 2)
    assert "50.00" in printed(summary_table(figures))
    assert "official score" in printed(summary_table(figures))
    assert "accuracy_official" not in summary(EvaluationResult(items[:4], []))


def test_rejected_items_alone_give_no_accuracy():
    figures = summary(EvaluationResult([], [Rejected("e", "broken")]))
    assert (figures["n"], figures["accuracy"], figures["accuracy_interval"]) == (0, None, None)
    assert (figures["rejected"], figures["tasks"]) == (1, {})


def test_items_without_a_task_are_counted_together():
    figures = summary(EvaluationResult([item("a", "", "", 1), item("b", "", "", 1)], []))
    assert {name: task["n"] for name, task in figures["tasks"].items()} == {"no task": 2}


def test_the_papers_verdict_is_counted_where_it_was_given():
    items = [item("a", "T", "a chair", 1, paper=True), item("b", "T", "no", 1, paper=False)]
    figures = summary(EvaluationResult(items, []))
    assert (figures["accuracy"], figures["accuracy_paper"]) == (0.0, 50.0)
    low, high = wilson_interval(1, 2)
    assert figures["tasks"]["T"]["accuracy_paper_interval"] == [100 * low, 100 * high]


def test_the_papers_verdict_is_no_figure_where_it_is_missing(result):
    assert "accuracy_paper" not in summary(result)


def test_files(result, tmp_path):
    path = write_all(tmp_path, "cv", 300, result)
    assert path == tmp_path / "eval" / "cv-300.json"
    assert sorted(file.name for file in path.parent.iterdir()) == ["cv-300.json", "cv-300.jsonl"]
    stored = json.loads(path.read_text())
    assert stored == SETTINGS | summary(result) | {
        "benchmark": "cv",
        "step": 300,
        "rejected_items": [{"id": "e", "reason": "the image is broken"}],
    }
    lines = [json.loads(line) for line in path.with_suffix(".jsonl").read_bytes().splitlines()]
    assert lines[0] == {
        "task": "Depth",
        "id": "a",
        "index": 0,
        "question": "Where?",
        "prompt": "Where? ",
        "choices": ["left", "right"],
        "answer": "right",
        "output": "<answer>right</answer>",
        "correct": True,
        "correct_lenient": True,
        "tokens": 5,
        "terminated": True,
    }
    assert [line["output"] for line in lines] == [item.output for item in result.items]


def test_the_source_and_the_papers_verdict_are_stored(tmp_path):
    path = write_all(tmp_path, "cv", 0, EvaluationResult([item("a", "T", "left", 1, paper=False)], []))
    stored = json.loads(path.with_suffix(".jsonl").read_text())
    assert (stored["source"], stored["correct_paper"]) == ("COCO", False)


def test_stored_items_can_be_scored_again(result, tmp_path):
    path = write_all(tmp_path, "cv", 0, result).with_suffix(".jsonl")
    for line in path.read_bytes().splitlines():
        row = json.loads(line)
        stored = BenchmarkItem(row["id"], row["task"], row["question"], row["choices"], row["answer"])
        verdict = judge(row["output"], stored, "choices")
        assert (verdict.correct, verdict.correct_lenient) == (row["correct"], row["correct_lenient"])


def test_starting_afresh_replaces_both_files(result, tmp_path):
    write_all(tmp_path, "cv", 1, result)
    path = write_all(tmp_path, "cv", 1, EvaluationResult(result.items[:2], []))
    assert json.loads(path.read_text())["n"] == 2
    assert len(path.with_suffix(".jsonl").read_bytes().splitlines()) == 2
    assert len(list(path.parent.iterdir())) == 2


def test_what_was_answered_is_read_back(result, tmp_path):
    ResultFiles(tmp_path, "cv", 0, SETTINGS).append(result.items)
    again = ResultFiles(tmp_path, "cv", 0, SETTINGS)
    assert again.figures() is None
    assert again.done() == result.items


def test_a_cut_line_and_the_rest_of_its_batch_are_asked_again(result, tmp_path):
    ResultFiles(tmp_path, "cv", 0, SETTINGS).append(result.items)
    items = tmp_path / "eval" / "cv-0.jsonl"
    items.write_bytes(items.read_bytes()[:-10])
    again = ResultFiles(tmp_path, "cv", 0, SETTINGS)
    assert again.done(batch_size=2) == result.items[:2]
    again.append(result.items[2:])
    assert again.done(batch_size=2) == result.items


def test_a_finished_evaluation_gives_its_figures(result, tmp_path):
    ResultFiles(tmp_path, "cv", 0, SETTINGS).finish(result)
    figures = ResultFiles(tmp_path, "cv", 0, SETTINGS).figures()
    assert figures == {"benchmark": "cv", "step": 0} | SETTINGS | summary(result)


@pytest.mark.parametrize("finished", [False, True])
def test_results_of_other_settings_are_not_mixed(result, tmp_path, finished):
    files = ResultFiles(tmp_path, "cv", 0, SETTINGS)
    files.append(result.items[:1])
    if finished:
        files.finish(result)
    other = SETTINGS | {"max_pixels": 2000}
    with pytest.raises(ValueError, match=r"another max_pixels 1000, now 2000; .*--overwrite") as caught:
        ResultFiles(tmp_path, "cv", 0, other)
    assert "\n" not in str(caught.value)
    afresh = ResultFiles(tmp_path, "cv", 0, other, overwrite=True)
    assert (afresh.figures(), afresh.done()) == (None, [])


def test_items_that_lost_their_settings_are_not_mixed(result, tmp_path):
    ResultFiles(tmp_path, "cv", 0, SETTINGS).append(result.items[:1])
    (tmp_path / "eval" / "cv-0.settings.json").unlink()
    with pytest.raises(ValueError, match="not how it was asked for"):
        ResultFiles(tmp_path, "cv", 0, SETTINGS)


def printed(table):
    console = Console(width=100, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_table(result):
    text = printed(summary_table(summary(result), title="cv [300]"))
    rows = {line.split()[1]: line for line in text.splitlines() if line.startswith("│")}
    assert list(rows) == ["Depth", "Relation", "all"]
    for cell in ("4", "25.00", "4.6 – 69.9", "50.00", "5.5", "25.0"):
        assert cell in rows["all"]
    assert "100.00" in rows["Depth"]
    assert "cv [300]" in text
    assert "1 rejected" in text


def test_table_of_nothing():
    text = printed(summary_table(summary(EvaluationResult([], [Rejected("e", "broken")]))))
    assert "nan" not in text
    assert "1 rejected" in text


def test_the_papers_accuracy_has_a_column_where_it_is():
    items = [item("a", "T", "a chair", 1, paper=True), item("b", "T", "no", 1, paper=True)]
    assert "100.00" in printed(summary_table(summary(EvaluationResult(items, []))))


def test_many_tasks_are_left_to_the_file():
    items = [item("a", f"relation {number}", "left", 1) for number in range(60)]
    text = printed(summary_table(summary(EvaluationResult(items, []))))
    assert "60 tasks, each in the summary file" in text
    assert "relation 7" not in text
