"""What a run tells while it runs: nothing, a line a logged step, or a JSON object a logged step.

A terminal has the live panel of `panel.py`. Knows no files and no arrays, and nothing of it enters a run's
folder.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from vtzero.training.completions import CompletionRow
from vtzero.training.told import (
    Pace,
    completion_lines,
    completion_object,
    evaluation_line,
    finite,
    result_lines,
    step_line,
)


class Progress:
    """Tells nothing; the others tell what they override. Any thread may call `compiled` and `stopping`."""

    def start(self) -> None:
        """The run begins."""

    def phase(self, name: str) -> None:
        """A phase begins: data, gen, reward, ref, update, eval, saving or export."""

    def compiled(self, name: str, done: int, total: int, seconds: float) -> None:
        """One of the programs of a run is ready."""

    def step(self, index: int, metrics: Mapping[str, float], *, logged: bool = True) -> None:
        """A step is done."""

    def completions(self, index: int, rows: Sequence[CompletionRow]) -> None:
        """Completions of a step whose turn it is to be printed."""

    def evaluating(self, done: int, total: int) -> None:
        """An evaluation goes on."""

    def evaluated(self, index: int, measured: Mapping[str, Any]) -> None:
        """An evaluation is done."""

    def notice(self, line: str) -> None:
        """Something that a person should know."""

    def stopping(self) -> None:
        """The run was asked to stop."""
        self.notice("stopping at the next safe point; a second signal ends it at once")

    def finished(self, figures: Mapping[str, Any], folder: Path) -> None:
        """The run is done; `figures` are those of `summary.json`."""

    def give_back(self) -> None:
        """The process ends at once, whatever it is doing: whoever used the terminal gives it back."""

    def close(self) -> None:
        """Nothing more is told."""


class Lines(Progress):
    """Plain lines, one a logged step, without any control character."""

    def __init__(self, total: int):
        self._total, self._pace, self._printing = total, Pace(total), Lock()

    def phase(self, name: str) -> None:
        if name == "compiling":
            self._say("compiling the programs of a step")

    def compiled(self, name: str, done: int, total: int, seconds: float) -> None:
        if seconds >= 1:
            self._say(f"compiled {done}/{total}: {name} in {seconds:.1f} s")

    def step(self, index: int, metrics: Mapping[str, float], *, logged: bool = True) -> None:
        self._pace.ended(index)
        if logged:
            self._say(step_line(index, self._total, metrics, self._pace.left()))

    def completions(self, index: int, rows: Sequence[CompletionRow]) -> None:
        if rows:
            self._say(*completion_lines(index, rows[0]))

    def evaluated(self, index: int, measured: Mapping[str, Any]) -> None:
        self._say(evaluation_line(index, measured))

    def notice(self, line: str) -> None:
        self._say(line)

    def finished(self, figures: Mapping[str, Any], folder: Path) -> None:
        self._say(*result_lines(figures, folder))

    def _say(self, *lines: str) -> None:
        with self._printing:
            # In one piece: others write to the same terminal, as the line that the run was interrupted.
            sys.stdout.write("".join(f"{line}\n" for line in lines))
            sys.stdout.flush()


class JsonLines(Progress):
    """A JSON object a logged step, evaluation and printed completion; notices go to standard error.

    The last line, the summary, is printed by the command line, as of every verb.
    """

    def step(self, index: int, metrics: Mapping[str, float], *, logged: bool = True) -> None:
        if logged:
            self._say({"step": index, **metrics})

    def completions(self, index: int, rows: Sequence[CompletionRow]) -> None:
        if rows:
            self._say({"step": index, "completion": completion_object(rows[0])})

    def evaluated(self, index: int, measured: Mapping[str, Any]) -> None:
        self._say({"step": index, "evaluation": dict(measured)})

    def notice(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def _say(self, content: Mapping[str, Any]) -> None:
        print(json.dumps(finite(content), allow_nan=False), flush=True)


def open_progress(
    total: int, done: int, title: str, *, quiet: bool = False, as_json: bool = False
) -> Progress:
    """The way to tell that fits: `quiet`, JSON, a panel on a terminal, and lines elsewhere."""
    if quiet:
        return Progress()
    if as_json:
        return JsonLines()
    if not _has_panel():
        return Lines(total)
    from vtzero.training.panel import Panel

    return Panel(total, done, title)


def _has_panel() -> bool:
    """Not asked of rich, which takes a pipe for a terminal where FORCE_COLOR is set.

    Where CI is set, output that looks like a terminal is a log file all the same.
    """
    plain = os.environ.get("TERM", "") in ("", "dumb", "unknown")
    in_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    return sys.stdout.isatty() and not plain and not in_ci
