"""`vtzero report`: one page of runs, and their figures as files."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from vtzero.reports.completions import Packed, pack_completions
from vtzero.reports.figure_style import need_matplotlib
from vtzero.reports.figures import write_figures
from vtzero.reports.page import write_page
from vtzero.reports.payload import payload
from vtzero.reports.run_folder import RunRecord, read_run
from vtzero.terminal import visible
from vtzero.whole_files import make_folder

PAGE = "report.html"
MEGABYTES = 30.0
_FIXED_BYTES = 500_000
"""Of the page itself with its styles and programs, and of the tags of its chunks."""


def report(
    specs: Sequence[str],
    *,
    out: Path | None = None,
    figures: Path | None = None,
    max_megabytes: float = MEGABYTES,
) -> dict[str, Any]:
    """Write the page of these runs (FOLDER or LABEL=FOLDER) to `out`, else into the first one's folder.

    With `figures`, the paper's figures are written into that folder too, as PNG and SVG.

    Raises ValueError without runs, for a folder that holds none and for a size below 1 MB;
    FileNotFoundError for a folder that is not there.
    """
    if not specs:
        raise ValueError("name at least one run folder: vtzero report RUN [RUN…]")
    if not max_megabytes >= 1:
        raise ValueError(f"--max-size is {max_megabytes:g}; it must be at least 1 (MB)")
    runs = [read_run(spec) for spec in specs]
    path = out or runs[0].folder / PAGE
    if path.is_dir():
        raise ValueError(f"--out {path}: is a folder; give the page's file, such as {path / PAGE}")
    make_folder(path.parent)
    if figures is not None:
        need_matplotlib()
        make_folder(figures)
    without = len(str(payload(runs, [None] * len(runs))))
    packed = _packed(runs, max_megabytes * 1e6 - _FIXED_BYTES - without)
    described = payload(runs, [None if own is None else own.description for own in packed])
    write_page(path, described, chain.from_iterable(own.chunks for own in packed if own))
    print(f"wrote {visible(path)} ({path.stat().st_size / 1e6:.1f} MB)")
    written = [str(path) for path in _figures(figures, described)]
    return {
        "page": str(path),
        "bytes": path.stat().st_size,
        "figures": written,
        "runs": [_told(run) for run in runs],
    }


def _packed(runs: Sequence[RunRecord], most_bytes: float) -> list[Packed | None]:
    """Each run's completions in its share of the page."""
    return [
        pack_completions(run.folder, number, int(most_bytes / len(runs)), run.warnings)
        for number, run in enumerate(runs)
    ]


def _figures(folder: Path | None, described: dict[str, Any]) -> Iterator[Path]:
    if folder is None:
        return
    for path in write_figures(folder, described):
        print(f"wrote {visible(path)}")
        yield path


def _told(run: RunRecord) -> dict[str, Any]:
    return {name: getattr(run, name) for name in ("label", "finished", "last_step", "warnings")}
