"""A run folder as plain values: metrics, evaluations, recipe, environment, and what could not be read.

A run may be under way, or have crashed: what is there is read, and what is not readable becomes a warning.
Knows files, and no figure and no page.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vtzero import plain_yaml
from vtzero.json_files import parse_object, read_object
from vtzero.terminal import one_line
from vtzero.training.completions import completion_files

_EVALUATION = re.compile(r"(?P<benchmark>.+)-(?P<step>\d+)\.json")
_SECONDS = "timing_s/"
_LISTED = ("rejected_items",)


@dataclass
class RunRecord:
    """What a run folder holds. `metrics` are columns, one value a logged step, None where there is none."""

    name: str
    label: str
    folder: Path
    recipe: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, list[Any]] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, Any] | None = None
    summary: dict[str, Any] | None = None
    rejected: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def last_step(self) -> int:
        """The last step of which anything is known."""
        steps = [*self.metrics.get("step", ()), *(each["step"] for each in self.evaluations)]
        return max(steps, default=0)

    @property
    def finished(self) -> bool:
        """Whether the run came to its end; a model that was only evaluated has none to come to."""
        return self.summary is not None or not self.metrics

    def forget_older_summary(self) -> None:
        """A run that was made longer has the summary of its first end until it comes to the next."""
        steps = (self.summary or {}).get("steps")
        wanted = max(self.last_step, self.recipe.get("max_steps") or 0)
        if not isinstance(steps, int) or steps < wanted:
            self.summary = None

    def time_by_phase(self) -> dict[str, float] | None:
        """Seconds of each phase over all steps; of a run that goes on, as its logged steps let expect."""
        if self.summary is not None and isinstance(self.summary.get("time_by_phase"), dict):
            return dict(self.summary["time_by_phase"])
        share = len(self.metrics.get("step", ())) / (self.last_step or 1)
        phases = {
            name.removeprefix(_SECONDS): sum(value or 0.0 for value in values) / share
            for name, values in self.metrics.items()
            if name.startswith(_SECONDS) and name != f"{_SECONDS}step"
        }
        return phases or None


def read_run(spec: str) -> RunRecord:
    """What is in the folder of `FOLDER` or `LABEL=FOLDER`.

    Raises FileNotFoundError where there is no such folder, ValueError where it holds nothing of a run.
    """
    label, folder = named_folder(spec)
    run = RunRecord(name=str(folder), label=label, folder=folder)
    run.recipe = _recipe(run)
    run.label = label or _named(run)
    run.metrics = columns(_lines(run, "metrics.jsonl"))
    run.evaluations = sorted(_evaluations(run), key=lambda each: (each["benchmark"], each["step"]))
    run.environment = _object(run, "environment.json")
    run.summary = _object(run, "summary.json")
    run.forget_older_summary()
    run.rejected = dict(Counter(str(record.get("kind")) for record in _lines(run, "rejected.jsonl")))
    if not (run.recipe or run.metrics or run.evaluations or completion_files(folder)):
        nested = sorted(path.parent.name for path in folder.glob("*/metrics.jsonl"))
        hint = f"; it holds runs: {folder}/{nested[0]} and so on" if nested else ""
        files = "neither config.yaml nor metrics.jsonl nor eval/BENCHMARK-STEP.json"
        raise ValueError(f"{folder}: holds no run ({files}){hint}")
    return run


def named_folder(spec: str) -> tuple[str, Path]:
    """The label and the folder of `FOLDER` or `LABEL=FOLDER`; names of folders may hold a `=` too.

    Raises FileNotFoundError where there is no such folder.
    """
    if Path(spec).is_dir():
        return "", Path(spec)
    label, _, path = spec.partition("=")
    folder = Path(path or label)
    if not path or not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such run folder; give FOLDER or LABEL=FOLDER")
    return label, folder


def columns(records: Iterator[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Values by name, None where a record lacks one; a step that was logged again counts as logged last."""
    by_step = {record["step"]: record for record in records if isinstance(record.get("step"), int)}
    rows = [by_step[step] for step in sorted(by_step)]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [_number(row.get(name)) for row in rows] for name in names}


def _number(value: Any) -> int | float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _named(run: RunRecord) -> str:
    """What a run that nobody named is called: by its folder."""
    return run.folder.resolve().name


def _recipe(run: RunRecord) -> dict[str, Any]:
    """The keys of config.yaml, sections flattened; read as it is, since older runs have other keys."""
    path = run.folder / "config.yaml"
    if not path.is_file():
        return {}
    try:
        content = plain_yaml.read(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        run.warnings.append(f"config.yaml cannot be read ({one_line(error)})")
        return {}
    return dict(_flattened(content, "")) if isinstance(content, dict) else {}


def _flattened(section: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _lines(run: RunRecord, name: str) -> Iterator[dict[str, Any]]:
    """The objects of a file of lines; one that is torn at its end is of a run under way."""
    path = run.folder / name
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield parse_object(line)
            except ValueError as error:
                run.warnings.append(f"{name}: line {number} is left out ({one_line(error)})")


def _object(run: RunRecord, name: str) -> dict[str, Any] | None:
    path = run.folder / name
    if not path.is_file():
        return None
    try:
        return read_object(path)
    except (ValueError, OSError) as error:
        run.warnings.append(f"{name} is left out ({one_line(error)})")
        return None


def _evaluations(run: RunRecord) -> Iterator[dict[str, Any]]:
    """The summaries of finished evaluations; their settings and the items that were set aside stay out."""
    for path in sorted((run.folder / "eval").glob("*.json")):
        match = _EVALUATION.fullmatch(path.name)
        found = _object(run, f"eval/{path.name}") if match else None
        if match is None or found is None or "accuracy" not in found:
            continue
        own = {"benchmark": match["benchmark"], "step": int(match["step"])}
        yield {key: value for key, value in found.items() if key not in _LISTED} | own


def differing(runs: Sequence[RunRecord]) -> list[str]:
    """The keys of the recipes whose values are not the same in all runs."""
    keys = dict.fromkeys(key for run in runs for key in run.recipe)
    return [key for key in keys if len({json.dumps(run.recipe.get(key)) for run in runs}) > 1]
