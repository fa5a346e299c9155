"""The real command for a small slice, and the mistakes it names."""

import json
import sys
from importlib.util import find_spec

import pytest
from fixtures.command import options, vtzero
from planning.steps import CONFIG, SMALL

from vtzero.cli import main
from vtzero.config import load_config
from vtzero.planning.apart import compile_here
from vtzero.planning.command import PlanSettings, plan

needs_libtpu = pytest.mark.skipif(find_spec("libtpu") is None, reason="needs libtpu, which needs no TPU")
SLICE = ("--topology", "v5e:2x2")


@needs_libtpu
def test_the_tiny_model_fits_four_chips_by_far():
    mesh = ("--mesh.fsdp", 2, "--mesh.tensor", 2)
    small = options(**SMALL | {"prompts_per_step": 4, "attention": "xla"})
    only = ("--only", "sampling,update")
    printed, progress = vtzero("plan", CONFIG, *SLICE, "--json", *only, *small, *mesh)
    figures = json.loads(printed.splitlines()[-1])
    (planned,) = figures["slices"]
    assert planned["chips"] == 4
    assert planned["mesh"] == {"data": 1, "fsdp": 2, "tensor": 2}
    assert [row["name"] for row in planned["programs"]] == ["sampling", "update"]
    assert planned["fits"]
    parameters = planned["held"]["parameters"]
    assert figures["parameters"] * 4 / 4 <= parameters < figures["parameters"] * 4 / 2
    assert planned["held"]["optimizer"] == pytest.approx(2 * parameters, rel=1e-3)
    for row in planned["programs"]:
        assert row["memory"] > sum(planned["held"].values())
        assert row["received_bytes"] > 0
        assert row["predicted_seconds"] > 0
        assert row["host_memory"] > 2**28
    assert "update (micro-batches 1) compiled in" in progress


def planned(only, *, values, **settings):
    config = load_config(CONFIG, SMALL | values)
    asked = PlanSettings(topologies=("v5e:2x2",), only=only, **settings)
    return plan(config, asked, compile_here)["slices"][0]


@needs_libtpu
def test_a_search_prints_its_ranking_and_the_flags_of_the_best(capsys):
    found = planned(("scoring",), values={"prompts_per_step": 4}, search=True)
    assert found["compiled"] == 1
    assert found["fits"]
    assert found["searched"][0]["state"] == "fits"
    assert found["searched"][0]["mesh"] == found["mesh"]
    printed = capsys.readouterr().out
    assert f"The best of them: {found['flags']}" in printed
    assert "10 meshes and micro-batches, 1 of them compiled" in " ".join(printed.split())


LARGE = {"prompts_per_step": 4096, "num_generations": 64, "max_completion_length": 72}


@needs_libtpu
def test_where_it_does_not_fit_what_was_tried_is_said(capsys):
    found = planned(("scoring",), values=LARGE, compile_at_most=1)
    assert not found["fits"]
    assert found["predicted_seconds"] is None
    assert [row["state"] for row in found["changes"]] == ["does not fit"]
    assert found["changes"][0]["mesh"] == {"data": 1, "fsdp": 4, "tensor": 1}
    assert found["what_fits"] is None
    printed = capsys.readouterr().out
    assert "scoring was refused: RESOURCE_EXHAUSTED" in printed
    assert "beta 0 changes the objective" in printed


@needs_libtpu
def test_nothing_is_tried_where_no_changes_are_wanted():
    found = planned(("scoring",), values=LARGE, changes=False)
    assert not found["fits"]
    assert "changes" not in found


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "--topology"),
        (("--topology", "v9:4x4"), "known are v5e:2x2"),
        ((*SLICE, "--size", "Qwen2-VL-3B"), "Qwen2-VL-2B"),
        ((*SLICE, "--only", "dream"), "dream"),
        ((*SLICE, "--only", "scoring", "--beta", "0"), "--only names scoring"),
        ((*SLICE, "--compile-at-most", "0"), "--compile-at-most is 0"),
        ((*SLICE, "--method", "sft"), "sft"),
        pytest.param((*SLICE, "--mesh.fsdp", "3"), "needs a multiple of 3 devices", marks=needs_libtpu),
        pytest.param((*SLICE, "--mesh.tensor", "8"), "8 devices, but there are 4", marks=needs_libtpu),
        pytest.param(
            ("--topology", "v5e:4x4", "--mesh.tensor", "16"), "cannot share out", marks=needs_libtpu
        ),
        pytest.param((*SLICE, "--prompts_per_step", "6"), "data * fsdp = 4 devices", marks=needs_libtpu),
        pytest.param(
            ("--topology", "v5e:16x16", "--search", "--prompts_per_step", "3"),
            "no mesh of v5e:16x16's 256 chips",
            marks=needs_libtpu,
        ),
    ],
)
def test_a_mistake_is_one_line(arguments, named, capsys):
    assert main(["plan", str(CONFIG), *arguments]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert len(error.splitlines()) == 1


def test_without_libtpu_the_extra_that_has_it_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    assert main(["plan", str(CONFIG), *SLICE]) == 2
    assert "pip install 'vtzero[plan]'" in capsys.readouterr().err
