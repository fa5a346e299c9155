"""How a run tells of itself where there is no terminal, and when it takes a terminal for one."""

import json
import math
import os
from pathlib import Path

import pytest

from vtzero.training.completions import CompletionRow
from vtzero.training.panel import Panel
from vtzero.training.progress import JsonLines, Lines, Progress, open_progress

EVALUATION = {"accuracy": 50.0, "accuracy_lenient": 75.0, "mean_length": 9.5, "n": 4, "interval": None}
TEXT = "\x1b]0;title\x07 \u202e [red]x[/red]"
SCORES = {"rewards": {"accuracy": math.nan}, "reward": math.nan, "advantage": 0.0}
HOSTILE = CompletionRow("\x1b[2Jwho?", TEXT, length=3, terminated=True, answer="2", **SCORES)
FIGURES = {"steps": 4, "seconds": 2.0}


def tell(progress: Progress) -> None:
    """All that a run says; only every second step is logged."""
    progress.start()
    progress.notice("goes on after step 2")
    progress.phase("compiling")
    progress.compiled("update", 1, 2, 0.1)
    progress.compiled("sampling", 2, 2, 3.0)
    for step in (3, 4):
        progress.phase("gen")
        progress.step(step, {"reward": math.nan, "loss": 0.5}, logged=step == 4)
    progress.completions(4, [HOSTILE, HOSTILE])
    progress.completions(4, [])
    progress.evaluating(2, 4)
    progress.evaluated(4, EVALUATION)
    progress.finished(FIGURES, Path("run"))
    progress.close()


def test_plain_lines_are_one_a_logged_step_without_control_characters(capsys):
    tell(Lines(4))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "goes on after step 2",
        "compiling the programs of a step",
        "compiled 2/2: sampling in 3.0 s",
        "step 4/4  reward nan  loss 0.5000  left 0:00:00",
    ]
    assert (
        "step 4: held-out accuracy 50.0 % strict, 75.0 % lenient, mean length 9.5 tokens (4 items)" in lines
    )
    assert lines[-1] == "report: vtzero report run"
    assert all(letter.isprintable() for line in lines for letter in line)
    assert "\\x1b]0;title\\x07 \\u202e [red]x[/red]" in "\n".join(lines)


def test_json_is_an_object_a_logged_step_evaluation_and_printed_completion(capsys):
    tell(JsonLines())
    printed = capsys.readouterr()
    step, completion, evaluation = map(json.loads, printed.out.splitlines())
    assert step == {"step": 4, "reward": None, "loss": 0.5}
    assert completion["completion"]["completion"] == HOSTILE.completion
    assert completion["completion"]["rewards"] == {"accuracy": None}
    assert evaluation == {"step": 4, "evaluation": EVALUATION}
    assert all(line.isascii() and line.isprintable() for line in printed.out.splitlines())
    assert printed.err == "goes on after step 2\n"


def test_quiet_says_nothing(capsys):
    tell(Progress())
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def terminal(monkeypatch):
    """What is opened where standard output is a terminal, and the environment says nothing against it."""
    for name in ("CI", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    own, other = os.openpty()
    with os.fdopen(own), os.fdopen(other, "w") as file:

        def opened(**asked: bool) -> type[Progress]:
            with monkeypatch.context() as patch:
                patch.setattr("sys.stdout", file)
                return type(open_progress(4, 0, "run", **asked))

        yield opened


def test_a_terminal_has_the_panel(terminal):
    assert terminal() is Panel
    assert terminal(as_json=True) is JsonLines
    assert terminal(quiet=True) is Progress
    assert terminal(quiet=True, as_json=True) is Progress


def test_a_terminal_without_colour_has_it_too(terminal, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal() is Panel


@pytest.mark.parametrize("variable", [("TERM", "dumb"), ("TERM", ""), ("CI", "true")])
def test_a_terminal_that_can_do_nothing_and_a_build_server_have_lines(terminal, monkeypatch, variable):
    monkeypatch.setenv(*variable)
    assert terminal() is Lines


def test_a_pipe_has_lines_whatever_is_forced(capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("CI", raising=False)
    assert type(open_progress(4, 0, "run")) is Lines
