"""The config of a run: what is read, what is refused, and in which words."""

import dataclasses
from pathlib import Path

import pytest

from vtzero.config import (
    ConfigError,
    MeshConfig,
    RunConfig,
    build_config,
    dump_config,
    load_config,
    parse_overrides,
)

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_of_the_repository_loads_and_reads_back_equal(path, tmp_path):
    config = load_config(path)
    copy = tmp_path / "config.yaml"
    copy.write_text(dump_config(config))
    assert load_config(copy) == config


def test_output_dir_is_named_after_the_file(tmp_path):
    path = tmp_path / "my_run.yaml"
    path.write_text("seed: 1\n")
    assert load_config(path).output_dir == "runs/my_run"


def test_overrides_reach_into_sections(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("learning_rate: 1e-6\n")
    config = load_config(
        path, parse_overrides(["--mesh.fsdp", "2", "--beta=0.1", "--reward_funcs", "[length]"])
    )
    assert config.mesh == MeshConfig(fsdp=2)
    assert (config.beta, config.reward_funcs, config.learning_rate) == (0.1, ("length",), 1e-6)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_generation": 4}, ["num_generation", "did you mean 'num_generations'"]),
        ({"mesh": {"fsdpp": 2}}, ["mesh.fsdpp", "did you mean 'fsdp'"]),
        ({"num_generations": 1}, ["num_generations is 1", "at least 2"]),
        ({"temperature": 0}, ["temperature", "above 0"]),
        ({"top_p": 1.5}, ["top_p is 1.5", "(0, 1]"]),
        ({"max_steps": "many"}, ["max_steps is 'many'", "a whole number"]),
        ({"max_steps": 0}, ["max_steps is 0", "at least 1"]),
        ({"seed": True}, ["seed is True", "a whole number"]),
        ({"loss_type": "ppo"}, ["loss_type is 'ppo'", "grpo, bnpo, dr_grpo, dapo"]),
        ({"gradient_accumulation_steps": 3}, ["gradient_accumulation_steps", "divisor of prompts_per_step"]),
        ({"reward_weights": [1.0]}, ["reward_weights", "as many as reward_funcs"]),
        ({"mesh": 4}, ["mesh", "section"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_bad_value_is_one_line_that_names_the_key(values, words):
    with pytest.raises(ConfigError) as caught:
        build_config(values, "a.yaml")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("a.yaml: ")
    assert all(word in message for word in words)


def test_a_missing_file_and_broken_yaml_are_one_line(tmp_path):
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1\n")
    with pytest.raises(ConfigError, match="not YAML") as caught:
        load_config(broken)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arguments", [["seed", "1"], ["--seed"], ["--"]])
def test_malformed_overrides_are_refused(arguments):
    with pytest.raises(ConfigError):
        parse_overrides(arguments)


def test_every_setting_is_explained_in_the_readme():
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    missing = [field.name for field in dataclasses.fields(RunConfig) if f"`{field.name}`" not in readme]
    assert not missing
