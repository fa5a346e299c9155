"""The real command for a small slice, and the mistakes it names."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from fixtures.command import options, vtzero

from vtzero.cli import main

CONFIG = Path(__file__).parents[2] / "configs" / "tiny.yaml"
SMALL = {"prompts_per_step": 4, "num_generations": 2, "max_completion_length": 16, "attention": "xla"}


@pytest.mark.skipif(find_spec("libtpu") is None, reason="needs libtpu, which needs no TPU")
def test_the_tiny_model_fits_four_chips_by_far():
    mesh = ("--mesh.fsdp", 2, "--mesh.tensor", 2)
    printed, progress = vtzero("plan", CONFIG, "--topology", "v5e:2x2", "--json", *options(**SMALL), *mesh)
    figures = json.loads(printed.splitlines()[-1])
    (planned,) = figures["slices"]
    assert planned["chips"] == 4
    assert planned["mesh"] == {"data": 1, "fsdp": 2, "tensor": 2}
    assert [row["name"] for row in planned["programs"]] == ["sampling", "scoring", "update"]
    assert planned["fits"]
    parameters = planned["held"]["parameters"]
    assert figures["parameters"] * 4 / 4 <= parameters < figures["parameters"] * 4 / 2
    assert planned["held"]["optimizer"] == pytest.approx(2 * parameters, rel=1e-3)
    for row in planned["programs"]:
        assert row["memory"] > sum(planned["held"].values())
        assert row["received_bytes"] > 0
        assert row["predicted_seconds"] > 0
    assert "update compiled in" in progress


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "--topology"),
        (("--topology", "v9:4x4"), "known are v5e:2x2"),
        (("--topology", "v5e:2x2", "--size", "Qwen2-VL-3B"), "Qwen2-VL-2B"),
        (("--topology", "v5e:2x2", "--only", "dream"), "dream"),
        (("--topology", "v5e:2x2", "--method", "sft"), "sft"),
    ],
)
def test_a_mistake_is_one_line(arguments, named, capsys):
    assert main(["plan", str(CONFIG), *arguments]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert len(error.splitlines()) == 1
