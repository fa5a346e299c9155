"""The live panel of a run on a terminal: where it is, what it does now, and how it goes.

Drawn four times a second by a thread that reads numbers and text on the host; it touches no arrays. Knows
no files.
"""

import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel as Frame
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vtzero.terminal import visible
from vtzero.training.completions import CompletionRow
from vtzero.training.progress import Lines
from vtzero.training.told import completion_lines, duration, known_figures, short_figures

PHASES = {"data": "data", "gen": "gen", "reward": "reward", "ref": "ref", "update": "update_actor"}
"""Phases of a step and what their seconds are called in `timing_s/`."""

TRENDS = ("reward", "length", "loss")
_MEMORY = (("perf/cpu_memory_used_gb", "host"), ("perf/max_memory_allocated_gb", "device"))
_HEIGHTS, _PLAIN_HEIGHTS = "▁▂▃▄▅▆▇█", "_.-~=+*#"
_SHOW_CURSOR = "\x1b[?25h"
_A_SECOND = 4
_WIDEST = 120
_BESIDE = 2
"""Columns left free for the `^C` that a terminal shows: it would begin a line that rich does not know of."""


class Trend:
    """A figure over the whole run; two neighbours become one where there would be more than `most` points."""

    def __init__(self, most: int = 256):
        self._most, self._stride = most, 1
        self._points: list[float] = []
        self._begun: list[float] = []

    def add(self, value: float) -> None:
        """One more step; NaN is left out."""
        if not math.isfinite(value):
            return
        self._begun.append(value)
        if len(self._begun) < self._stride:
            return
        self._points.append(_mean(self._begun))
        self._begun = []
        if len(self._points) >= self._most:
            self._points = [_mean(pair) for pair in _parts(self._points, self._most // 2)]
            self._stride *= 2

    def drawn(self, width: int, heights: str = _HEIGHTS) -> str:
        """At most so many characters, from the lowest point to the highest."""
        points = (
            self._points
            if len(self._points) <= width
            else [_mean(part) for part in _parts(self._points, width)]
        )
        if not points:
            return ""
        low, high = min(points), max(points)
        scale = (len(heights) - 1) / (high - low) if high > low else 0.0
        return "".join(heights[round((point - low) * scale)] for point in points)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _parts(values: Sequence[float], count: int) -> Iterator[Sequence[float]]:
    """So many parts of about equal size, of at least as many values."""
    for number in range(count):
        yield values[number * len(values) // count : (number + 1) * len(values) // count]


class Panel(Lines):
    """A `Progress` with a panel at the bottom; what the others print as lines goes on above it."""

    def __init__(self, total: int, done: int, title: str, console: Console | None = None):
        super().__init__(total)
        self._console = console or Console(highlight=False, emoji=False, markup=False)
        self._title, self._done, self._now = title, done, ""
        self._began = perf_counter()
        self._metrics: dict[str, float] = {}
        self._trends = {name: Trend() for name in TRENDS}
        self._held_out: list[str] = []
        self._evaluated_first = False
        # Warnings go to standard error, which may be another place than this terminal.
        self._live = Live(
            self, console=self._console, refresh_per_second=_A_SECOND, redirect_stderr=sys.stderr.isatty()
        )

    def start(self) -> None:
        self._live.start()

    def close(self) -> None:
        self._live.stop()

    def give_back(self) -> None:
        # Not through the console: the thread that holds its lock may be the one that hangs.
        os.write(sys.__stdout__.fileno(), f"{_SHOW_CURSOR}\n".encode())  # type: ignore[union-attr]

    def phase(self, name: str) -> None:
        self._now = name

    def compiled(self, name: str, done: int, total: int, seconds: float) -> None:
        self._now = f"compiling {done}/{total}"

    def evaluating(self, done: int, total: int) -> None:
        self._now = f"eval {done}/{total}"

    def step(self, index: int, metrics: Mapping[str, float], *, logged: bool = True) -> None:
        self._pace.ended(index)
        self._done, self._metrics = index, known_figures(metrics)
        names = {"length": "completions/mean_length"}
        for short, trend in self._trends.items():
            if (value := self._metrics.get(names.get(short, short))) is not None:
                trend.add(value)

    def completions(self, index: int, rows: Sequence[CompletionRow]) -> None:
        if rows:
            self._say(*completion_lines(index, rows[0], self._console.width))

    def evaluated(self, index: int, measured: Mapping[str, Any]) -> None:
        # A run that was resumed has not the first one at hand.
        before = self._held_out[:1] if self._evaluated_first else []
        self._evaluated_first |= index == 0
        self._held_out = [*before, f"{measured['accuracy']:.1f} %"]
        super().evaluated(index, measured)

    def finished(self, figures: Mapping[str, Any], folder: Path) -> None:
        self._now = "done"
        self.close()
        super().finished(figures, folder)

    def _say(self, *lines: str) -> None:
        self._console.print(Text("\n".join(lines)), soft_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(_WIDEST, options.max_width - _BESIDE)
        room = width - 4
        plain = options.ascii_only or options.legacy_windows
        title = Text(visible(self._title), "bold")
        title.truncate(max(4, room - 4), overflow="ellipsis")
        rows = [*self._progress(room), *self._phases(room, plain), *self._figures(room, plain)]
        yield Frame(
            Group(*rows), title=title, title_align="left", box=box.ROUNDED, border_style="dim", width=width
        )

    def _progress(self, room: int) -> Iterator[RenderableType]:
        bar = Table.grid()  # by itself it does not end its line
        bar.add_row(ProgressBar(self._total, self._done, width=room))
        yield bar
        left = self._pace.left()
        times = {"elapsed": duration(perf_counter() - self._began)}
        times |= {"left": duration(left)} if left is not None and self._done < self._total else {}
        place = Text(f"step {self._done}/{self._total}", "bold")
        yield from _flow([place, *(_cell(name, value) for name, value in times.items())], room)

    def _phases(self, room: int, plain: bool) -> Iterator[RenderableType]:
        """The phases of a step with what each took in the last one; the one that runs now is marked."""
        now, mark = self._now, "> " if plain else "▸ "
        cells = []
        for name, metric in PHASES.items():
            seconds = self._metrics.get(f"timing_s/{metric}")
            if seconds is None and name != now:
                continue
            label = name if seconds is None else f"{name} {seconds:.2f} s"
            # As wide without the mark, so that nothing moves when it does.
            cells.append(Text(mark + label, "bold green") if name == now else Text(f"  {label}", "dim"))
        if now and now not in PHASES:
            cells.append(Text(mark + now, "bold green"))
        yield from _flow(cells, room, gap=1)

    def _figures(self, room: int, plain: bool) -> Iterator[RenderableType]:
        figures = short_figures(self._metrics)
        trends = [name for name in TRENDS if name in figures][:2]
        for name in trends:
            row = _cell(f"{name:<7}", f"{figures.pop(name):>7}")
            drawn = self._trends[name].drawn(room - len(row) - 2, _PLAIN_HEIGHTS if plain else _HEIGHTS)
            yield row.append("  ").append(drawn, "cyan")
        cells = [_cell(name, value) for name, value in figures.items()]
        for metric, name in _MEMORY:
            if metric in self._metrics:
                cells.append(_cell(name, f"{self._metrics[metric]:.1f} GiB"))
        if self._held_out:
            cells.append(_cell("held out", " -> ".join(self._held_out)))
        yield from _flow(cells, room)


def _cell(name: str, value: str) -> Text:
    return Text(f"{name} ", "dim").append(value, "not dim")


def _flow(cells: Sequence[Text], room: int, gap: int = 3) -> Iterator[Text]:
    """The cells side by side, in as many lines as they need."""
    line = Text()
    for cell in cells:
        if line and line.cell_len + gap + cell.cell_len > room:
            yield line
            line = Text()
        line = (line.append(" " * gap) if line else line).append_text(cell)
    if line:
        yield line
