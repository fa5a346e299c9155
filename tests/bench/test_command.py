"""The real command on the shipped model, and the mistakes it names."""

import json
from pathlib import Path

import pytest
from fixtures.command import options, vtzero

from vtzero.bench.command import BenchSettings, bench, parse_image_size, parse_lengths
from vtzero.cli import main

CONFIG = Path(__file__).parents[2] / "configs" / "tiny.yaml"
SMALL = {"prompts_per_step": 2, "num_generations": 2, "max_completion_length": 8}


def test_bench_measures_the_phases_and_prints_their_figures():
    shapes = ("--prompt-length", 32, "--image-size", 56)
    some = ("--only", "prefill,decode,update", "--repeats", 1)
    growth = ("--compare", "growth", "--lengths", "4")
    printed, progress = vtzero("bench", CONFIG, "--json", *shapes, *some, *growth, *options(**SMALL))
    figures = json.loads(printed.splitlines()[-1])
    assert figures["device"]["platform"] == "cpu"
    assert figures["ceilings"]["flops_per_second"] > 0
    assert figures["ceilings"]["bytes_per_second"] > 0
    assert figures["shapes"] == {
        "batch": 2,
        "prompt": 32,
        "group": 2,
        "completion": 8,
        "grids": [[1, 4, 4]],
        "patches": 16,
    }
    assert list(figures["phases"]) == ["prefill", "decode", "update"]
    for row in figures["phases"].values():
        assert row["floor_seconds"] > 0
        assert row["mfu"] > 0
    assert figures["memory"]["bytes"] > 643_840 * 4
    assert [row["length"] for row in figures["growth"]] == [4]
    assert "update: compiled in" in progress


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--only", "dream"), "dream"),
        (("--compare", "dream"), "dream"),
        (("--size", "Qwen2-VL-3B"), "Qwen2-VL-2B"),
        (("--image-size", "wide"), "WIDTHxHEIGHT"),
        (("--image-size", "2000x2000"), "--image-size"),
        (("--prompts_per_day", "8"), "prompts_per_step"),
    ],
)
def test_a_mistake_is_one_line(arguments, named, capsys):
    assert main(["bench", str(CONFIG), *arguments]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert len(error.splitlines()) == 1


def test_names_are_read_in_their_own_order():
    settings = BenchSettings(only=("update", "prefill"), compare=("growth", "grouped"))
    assert settings.phases == ("prefill", "update")
    assert settings.comparisons == ("grouped", "growth")
    assert BenchSettings(only=("none",)).phases == ()
    assert "step" in BenchSettings().phases
    assert BenchSettings().comparisons == ()


def test_numbers_are_read():
    assert parse_image_size("640x480") == (640, 480)
    assert parse_image_size("224") == (224, 224)
    assert parse_lengths("32,128") == (32, 128)
    with pytest.raises(ValueError, match="--lengths"):
        parse_lengths("many")


def test_what_needs_a_config_is_refused_without_one():
    for settings in (
        BenchSettings(only=("vision",)),
        BenchSettings(compare=("head",)),
        BenchSettings(size="Qwen2-VL-2B"),
    ):
        with pytest.raises(ValueError, match="name a config first"):
            bench(None, settings)
