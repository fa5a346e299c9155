"""The paper's figures of runs, and the curves that a run is judged by, as PNG and SVG files.

Each is drawn from the payload of a report where it holds what the figure shows. Reads no run folder.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtzero.reports.figure_bars import last_accuracies, time_by_phase
from vtzero.reports.figure_curves import Accuracy, Curve, Run, read_runs, smoothed, window
from vtzero.reports.figure_style import (
    add_legend,
    benchmark_name,
    colour,
    house_style,
    line,
    marker,
    need_matplotlib,
    new_panels,
    save,
)
from vtzero.whole_files import make_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

LENGTH = "completions/mean_length"

_PANEL, _PANEL_ALONE = 1.35, 1.7  # inches
_FEW_POINTS = 40  # which are marked


def write_figures(folder: Path, payload: Mapping[str, Any]) -> list[Path]:
    """Write the figures that a report's payload has the data for, each as NAME.png and NAME.svg.

    `figure-1`: benchmark accuracy with its 95 % interval, and mean response length in training, over steps;
    `figure-2`: the last accuracies as bars, and those of step 0; `figure-4`: response length over steps;
    `reward`, `kl` and `truncation` (the share of responses cut off) over steps; `time-by-phase`.

    Returns the files written. Raises ValueError where matplotlib is not installed, and NotADirectoryError
    where there can be no such folder.
    """
    need_matplotlib()
    runs = read_runs(payload)
    written: list[Path] = []
    with house_style():
        for name, draw in FIGURES.items():
            if (figure := draw(runs)) is not None:
                make_folder(folder)
                written += save(figure, folder, name)
    return written


def _accuracy_and_length(runs: Sequence[Run]) -> "Figure | None":
    """The paper's Figure 1 of the runs that have both: a panel for each benchmark, and one for the length."""
    lengths = {run: curve for run in runs if run.progress() and (curve := run.curve(LENGTH))}
    if not lengths:
        return None
    names = list(dict.fromkeys(name for run in lengths for name in run.progress()))
    figure, panels = new_panels([_PANEL] * (len(names) + 1))
    handles = {run.label: _handle(run, marked=True) for run in lengths}
    for name, panel in zip(names, panels, strict=False):
        for run in lengths:
            _draw_accuracy(panel, run, run.progress().get(name, []))
        panel.set_ylabel(f"{benchmark_name(name)}\naccuracy (%)")
    if len(lengths) == 1:
        handles |= _draw_lenient(panels, next(iter(lengths)))
    smoothing = _draw_curves(panels[-1], lengths)
    panels[-1].set_ylabel("response length\nin training (tokens)")
    _finish(figure, panels, handles, "\n".join(filter(None, ("shaded: 95 % interval", smoothing))))
    return figure


def _over_steps(metric: str, label: str, runs: Sequence[Run], *, scale: float = 1.0) -> "Figure | None":
    """One metric of every run that has it."""
    found = {run: curve for run in runs if (curve := run.curve(metric))}
    if not found:
        return None
    curves = {run: Curve(curve.steps, scale * curve.values) for run, curve in found.items()}
    figure, panels = new_panels([_PANEL_ALONE])
    smoothing = _draw_curves(panels[0], curves)
    panels[0].set_ylabel(label)
    handles = {run.label: _handle(run, marked=_is_short(curve)) for run, curve in curves.items()}
    _finish(figure, panels, handles, smoothing)
    return figure


def _draw_accuracy(panel: "Axes", run: Run, found: Sequence[Accuracy]) -> None:
    steps = [accuracy.step for accuracy in found]
    low, high = [accuracy.low for accuracy in found], [accuracy.high for accuracy in found]
    panel.fill_between(steps, low, high, color=colour(run.place), alpha=0.18, linewidth=0)
    panel.plot(steps, [accuracy.percent for accuracy in found], **_line(run, marked=True))


def _draw_lenient(panels: Sequence["Axes"], run: Run) -> "dict[str, Line2D]":
    """Lenient accuracy, which tells a rise in format from one in sight; returns the legend's entry."""
    handles = {}
    for found, panel in zip(run.progress().values(), panels, strict=False):
        points = [(accuracy.step, accuracy.lenient) for accuracy in found if accuracy.lenient is not None]
        if points:
            drawn = panel.plot(
                *zip(*points, strict=True), color="#555555", linestyle=":", marker="x", markersize=3
            )
            handles["lenient (tags or not)"] = drawn[0]
    return handles


def _draw_curves(panel: "Axes", curves: Mapping[Run, Curve]) -> str:
    """Every step faintly and a mean around it; returns the note that says so, "" where none is smoothed."""
    steps = window(list(curves.values()))
    for run, curve in curves.items():
        if steps > 1:
            panel.plot(curve.steps, curve.values, color=colour(run.place), linewidth=0.4, alpha=0.3)
        panel.plot(curve.steps, smoothed(curve, steps), **_line(run, marked=_is_short(curve)))
    return f"faint: each step; line: mean of {steps} steps" if steps > 1 else ""


def _is_short(curve: Curve) -> bool:
    return len(curve.steps) <= _FEW_POINTS


def _line(run: Run, *, marked: bool) -> dict[str, Any]:
    # Not clipped, so that marks at 0 are whole.
    return {**line(run.place), "clip_on": False, **(marker(run.place) if marked else {})}


def _handle(run: Run, *, marked: bool) -> "Line2D":
    from matplotlib.lines import Line2D

    return Line2D([], [], **_line(run, marked=marked))


def _finish(figure: "Figure", panels: Sequence["Axes"], handles: "Mapping[str, Line2D]", note: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for panel in panels:
        panel.margins(x=0.02)
        # Percentages, lengths and divergences: what is never negative is shown from where it starts.
        panel.set_ylim(bottom=max(panel.get_ylim()[0], 0) if _is_positive(panel) else None)
    panels[-1].set_xlabel("training step")
    panels[-1].xaxis.set_major_locator(MaxNLocator(nbins="auto", steps=[1, 2, 2.5, 5, 10], integer=True))
    figure.align_ylabels()
    add_legend(figure, list(handles.values()), list(handles), note)


def _is_positive(panel: "Axes") -> bool:
    return bool(panel.dataLim.y0 >= 0)


FIGURES: "Mapping[str, Callable[[Sequence[Run]], Figure | None]]" = {
    "figure-1": _accuracy_and_length,
    "figure-2": last_accuracies,
    "figure-4": partial(_over_steps, LENGTH, "mean response length\n(tokens)"),
    "reward": partial(_over_steps, "reward", "mean reward\n(weighted sum)"),
    "kl": partial(_over_steps, "kl", "KL from the reference\n(nats per token)"),
    "truncation": partial(_over_steps, "completions/clipped_ratio", "responses cut off (%)", scale=100.0),
    "time-by-phase": time_by_phase,
}
"""By the name of their files; each is None where the runs have no data for it."""
