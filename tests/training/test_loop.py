"""The loop around a method: what a run that fails has written down."""

import json
from dataclasses import replace

import pytest
from fixtures.fast_compile import fast_compile
from fixtures.tiny_folder import make_tiny_folder
from safetensors.numpy import load_file, save_file

from vtzero.config import ConfigError, MeshConfig, RunConfig, dump_config
from vtzero.data.pipeline import GroupPipeline
from vtzero.training.agreement import check_folder
from vtzero.training.loop import train
from vtzero.training.metrics import read_metrics
from vtzero.training.phases import Phases
from vtzero.training.watch import BrokenRunError


@pytest.mark.parametrize(("owner", "name"), [(GroupPipeline, "next_batch"), (Phases, "weigh")])
def test_a_step_that_was_done_is_written_though_the_next_one_fails(tmp_path, monkeypatch, owner, name):
    """It fails before it has looked at the report of the step before, and after."""
    whole, calls = getattr(owner, name), []

    def fails(*arguments):
        calls.append(name)
        if len(calls) == 3:
            raise RuntimeError("the third one fails")
        return whole(*arguments)

    monkeypatch.setattr(owner, name, fails)
    config = RunConfig(
        model=str(make_tiny_folder(tmp_path / "model", num_hidden_layers=1)),
        output_dir=str(tmp_path / "run"),
        data=("scenes",),
        max_steps=4,
        prompts_per_step=2,
        num_generations=2,
        max_completion_length=4,
        max_prompt_length=200,
        eval_data=None,
        tensorboard=False,
    )
    with fast_compile(), pytest.raises(RuntimeError, match="the third one fails"):
        train(config, quiet=True)
    assert [step["step"] for step in read_metrics(tmp_path / "run")] == [1, 2]


@pytest.mark.parametrize("method", ["grpo", "sft"])
def test_a_run_whose_numbers_are_broken_skips_its_updates_and_ends(tmp_path, method):
    """Weights so large that no loss is a number: nothing is learnt, and what was asked is written down."""
    folder = make_tiny_folder(tmp_path / "model", num_hidden_layers=1)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][:] = 3e38
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = RunConfig(
        method=method,
        model=str(folder),
        output_dir=str(tmp_path / "run"),
        data=("scenes",),
        max_steps=9,
        prompts_per_step=2,
        num_generations=2,
        num_iterations=2 if method == "grpo" else 1,
        max_completion_length=8,
        max_prompt_length=200,
        max_bad_steps=3,
        eval_data=None,
        tensorboard=False,
    )
    with fast_compile(), pytest.raises(BrokenRunError, match="3 steps in a row skipped their updates"):
        train(config, quiet=True)
    steps = read_metrics(tmp_path / "run")
    assert [step["skipped_updates"] for step in steps] == [config.num_iterations] * 3
    assert [step["loss"] for step in steps] == [None] * 3
    lines = (tmp_path / "run" / "rejected.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if record["kind"] == "update"]
    assert [record["step"] for record in records] == [1, 1, 2, 2, 3, 3]
    assert all("loss nan" in record["reason"] for record in records)
    assert all(len(record.get("completions", ())) == (2 if method == "grpo" else 0) for record in records)
    assert len({record["id"] for record in records}) == 6


def test_a_run_may_go_on_with_another_mesh_but_not_with_another_seed(tmp_path):
    config = RunConfig(output_dir=str(tmp_path))
    (tmp_path / "config.yaml").write_text(dump_config(config))
    check_folder(tmp_path, replace(config, seed=1))  # it has not done anything yet
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    check_folder(tmp_path, replace(config, mesh=MeshConfig(fsdp=8)))
    with pytest.raises(ConfigError, match="another seed"):
        check_folder(tmp_path, replace(config, seed=1))
