"""Our rows beside the paper's: read from run folders, grouped by label, averaged over seeds."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from vtzero.evaluation.totals import wilson_interval
from vtzero.reports.results import read_results
from vtzero.reports.tables import our_rows, paper_table, table_figures

TASKS = ("Count", "Relation", "Depth", "Distance")


def write_evaluation(
    run: Path, benchmark: str, step: int, right: dict[str, int], of: int = 10, source: str = ""
) -> None:
    folder = run / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "task": task,
            "id": f"{task}{i}",
            "choices": ["left", "right"],
            "answer": "left",
            "output": f"<answer>{'left' if i < right[task] else 'right'}</answer>",
            "source": source,
        }
        for task in right
        for i in range(of)
    ]
    (folder / f"{benchmark}-{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{benchmark}-{step}.json").write_text("{}")


@pytest.fixture
def runs(tmp_path):
    for seed, count in enumerate((6, 8)):
        run = tmp_path / f"grpo-{seed}"
        write_evaluation(run, "scenes", 0, dict.fromkeys(TASKS, 1))
        write_evaluation(run, "scenes", 50, dict.fromkeys(TASKS, 2))
        write_evaluation(run, "scenes", 100, {**dict.fromkeys(TASKS, 5), "Count": count})
        (run / "config.yaml").write_text("method: grpo\n")
    return [str(tmp_path / f"grpo-{seed}") for seed in (0, 1)]


def shown(table) -> str:
    console = Console(width=220)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_a_run_gives_its_base_and_its_method(runs):
    base, grpo = our_rows(read_results(runs, "strict"))
    assert (base.label, grpo.label) == ("base", "GRPO")
    assert base.cells["Total"].values == (10.0, 10.0)
    assert grpo.cells["Count"].values == (60.0, 80.0)
    assert grpo.cells["Count"].text() == "70.00 ± 14.14"
    assert grpo.cells["Total"].n == 40
    intervals = [wilson_interval(correct, 40) for correct in (21, 23)]
    assert grpo.cells["Total"].interval == pytest.approx(
        [100 * sum(interval[side] for interval in intervals) / 2 for side in (0, 1)]
    )


def test_a_label_takes_the_last_evaluation(runs):
    (row,) = our_rows(read_results([f"mine={runs[0]}"], "strict"))
    assert row.label == "mine"
    assert row.cells["Count"].values == (60.0,)


def test_the_scorer_is_chosen(runs):
    (paper,) = our_rows(read_results([f"base={runs[0]}"], "paper"))
    assert paper.cells["Count"].values == (60.0,)
    with pytest.raises(ValueError, match="known are"):
        read_results(runs, "loose")


def test_answers_without_tags_count_by_what_they_state(tmp_path):
    write_evaluation(tmp_path / "run", "scenes", 0, dict.fromkeys(TASKS, 10))
    path = tmp_path / "run" / "eval" / "scenes-0.jsonl"
    path.write_text(path.read_text().replace("<answer>left</answer>", " left"))
    (row,) = our_rows(read_results([f"sft={tmp_path / 'run'}"], "strict"))
    assert row.cells["Total"].values == (100.0,)


def test_other_benchmarks_are_columns_of_their_own(tmp_path):
    run = tmp_path / "results"
    write_evaluation(run, "cv_bench", 0, dict.fromkeys(TASKS, 3))
    write_evaluation(run, "vsr", 0, {"VSR": 7})
    (row,) = our_rows(read_results([f"ours={run}"], "strict"))
    assert row.benchmarks == ("cv_bench", "vsr")
    assert row.cells["VSR"].values == (70.0,)
    assert "official" not in row.cells


def test_cv_benchs_official_score_stands_beside_the_papers_total(tmp_path):
    run = tmp_path / "results"
    for number, (source, right) in enumerate({"ADE20K": 2, "COCO": 4, "Omni3D": 9}.items()):
        write_evaluation(run, f"part{number}", 0, {"Count": right}, source=source)
    parts = [(run / "eval" / f"part{number}-0.jsonl").read_text() for number in range(3)]
    (run / "eval" / "cv_bench-0.jsonl").write_text("".join(parts))
    (run / "eval" / "cv_bench-0.json").write_text("{}")
    (row,) = our_rows([s for s in read_results([f"ours={run}"], "strict") if s.benchmark == "cv_bench"])
    assert row.cells["official"].values == pytest.approx((0.5 * ((20 + 40) / 2 + 90),))


@pytest.mark.parametrize("number", [3, 4, 5])
def test_the_table_shows_the_paper_and_us(runs, number):
    text = shown(paper_table(number, read_results(runs, "strict"), "strict"))
    assert "ours: GRPO (scenes)" in text
    assert "2 × 40" in text
    assert ("0.16*" in text) is (number == 3)
    assert ("53.18†" in text) is (number == 3)
    assert len(table_figures(number, read_results(runs, "strict"), "strict")["ours"]) == 2


def test_bad_runs_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_results([str(tmp_path / "nowhere")], "strict")
    with pytest.raises(ValueError, match="no finished evaluation"):
        read_results([str(tmp_path)], "strict")
    with pytest.raises(ValueError, match="tables of results are 3, 4, 5"):
        paper_table(2, [], "strict")
