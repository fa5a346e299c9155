"""The figures made of bars: the last accuracy of each model on each benchmark, and where the time went.

Draws what `figure_curves` read of the runs; writes no file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from textwrap import fill
from typing import TYPE_CHECKING

from vtzero.reports.figure_curves import Accuracy, Run, shown
from vtzero.reports.figure_style import (
    COLUMN_WIDTH,
    PAGE_WIDTH,
    add_legend,
    bar,
    benchmark_name,
    drawable,
    new_panels,
    whiskers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

PHASES = {
    "data": "data",
    "gen": "rollout",
    "reward": "rewards",
    "ref": "reference pass",
    "update_actor": "update",
}
"""The phases of a step in their order, under verl's names, and what a figure calls them."""

_BARS_A_COLUMN, _BARS_A_PAGE = 9, 20  # that have room for their figures
_HEIGHT = 1.9  # inches
_BAR_HEIGHT = 0.13
_LETTERS_A_LINE = 14


@dataclass(frozen=True)
class _Model:
    """A trained model, or one before its training: a run's place is then below 0."""

    label: str
    place: int
    accuracies: Mapping[str, Accuracy]


def last_accuracies(runs: Sequence[Run]) -> "Figure | None":
    """The paper's Figure 2: a group of bars for each benchmark, and a bar for each model."""
    models = _models(runs)
    names = list(dict.fromkeys(name for model in models for name in model.accuracies))
    if not names:
        return None
    bars = len(names) * len(models)
    figure, (panel,) = new_panels([_HEIGHT], COLUMN_WIDTH if bars <= _BARS_A_COLUMN else PAGE_WIDTH)
    drawn = [
        _draw_accuracies(panel, names, model, index, len(models), labelled=bars <= _BARS_A_PAGE)
        for index, model in enumerate(models)
    ]
    panel.set_xticks(range(len(names)), [_wrapped(benchmark_name(name)) for name in names])
    panel.set_xlim(-0.6, len(names) - 0.4)
    panel.tick_params(axis="x", length=0)
    panel.grid(visible=False, axis="x")
    panel.set_ylabel("accuracy (%)")
    panel.margins(y=0.12)
    panel.set_ylim(bottom=0)
    add_legend(figure, drawn, [model.label for model in models], "whiskers: 95 % interval")
    return figure


def _draw_accuracies(
    panel: "Axes", names: Sequence[str], model: _Model, index: int, models: int, *, labelled: bool
) -> "Rectangle":
    width = 0.84 / max(models, 3)
    found = [(names.index(name), accuracy) for name, accuracy in model.accuracies.items()]
    at = [place + (index - (models - 1) / 2) * width for place, _ in found]
    percents = [accuracy.percent for _, accuracy in found]
    bars = panel.bar(at, percents, 0.9 * width, **bar(model.place))
    lengths = [
        [max(0.0, accuracy.percent - accuracy.low) for _, accuracy in found],
        [max(0.0, accuracy.high - accuracy.percent) for _, accuracy in found],
    ]
    panel.errorbar(at, percents, lengths, **whiskers())
    for x, (_, accuracy) in zip(at, found, strict=True):
        if labelled:
            panel.annotate(
                f"{accuracy.percent:.1f}",
                (x, max(accuracy.high, accuracy.percent)),
                (0, 1.5),
                textcoords="offset points",
                ha="center",
                va="bottom",
            )
    return bars.patches[0]


def _models(runs: Sequence[Run]) -> list[_Model]:
    """What was evaluated last, and before it each run at step 0, but once where the figures are the same."""
    last = [
        _Model(run.label, run.place, {name: found[-1] for name, found in run.accuracies().items()})
        for run in runs
    ]
    before: list[_Model] = []
    for run in runs:
        first = {name: found[0] for name, found in run.progress().items() if found[0].step == 0}
        if first and first not in [model.accuracies for model in before + last]:
            before.append(_Model(run.label, ~len(before), first))
    if len(before) == 1:
        before = [replace(before[0], label="base (step 0)")]
    else:
        before = [replace(model, label=f"{model.label}, step 0") for model in before]
    return before + [model for model in last if model.accuracies]


def time_by_phase(runs: Sequence[Run]) -> "Figure | None":
    """Seconds, minutes or hours of each phase, a bar for each run; of one run alone their shares too."""
    timed = {run: seconds for run in runs if (seconds := run.seconds())}
    if not timed:
        return None
    met = dict.fromkeys(name for seconds in timed.values() for name in seconds)
    phases = sorted(met, key=lambda name: list(PHASES).index(name) if name in PHASES else len(PHASES))
    unit, length = _unit(max(max(seconds.values()) for seconds in timed.values()))
    figure, (panel,) = new_panels([_BAR_HEIGHT * (len(timed) + 0.8) * len(phases) + 0.4])
    drawn = [_draw_seconds(panel, phases, run, index, timed, length) for index, run in enumerate(timed)]
    panel.set_yticks(range(len(phases)), [_wrapped(PHASES.get(name, name)) for name in phases])
    panel.invert_yaxis()
    panel.tick_params(axis="y", length=0)
    panel.grid(visible=False, axis="y")
    panel.margins(x=0.3 if len(timed) == 1 else 0.18, y=0.02)  # room for the figures at the bars
    panel.set_xlabel(f"time in all steps ({unit})")
    add_legend(figure, drawn, [run.label for run in timed])
    return figure


def _draw_seconds(
    panel: "Axes",
    phases: Sequence[str],
    run: Run,
    index: int,
    timed: Mapping[Run, Mapping[str, float]],
    length: float,
) -> "Rectangle":
    seconds, total = timed[run], sum(timed[run].values())
    height = 1 / (len(timed) + 0.8)
    at = [phases.index(name) + (index - (len(timed) - 1) / 2) * height for name in seconds]
    bars = panel.barh(at, [value / length for value in seconds.values()], 0.9 * height, **bar(run.place))
    for y, value in zip(at, seconds.values(), strict=True):
        share = f" ({value / total:.0%})" if len(timed) == 1 else ""
        text = f"{_duration(value)}{share}"
        panel.annotate(text, (value / length, y), (3, 0), textcoords="offset points", va="center")
    return bars.patches[0]


def _unit(seconds: float) -> tuple[str, float]:
    return ("h", 3600) if seconds >= 7200 else ("min", 60) if seconds >= 300 else ("s", 1)


def _duration(seconds: float) -> str:
    unit, length = _unit(seconds)
    return f"{seconds / length:.3g} {unit}"


def _wrapped(name: str) -> str:
    return fill(drawable(shown(name)), _LETTERS_A_LINE)
