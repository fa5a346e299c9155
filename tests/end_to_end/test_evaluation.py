"""`vtzero eval` on named benchmarks: interrupted and continued, settings on record, errors of one line."""

import json
import os
import signal
import subprocess
import sys
import time

import huggingface_hub.constants
import pytest
from fixtures.command import options, vtzero
from fixtures.fast_compile import FAST_COMPILE_FLAGS
from fixtures.published import CV_BENCH_COLUMNS, cv_bench_row, write_parquet
from fixtures.tiny_folder import make_tiny_folder

from vtzero.cli import main

ITEMS = 150
SMALL = {"max-completion-length": 24, "max-prompt-length": 300, "batch-size": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_folder(tmp_path_factory.mktemp("model") / "folder")


@pytest.fixture(scope="module")
def arguments(model, tmp_path_factory):
    rows = [cv_bench_row(number) for number in range(ITEMS)]
    rows[5]["image"] = {"bytes": b"no image", "path": None}
    path = write_parquet(tmp_path_factory.mktemp("data") / "test.parquet", CV_BENCH_COLUMNS, rows)
    return ["eval", *options(model=model, benchmark=f"cv_bench={path}", **SMALL)]


def end_midway(command, items, number):
    """Start the command and send it a signal once it has written some items; its exit code."""
    variables = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": FAST_COMPILE_FLAGS}
    process = subprocess.Popen([sys.executable, "-m", "vtzero.cli", *map(str, command)], env=variables)
    end = time.monotonic() + 120
    while not items.exists() or items.read_bytes().count(b"\n") < 10:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(number)
    return process.wait()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 130)])
def test_an_evaluation_that_was_ended_continues_to_the_same_bytes(arguments, tmp_path, capsys, number, code):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    vtzero(*arguments, "--out", whole)
    items = killed / "eval" / "cv_bench-0.jsonl"
    assert end_midway([*arguments, "--out", killed], items, number) == code
    assert not items.with_suffix(".json").exists()
    answered = items.read_bytes().count(b"\n")
    assert answered < ITEMS - 1
    items.write_bytes(items.read_bytes()[:-7])  # a line that the crash cut off
    printed, _ = vtzero(*arguments, "--json", "--out", killed)
    for name in ("cv_bench-0.json", "cv_bench-0.jsonl"):
        assert (killed / "eval" / name).read_bytes() == (whole / "eval" / name).read_bytes()
    assert len(list((killed / "eval").iterdir())) == 2

    figures = json.loads(printed.splitlines()[-1])
    assert (figures["n"], figures["rejected"]) == (ITEMS - 1, 1)
    assert (figures["prompt_template"], figures["max_completion_length"]) == ("r1_zero_base", 24)
    assert (figures["max_pixels"], figures["temperature"]) == (28 * 28 * 16, 0.0)
    assert "accuracy_paper" in figures["tasks"]["Relation"]

    code, error = refused(capsys, *arguments, "--max-pixels", 5000, "--out", killed)
    assert "another max_pixels 12544, now 5000" in error
    assert code == 2


def refused(capsys, *arguments):
    """The exit code and the one line of a command that fails before it compiles anything, run right here."""
    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr().err.splitlines()
    (line,) = [line for line in said if "; asked again in " not in line]
    return code, line


def test_no_network_is_one_line_that_names_the_local_form(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("VTZERO_CACHE", str(tmp_path))
    code, error = refused(capsys, "eval", "--model", model, "--benchmark", "cv_bench")
    assert code == 2
    assert "nyu-visionx/CV-Bench" in error
    assert "NAME=FILE.parquet" in error


def test_a_benchmark_of_which_nothing_can_be_asked_is_one_line(model, tmp_path, capsys):
    row = cv_bench_row(0, image={"bytes": b"no image", "path": None})
    path = write_parquet(tmp_path / "test.parquet", CV_BENCH_COLUMNS, [row])
    code, error = refused(capsys, "eval", "--model", model, "--benchmark", f"cv_bench={path}")
    assert code == 2
    assert "no item could be asked" in error


def test_training_evaluates_with_a_prompt_and_an_image_limit_of_its_own(model, tmp_path):
    path = write_parquet(
        tmp_path / "test.parquet", CV_BENCH_COLUMNS, [cv_bench_row(number) for number in range(4)]
    )
    config = tmp_path / "run.yaml"
    config.write_text(
        f"model: {model}\nmax_steps: 1\nprompts_per_step: 2\nnum_generations: 2\nmax_completion_length: 6\n"
        f"max_prompt_length: 400\neval_data: cv_bench={path}\neval_limit: 3\neval_batch_size: 2\n"
        "eval_prompt_template: instruct_plain\neval_max_pixels: 3136\nmax_pixels: 6272\nbeta: 0\n"
        "tensorboard: false\n"
    )
    run = tmp_path / "run"
    vtzero("train", config, "--output_dir", run)
    summary = json.loads((run / "eval" / "cv_bench-1.json").read_text())
    assert (summary["n"], summary["prompt_template"], summary["max_pixels"]) == (3, "instruct_plain", 3136)
    first = json.loads((run / "eval" / "cv_bench-1.jsonl").read_text().splitlines()[0])
    assert first["prompt"].startswith("<|im_start|>system")
    assert (run / "eval" / "cv_bench-0.json").exists()
    # The run, or its export, is asked as the run asked it unless the command says otherwise.
    asked = ["eval", "--json", *options(model=run, benchmark=f"cv_bench={path}", limit=3, batch_size=2)]
    asked = [str(word).replace("batch_size", "batch-size") for word in asked]
    again = json.loads(vtzero(*asked)[0].splitlines()[-1])
    named = ("n", "prompt_template", "max_pixels", "max_completion_length", "mean_length")
    assert [again[name] for name in named] == [summary[name] for name in named]
