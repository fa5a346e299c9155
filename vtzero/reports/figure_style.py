"""How the figures look: a paper column's width, colours and dashes of a run, and the bytes of their files.

The same figure gives the same bytes, whatever settings of matplotlib a person has. Knows no payload.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtzero.reports.figure_curves import shown
from vtzero.whole_files import written_whole

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN_WIDTH = 3.3
"""Inches: a column of a paper in two columns."""
PAGE_WIDTH = 6.9

# Okabe and Ito's, told apart by people who see red and green as one; their yellow is too faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES: tuple[Any, ...] = (
    "-",
    (0, (4, 1.5)),
    (0, (1, 1)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (7, 1.5, 1, 1.5, 1, 1.5)),
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "oooo")

_BENCHMARKS = {
    "scenes": "drawn scenes",
    "cv_bench": "CV-Bench",
    "blink": "BLINK",
    "vsr": "VSR",
    "superclevr": "SuperCLEVR",
    "geoqa": "GeoQA",
}
_FONT = "DejaVu Sans"  # comes with matplotlib
_LEGEND_ROW = 0.145  # inches
_DPI = 300
_SETTINGS: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": _FONT,
    "font.size": 7,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "hatch.linewidth": 0.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.title_fontsize": 7,
    "lines.linewidth": 1.2,
    "svg.fonttype": "path",  # the reader's machine need not have the font
    "svg.hashsalt": "vtzero",
    "text.parse_math": False,  # a run may be called "$"
    "xtick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.labelsize": 7,
    "ytick.major.width": 0.6,
}


def need_matplotlib() -> None:
    """Raise ValueError, with what to install, where matplotlib is not there."""
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name not in ("matplotlib", "matplotlib.figure"):
            raise
        raise ValueError(
            "figures are drawn by matplotlib, which is not installed: pip install 'vtzero[figures]'"
        ) from error


@contextmanager
def house_style() -> Iterator[None]:
    """matplotlib's own defaults and ours on top, in place of a person's settings."""
    from matplotlib import style

    with style.context(["default", _SETTINGS]):
        yield


def new_panels(heights: Sequence[float], width: float = COLUMN_WIDTH) -> tuple["Figure", list["Axes"]]:
    """A figure with panels of these heights (inches) below each other, which share their x axis."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure((width, sum(heights)), layout=ConstrainedLayoutEngine(h_pad=0.03, w_pad=0.04))
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
    return figure, [row[0] for row in panels]


def add_legend(figure: "Figure", handles: Sequence["Artist"], labels: Sequence[str], note: str = "") -> None:
    """A legend below the panels, in rows that the figure grows by, under a note on what is drawn."""
    longest = max(map(len, labels))
    width, height = figure.get_size_inches()
    rows = -(-len(labels) // max(1, int(width / (0.3 + 0.068 * longest))))
    lines = rows + note.count("\n") + bool(note)
    figure.set_size_inches(width, height + _LEGEND_ROW * lines + 0.1)
    figure.legend(
        handles,
        list(map(drawable, labels)),
        loc="outside lower center",
        ncols=-(-len(labels) // rows),
        title=note or None,
        alignment="left",
        handlelength=2.4,
        columnspacing=1.0,
        handletextpad=0.5,
        borderaxespad=0.1,
        labelspacing=0.3,
    )


def colour(place: int) -> str:
    """Of a run; the seventh after it has the same."""
    return COLOURS[place % len(COLOURS)]


def line(place: int) -> dict[str, Any]:
    """Colour and dashes of a run's line: no two of the first 35 runs share both."""
    return {"color": colour(place), "linestyle": _DASHES[(place + place // len(COLOURS)) % len(_DASHES)]}


def marker(place: int) -> dict[str, Any]:
    """The small marks on a run's line."""
    return {"marker": _MARKERS[place % len(_MARKERS)], "markersize": 3.2, "markeredgewidth": 0.8}


def bar(place: int) -> dict[str, Any]:
    """Colour and hatching of a run's bar; places below 0 are grey, for what no run of its own has."""
    hatch = _HATCHES[(place + place // len(COLOURS)) % len(_HATCHES)] if place >= 0 else _HATCHES[~place % 7]
    fill = colour(place) if place >= 0 else "#D0D0D0"
    return {
        "facecolor": fill,
        "edgecolor": "#FFFFFF" if place >= 0 else "#666666",
        "hatch": hatch,
        "linewidth": 0.5,
    }


def whiskers() -> dict[str, Any]:
    """Of the intervals on bars."""
    return {"fmt": "none", "ecolor": "#000000", "elinewidth": 0.7, "capsize": 1.8, "capthick": 0.7}


def benchmark_name(name: str) -> str:
    """As its authors write it, else as it is called here."""
    return _BENCHMARKS.get(name) or drawable(shown(name))


def drawable(text: str) -> str:
    """The text with letters that the font lacks written out: they would be drawn as empty boxes."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont(_FONT)).get_charmap()
    return "".join(letter if ord(letter) in known else ascii(letter)[1:-1] for letter in text)


def save(figure: "Figure", folder: Path, name: str) -> list[Path]:
    """Write NAME.png (300 dots an inch) and NAME.svg, without the day and the program's version in them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    nothing: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    paths = []
    for kind, metadata in nothing.items():
        path = folder / f"{name}.{kind}"
        with written_whole(path) as unfinished:
            figure.savefig(unfinished, format=kind, dpi=_DPI, metadata=metadata)
        paths.append(path)
    return paths
