"""The main job on the base model that ships: thinking pays, and reinforcement finds it."""

import json
from pathlib import Path

import pytest
from fixtures.command import options, vtzero
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

from vtzero.training.setup import TINY_BASE, model_folder

CONFIG = Path(__file__).parents[2] / "configs" / "tiny.yaml"


def accuracy_after(opening):
    """Lenient accuracy (percent) of the base on 400 held-out scenes, answers made to start with `opening`."""
    lengths = ["--limit", 400, "--batch-size", 100, "--max-prompt-length", 120]
    printed, _ = vtzero("eval", "--json", *lengths, "--opening", opening, environment={"XLA_FLAGS": ""})
    return json.loads(printed.splitlines()[-1])["accuracy_lenient"]


def test_the_base_that_ships_is_an_ordinary_hugging_face_folder():
    folder = model_folder(TINY_BASE)
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder)
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000
    ids = AutoTokenizer.from_pretrained(folder)("<|image_pad|>").input_ids
    assert ids == [model.config.image_token_id]


@pytest.mark.slow
def test_the_base_is_better_by_20_points_when_it_lists_what_it_sees():
    assert accuracy_after(" I see") >= accuracy_after(" The answer is") + 20


@pytest.mark.slow
def test_grpo_teaches_more_than_format_and_answers_grow(tmp_path):
    out = tmp_path / "run"
    vtzero("train", CONFIG, *options(output_dir=out, seed=3), environment={"XLA_FLAGS": ""})
    summary = json.loads((out / "summary.json").read_text())
    assert summary["eval_items"] == 400
    assert summary["accuracy_after"] >= summary["accuracy_before"] + 25
    assert summary["accuracy_lenient_after"] >= summary["accuracy_lenient_before"] + 10
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    lengths = [line["completions/mean_length"] for line in metrics]
    means = [sum(lengths[start : start + 10]) / 10 for start in range(0, len(lengths), 10)]
    assert means[-1] >= 1.3 * min(means)
