"""The loop around a method: what a run that fails has written down."""

from dataclasses import replace

import pytest
from fixtures.fast_compile import fast_compile
from fixtures.tiny_folder import make_tiny_folder

from vtzero.config import ConfigError, MeshConfig, RunConfig, dump_config
from vtzero.data.pipeline import GroupPipeline
from vtzero.training.agreement import check_folder
from vtzero.training.loop import train
from vtzero.training.metrics import read_metrics
from vtzero.training.phases import Phases


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


def test_a_run_may_go_on_with_another_mesh_but_not_with_another_seed(tmp_path):
    config = RunConfig(output_dir=str(tmp_path))
    (tmp_path / "config.yaml").write_text(dump_config(config))
    check_folder(tmp_path, replace(config, seed=1))  # it has not done anything yet
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    check_folder(tmp_path, replace(config, mesh=MeshConfig(fsdp=8)))
    with pytest.raises(ConfigError, match="another seed"):
        check_folder(tmp_path, replace(config, seed=1))
