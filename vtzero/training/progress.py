"""What a run shows while it runs: a live bar on a terminal, one line a step elsewhere. Knows no files."""

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

# Metric, its short name and its format, in the order shown; those a method lacks are left out.
SHOWN = (
    ("reward", "reward", "{:.2f}"),
    ("accuracy", "accuracy", "{:.2f}"),
    ("completions/mean_length", "length", "{:.1f}"),
    ("kl", "kl", "{:.3f}"),
    ("loss", "loss", "{:.4f}"),
    ("timing_s/step", "s/step", "{:.2f}"),
)


class Progress:
    """The progress of one run."""

    def __init__(self, total: int, done: int, *, quiet: bool = False):
        self._console = Console(stderr=False, quiet=quiet)
        self._total = total
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self._bar: Bar | None = None
        if self._console.is_terminal and not quiet:
            self._bar = Bar(*columns, console=self._console)
            self._bar.start()
            self._task = self._bar.add_task("train", total=total, completed=done, figures="")

    def step(self, index: int, metrics: Mapping[str, float]) -> None:
        """A step is done."""
        figures = describe(metrics)
        if self._bar is not None:
            self._bar.update(self._task, completed=index, description="train", figures=figures)
        else:
            self._print(f"step {index}/{self._total}  {figures}")

    def compiled(self, name: str, done: int, total: int, seconds: float) -> None:
        """One of the programs of a run is ready."""
        if self._bar is not None:
            self._bar.update(self._task, description=f"compiling {done}/{total}")
        elif seconds >= 1:
            self._print(f"compiled {done}/{total}: {name} in {seconds:.1f} s")

    def evaluating(self, done: int, total: int) -> None:
        """An evaluation goes on."""
        if self._bar is not None:
            self._bar.update(self._task, description=f"eval {done}/{total}")

    def evaluated(self, index: int, measured: Mapping[str, Any]) -> None:
        """An evaluation is done; its figures stay on the screen."""
        self._print(
            f"step {index}: held-out accuracy {measured['accuracy']:.1f} % strict, "
            f"{measured['accuracy_lenient']:.1f} % lenient, mean length {measured['mean_length']:.1f} tokens "
            f"({measured['n']} items)"
        )

    def close(self) -> None:
        """Give the terminal back."""
        if self._bar is not None:
            self._bar.stop()

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        sys.stdout.flush()


def describe(metrics: Mapping[str, float]) -> str:
    """The figures of a step in one line."""
    is_accuracy = [name for name in metrics if name.startswith("rewards/accuracy") and "mean" in name]
    accuracy = [metrics[name] for name in is_accuracy]
    known = dict(metrics) | ({"accuracy": accuracy[0]} if accuracy else {})
    return "  ".join(f"{short} {form.format(known[name])}" for name, short, form in SHOWN if name in known)
