"""The scorers on outputs of real models, against the figures that their authors published."""

import json
from pathlib import Path
from typing import Any

import pytest

from vtzero.evaluation.extraction import last_stated_choice
from vtzero.evaluation.items import BenchmarkItem
from vtzero.evaluation.scorers import geoqa, lenient, superclevr

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "real"
BLINK_CHOICES = {"Relative_Depth": ("A is closer", "B is closer"), "Spatial_Relation": ("yes", "no")}

pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="the real outputs are not on this machine")


def r1v(name: str) -> list[tuple[str, BenchmarkItem, dict[str, Any]]]:
    rows = json.loads((REAL / "r1v" / f"{name}.json").read_text())["results"]
    return [
        (
            row["model_output"],
            BenchmarkItem(str(index), "r1v", row["question"]["question"], (), str(row["ground_truth"])),
            row,
        )
        for index, row in enumerate(rows)
    ]


@pytest.mark.parametrize(
    ("name", "percent"),
    [("superclevr_200_qwen2vl_2b_instruct", 48.0), ("superclevr_200_qwen2vl_2b_instruct_grpo100", 82.5)],
)
def test_superclevr(name: str, percent: float) -> None:
    correct = [superclevr(output, item) for output, item, _ in r1v(name)]
    assert len(correct) == 200
    assert 100 * sum(correct) / len(correct) == percent


def test_geoqa_agrees_with_its_authors_on_every_item() -> None:
    rows = r1v("geoqa_test_qwen2vl_7b_instruct")
    correct = [geoqa(output, item) for output, item, _ in rows]
    assert correct == [row["is_correct"] for _, _, row in rows]
    assert round(100 * sum(correct) / len(correct), 2) == 30.64


@pytest.mark.parametrize(
    ("model", "task", "least_agreement"),
    [
        ("llava_v1.5_7b", "Relative_Depth", 1.0),
        ("llava_v1.5_7b", "Spatial_Relation", 1.0),
        ("GPT4V", "Spatial_Relation", 0.98),
        ("GPT4V", "Relative_Depth", 0.93),
    ],
)
def test_blink_free_text_gives_the_letter_that_its_authors_extracted(
    model: str, task: str, least_agreement: float
) -> None:
    rows = json.loads((REAL / "blink" / f"{model}.{task}.json").read_text())["val"]
    letters = {"(A)": 0, "(B)": 1, "(Z)": None}
    stated = [last_stated_choice(row["full_prediction"], BLINK_CHOICES[task]) for row in rows]
    agreed = [index == letters[row["prediction"]] for index, row in zip(stated, rows, strict=True)]
    assert sum(agreed) / len(agreed) >= least_agreement


@pytest.mark.parametrize(("task", "percent"), [("Relative_Depth", 52.42), ("Spatial_Relation", 61.54)])
def test_lenient_gives_the_published_accuracy_of_llava(task: str, percent: float) -> None:
    rows = json.loads((REAL / "blink" / f"llava_v1.5_7b.{task}.json").read_text())["val"]
    correct = [
        lenient(
            row["full_prediction"], BenchmarkItem(row["idx"], task, "", BLINK_CHOICES[task], row["answer"])
        )
        for row in rows
    ]
    assert round(100 * sum(correct) / len(correct), 2) == percent
