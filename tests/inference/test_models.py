"""What folder `--model` means, and what of a run's settings goes with it."""

from dataclasses import replace

import pytest
from fixtures.tiny_folder import make_tiny_folder

from vtzero.config import RunConfig, dump_config
from vtzero.inference.models import ModelSettings, resolved

RUN = RunConfig(
    output_dir="run",
    prompt_template="base_plain",
    max_completion_length=40,
    max_prompt_length=500,
    min_pixels=784,
    max_pixels=3136,
    eval_prompt_template="instruct_plain",
    eval_max_pixels=6272,
)


@pytest.fixture
def run(tmp_path):
    """A run's folder that has its export."""
    folder = tmp_path / "run"
    make_tiny_folder(folder / "export")
    (folder / "config.yaml").write_text(dump_config(RUN))
    return folder


def of(chosen):
    settings = chosen.settings
    return chosen.prompt_template, chosen.max_completion_length, settings.min_pixels, settings.max_pixels


@pytest.mark.parametrize("name", [".", "export"])
def test_a_run_and_its_export_are_asked_as_the_run_was_trained(run, name):
    chosen = resolved(ModelSettings(model=str(run / name)))
    assert chosen.max_prompt_length == 1024  # a person may ask longer questions
    assert chosen.folder == run / "export"
    assert of(chosen) == ("base_plain", 40, 784, 3136)
    assert chosen.run == RUN
    for said in ("base_plain", "max_completion_length 40", "max_pixels 3136"):
        assert said in chosen.note


def test_an_evaluation_asks_as_the_run_evaluates(run):
    chosen = resolved(ModelSettings(model=str(run)), evaluation=True)
    assert chosen.max_prompt_length == RUN.max_prompt_length
    assert of(chosen) == ("instruct_plain", 40, 784, 6272)


def test_what_is_asked_for_goes_before_the_runs_own(run):
    asked = ModelSettings(
        model=str(run),
        prompt_template="r1_v",
        max_completion_length=9,
        max_prompt_length=90,
        min_pixels=800,
        max_pixels=5000,
    )
    assert resolved(asked).max_prompt_length == 90
    assert of(resolved(asked)) == ("r1_v", 9, 800, 5000)
    assert "r1_v" not in resolved(asked).note
    assert resolved(replace(asked, model=str(run / "export"))).note is None


def test_a_model_that_no_run_wrote_has_the_plain_defaults(tmp_path):
    for name in ("tiny", str(make_tiny_folder(tmp_path / "export"))):
        chosen = resolved(ModelSettings(model=name))
        assert of(chosen) == ("r1_zero_base", 72, None, None)
        assert chosen.run is chosen.note is None


def test_a_run_that_has_no_export_says_how_to_make_one(run):
    (run / "export" / "config.json").unlink()
    with pytest.raises(ValueError, match="neither export/ nor checkpoints/"):
        resolved(ModelSettings(model=str(run)))
    (run / "checkpoints").mkdir()
    with pytest.raises(ValueError, match=f"`vtzero export {run} OUT`"):
        resolved(ModelSettings(model=str(run)))


def test_an_imported_model_says_how_to_make_a_folder_of_it(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match=f"`vtzero export {tmp_path} OUT`"):
        resolved(ModelSettings(model=str(tmp_path)))
