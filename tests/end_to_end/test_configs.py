"""Every config of a published row: complete, planned without weights, run for two steps on a tiny model."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from fixtures.command import options, vtzero
from fixtures.data_files import ROWS, write_source
from fixtures.published import write_benchmark
from fixtures.tiny_folder import make_tiny_folder

from vtzero.config import RunConfig, load_config

FOLDER = Path(__file__).parents[2] / "configs"
# Rows whose programs and rewards are those of a row that is not here.
LIKE_ANOTHER = {
    "instruct_rl_answer_only",
    "instruct_rl_freeze_llm",
    "instruct_rl_length_reward",
    "open_r1_multimodal_7b",
    "r1_v_geoqa",
}
ROWS_OF_PAPERS = sorted(path for path in FOLDER.glob("*.yaml") if not path.stem.startswith("tiny"))
NAMES = {
    "visualthinker_r1_zero",
    "visualthinker_sft",
    "visualthinker_modern",
    "instruct_rl_reason",
    "instruct_rl_answer_only",
    "instruct_rl_freeze_vision",
    "instruct_rl_freeze_llm",
    "instruct_rl_length_reward",
    "r1_v_clevr",
    "r1_v_geoqa",
    "r1_multimodal_journey",
    "open_r1_multimodal_2b",
    "open_r1_multimodal_7b",
    "deepseek_r1_zero_text",
}
SMALL = {
    "max_steps": 2,
    "dtype": "float32",
    "prompts_per_step": 2,
    "gradient_accumulation_steps": 2,
    "num_generations": 2,
    "max_prompt_length": 700,
    "max_completion_length": 150,
    "min_pixels": 784,
    "max_pixels": 3136,
    "eval_max_pixels": 3136,
    "eval_batch_size": 2,
    "logging_steps": 1,
    "tensorboard": "false",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_folder(tmp_path_factory.mktemp("model") / "folder", num_hidden_layers=1)


def local_benchmark(config: RunConfig, folder: Path) -> dict[str, str]:
    """The config's own benchmark, of two items."""
    name = str(config.eval_data).partition("=")[0]
    images = {"eval_image_folder": str(folder)} if config.eval_image_folder else {}
    return {"eval_data": f"{name}={write_benchmark(name, folder)}", **images}


def local(config: RunConfig, folder: Path) -> str:
    """The config's own sources, read from small files of the same columns."""
    return json.dumps([f"{name}={write_source(name, folder)}" for name in config.data])


def test_the_rows_are_all_there():
    assert {path.stem for path in ROWS_OF_PAPERS} == NAMES


@pytest.mark.parametrize("path", ROWS_OF_PAPERS, ids=lambda path: path.stem)
def test_a_row_states_every_value(path):
    stated = set(yaml.safe_load(path.read_text()))
    assert stated == {field.name for field in fields(RunConfig)} - {"output_dir"}


@pytest.mark.parametrize("path", ROWS_OF_PAPERS, ids=lambda path: path.stem)
def test_a_row_is_planned_without_weights(path, tmp_path):
    config = load_config(path)
    settings = {"data": local(config, tmp_path), "output_dir": tmp_path / "run"}
    printed, _ = vtzero("train", path, "--dry_run", "--json", *options(**settings))
    figures = json.loads(printed.splitlines()[-1])
    assert figures["parameters"] == (8_291_375_616 if "7B" in config.model else 2_208_985_600)
    assert figures["memory_mib_per_device"]["peak"] > figures["parameters"] * 4 / 2**20
    assert figures["tokens_per_step"]["prompts"] == config.prompts_per_step * config.max_prompt_length
    assert sum(source["rows"] for source in figures["data"]) == ROWS * len(config.data)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.slow] if path.stem in LIKE_ANOTHER else [])
        for path in ROWS_OF_PAPERS
    ],
    ids=lambda path: path.stem,
)
def test_a_row_trains_two_steps(path, model, tmp_path):
    config = load_config(path)
    settings = SMALL | {"model": model, "output_dir": tmp_path / "run", "data": local(config, tmp_path)}
    vtzero("train", path, *options(**settings, **local_benchmark(config, tmp_path)))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert (tmp_path / "run" / "export" / "model.safetensors").is_file()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["eval_items"], summary["eval_rejected"]) == (2, 0)
