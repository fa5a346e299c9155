"""The loop around a method: what a run that fails has written down."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures.fast_compile import fast_compile
from fixtures.tiny_folder import make_tiny_folder
from safetensors.numpy import load_file, save_file

from vtzero.config import ConfigError, MeshConfig, RunConfig, dump_config, load_config
from vtzero.data.pipeline import GroupPipeline
from vtzero.training.agreement import check_folder
from vtzero.training.checkpoints import Checkpoints
from vtzero.training.folder_lock import FolderLock
from vtzero.training.loop import Interrupted, train
from vtzero.training.metrics import read_metrics
from vtzero.training.phases import Phases
from vtzero.training.watch import BrokenRunError


def small(folder, **settings) -> RunConfig:
    """A run that takes seconds, and the model that it begins with."""
    values = {
        "model": str(make_tiny_folder(folder / "model", num_hidden_layers=1)),
        "output_dir": str(folder / "run"),
        "data": ("scenes",),
        "prompts_per_step": 2,
        "num_generations": 2,
        "max_completion_length": 4,
        "max_prompt_length": 200,
        "eval_data": None,
        "tensorboard": False,
    }
    return RunConfig(**values | settings)


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
    config = small(tmp_path, max_steps=4)
    with fast_compile(), pytest.raises(RuntimeError, match="the third one fails"):
        train(config, quiet=True)
    assert [step["step"] for step in read_metrics(tmp_path / "run")] == [1, 2]


@pytest.mark.parametrize("method", ["grpo", "sft"])
def test_a_run_whose_numbers_are_broken_skips_its_updates_and_ends(tmp_path, method):
    """Weights so large that no loss is a number: nothing is learnt, and what was asked is written down."""
    iterations = 2 if method == "grpo" else 1
    config = small(tmp_path, method=method, max_steps=9, num_iterations=iterations, max_bad_steps=3)
    path = Path(config.model) / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.0.mlp.up_proj.weight"][:] = 3e38
    save_file(weights, path, {"format": "pt"})
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


def test_a_stop_after_the_last_step_leaves_the_export_to_the_next_start(tmp_path, monkeypatch):
    config, save = small(tmp_path, max_steps=2), Checkpoints.save

    def stopped(self, *arguments):
        save(self, *arguments)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as context, fast_compile():
        context.setattr(Checkpoints, "save", stopped)
        with pytest.raises(Interrupted, match="the same command goes on after step 2"):
            train(config, quiet=True)
    assert not (tmp_path / "run" / "export").exists()
    with fast_compile():
        assert train(config, quiet=True)["steps"] == 2
    assert (tmp_path / "run" / "export" / "model.safetensors").is_file()


OUT_OF_ORDER = """
import pathlib

def judge(completions, **columns):
    calls = pathlib.Path(__file__).with_suffix(".calls")
    calls.write_text(calls.read_text() + "x" if calls.exists() else "x")
    if 3 <= len(calls.read_text()) <= 7:  # the call of step 3, and each completion of it alone
        raise OSError("the judge is away")
    return [float(len(text) % 3) for text in completions]
"""


def test_a_reward_that_is_away_for_a_step_costs_that_step_alone(tmp_path):
    (tmp_path / "judge.py").write_text(OUT_OF_ORDER)
    config = small(tmp_path, max_steps=4, reward_funcs=(f"{tmp_path}/judge.py:judge",))
    with fast_compile():
        train(config, quiet=True)
    steps = read_metrics(tmp_path / "run")
    assert [step["unscored_completions"] for step in steps] == [0, 0, 4, 0]
    assert [step["reward"] is None for step in steps] == [False, False, True, False]
    assert steps[2]["loss"] == 0
    assert steps[3]["grad_norm"] > 0


def test_rows_that_end_a_run_are_written_down(tmp_path):
    rows = [{"question": "Where?", "answer": "left", "image": f"{row}.png"} for row in range(3)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    config = small(tmp_path, data=(str(tmp_path / "rows.json"),))
    with fast_compile(), pytest.raises(ValueError, match=r"every row of .* was rejected"):
        train(config, quiet=True)
    records = [json.loads(line) for line in (tmp_path / "run" / "rejected.jsonl").read_text().splitlines()]
    assert {record["kind"] for record in records} == {"sample"}
    assert {record["step"] for record in records} == {1}
    assert len({record["id"] for record in records}) == 3
    assert all("there is no file" in record["reason"] for record in records)


def test_a_folder_that_another_run_writes_is_left_alone(tmp_path):
    config, lock = small(tmp_path), FolderLock(tmp_path / "run")
    lock.acquire()
    with pytest.raises(ConfigError, match=f"is being written by process {os.getpid()} on "):
        train(config, quiet=True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    lock.release()


def test_a_run_goes_on_with_another_config_where_that_is_allowed(tmp_path, capsys):
    before = small(tmp_path, max_steps=1, learning_rate=1e-3)
    after = replace(before, max_steps=2, learning_rate=1e-4)
    with fast_compile():
        train(before, quiet=True)
        with pytest.raises(ConfigError, match=r"learning_rate \(0.001, not 0.0001\).*--allow_changes"):
            train(after, quiet=True)
        train(after, quiet=True, allow_changes=True)
    assert "goes on with another" in capsys.readouterr().err
    assert load_config(tmp_path / "run" / "config.until-1.yaml") == before
    assert load_config(tmp_path / "run" / "config.yaml") == after
    with pytest.raises(ConfigError, match=r"seed \(42, not 43\); no run can go on with another seed: "):
        train(replace(after, seed=43), quiet=True, allow_changes=True)
    assert [step["step"] for step in read_metrics(tmp_path / "run")] == [1, 2]


def test_a_run_may_go_on_with_another_mesh_but_not_with_another_seed(tmp_path):
    config = RunConfig(output_dir=str(tmp_path))
    (tmp_path / "config.yaml").write_text(dump_config(config))
    check_folder(tmp_path, replace(config, seed=1))  # it has not done anything yet
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    check_folder(tmp_path, replace(config, mesh=MeshConfig(fsdp=8)))
    with pytest.raises(ConfigError, match="another seed"):
        check_folder(tmp_path, replace(config, seed=1))
