"""What runs said in their evaluations, scored again from the saved outputs. Knows no table."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vtzero.config import load_config
from vtzero.evaluation.predictions import read_predictions
from vtzero.evaluation.rescore import scored_items
from vtzero.evaluation.totals import Scored as ScoredItem
from vtzero.reports.run_folder import named_folder

_FILE = re.compile(r"(?P<benchmark>.+)-(?P<step>\d+)\.jsonl")


@dataclass(frozen=True)
class Result:
    """One evaluation: (task, source, whether it is correct) for each item."""

    label: str
    benchmark: str
    step: int
    items: tuple[ScoredItem, ...]


def read_results(runs: Sequence[str], scorer: str) -> list[Result]:
    """The evaluations of run folders, each given as FOLDER or LABEL=FOLDER.

    With a label, a folder's last evaluation of each benchmark counts. Without one, a training run gives two
    rows: `base` from step 0 and its method from the last step.

    All rows are scored by one scorer, of those that `vtzero rescore` knows.

    Raises ValueError for an unknown scorer, one that cannot score these items, and a folder without finished
    evaluations; FileNotFoundError where there is no folder.
    """
    return [result for run in runs for result in _read_run(run, scorer)]


def _read_run(run: str, scorer: str) -> list[Result]:
    label, folder = named_folder(run)
    steps = _finished(folder)
    if not steps:
        raise ValueError(f"{folder}: holds no finished evaluation (eval/BENCHMARK-STEP.json)")
    chosen = {}
    for benchmark, found in steps.items():
        if label:
            chosen[label, benchmark] = found[-1]
        elif len(found) > 1 and found[0] == 0:
            chosen["base", benchmark] = 0
            chosen[_method(folder), benchmark] = found[-1]
        else:
            chosen[folder.name, benchmark] = found[-1]
    return [
        Result(label, benchmark, step, _items(folder / "eval" / f"{benchmark}-{step}.jsonl", scorer))
        for (label, benchmark), step in chosen.items()
    ]


def _finished(folder: Path) -> dict[str, list[int]]:
    """The steps of each benchmark whose summary, which is written last, is there."""
    steps: dict[str, list[int]] = {}
    for path in (folder / "eval").glob("*.jsonl"):
        match = _FILE.fullmatch(path.name)
        if match and path.with_suffix(".json").is_file():
            steps.setdefault(match["benchmark"], []).append(int(match["step"]))
    return {benchmark: sorted(found) for benchmark, found in sorted(steps.items())}


def _method(folder: Path) -> str:
    path = folder / "config.yaml"
    return load_config(path).method.upper() if path.is_file() else folder.name


def _items(path: Path, scorer: str) -> tuple[ScoredItem, ...]:
    return tuple(scored_items(read_predictions(path).rows, scorer))
