"""What an evaluation found: one result an item, the figures over all, and the files that hold both.

The items' file grows while an evaluation runs, so that one that was interrupted continues. Knows no model.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from vtzero.data.example import Rejected
from vtzero.evaluation.totals import has_official, official_total, wilson_interval
from vtzero.json_files import parse_object, read_object
from vtzero.whole_files import write_whole

ACCURACIES = {"accuracy": "correct", "accuracy_lenient": "correct_lenient", "accuracy_paper": "correct_paper"}
"""The accuracies of a summary, and the verdict that each counts."""


@dataclass(frozen=True)
class ItemResult:
    """What the model said to one item, and what the scorers say of it.

    `index` is the item's number in the benchmark. `prompt` and `output` join to the whole text; a forced
    opening is part of `output`, which is what was scored. `tokens` counts what the model drew, the stop token
    included; `terminated` says there was one. `source` is CV-Bench's, the data set that an image is from;
    `correct_paper` is what the paper's scorer says. Both are None where the benchmark has no such thing.
    """

    task: str
    id: str
    index: int
    question: str
    prompt: str
    choices: tuple[str, ...]
    answer: str
    output: str
    correct: bool
    correct_lenient: bool
    tokens: int
    terminated: bool
    correct_paper: bool | None = None
    source: str | None = None


@dataclass(frozen=True)
class EvaluationResult:
    """The items that were answered, and those set aside, each in the benchmark's order."""

    items: list[ItemResult]
    rejected: list[Rejected]


def summary(result: EvaluationResult) -> dict[str, Any]:
    """The figures of a result in JSON's types: over all items (micro), and under "tasks" for each task.

    `accuracy` (strict), `accuracy_lenient` and, where the paper's scorer spoke, `accuracy_paper` are in
    percent, each with a 95 % Wilson `_interval`; `mean_length` is in tokens; `clipped_ratio` is the share of
    outputs that no stop token ended. Without any item they are None. `accuracy_official` is CV-Bench's own
    total of the strict verdicts, where items of all its sources were answered. `rejected` counts the items
    that were set aside, which no other figure includes.
    """
    tasks: dict[str, list[ItemResult]] = {}
    for item in result.items:
        tasks.setdefault(item.task or "no task", []).append(item)
    return {
        **_figures(result.items),
        **_official(result.items),
        "rejected": len(result.rejected),
        "tasks": {name: _figures(items) for name, items in tasks.items()},
    }


def _figures(items: Sequence[ItemResult]) -> dict[str, Any]:
    count = len(items)
    figures: dict[str, Any] = {"n": count}
    for name, verdict in ACCURACIES.items():
        scores = [getattr(item, verdict) for item in items]
        if name != "accuracy_paper" or (scores and None not in scores):
            figures |= _accuracy(name, scores)
    return figures | {
        "mean_length": sum(item.tokens for item in items) / count if count else None,
        "clipped_ratio": sum(not item.terminated for item in items) / count if count else None,
    }


def _official(items: Sequence[ItemResult]) -> dict[str, Any]:
    scored = [(item.task, item.source or "", item.correct) for item in items]
    if not has_official(scored):
        return {}
    total = official_total(scored)
    return {"accuracy_official": total.accuracy, "accuracy_official_interval": list(total.interval)}


def _accuracy(name: str, scores: Sequence[bool]) -> dict[str, Any]:
    if not scores:
        return {name: None, f"{name}_interval": None}
    low, high = wilson_interval(sum(scores), len(scores))
    return {name: 100 * sum(scores) / len(scores), f"{name}_interval": [100 * low, 100 * high]}


class ResultFiles:
    """The files of one evaluation: `eval/NAME-STEP.jsonl`, an object an item, and `.json`, the summary.

    The items are appended batch by batch, beside `.settings.json`, which says how they were asked; the
    summary is written last and holds the settings too. So where a summary is, the evaluation is whole.
    """

    def __init__(
        self,
        folder: str | Path,
        name: str,
        step: int,
        settings: Mapping[str, Any],
        *,
        overwrite: bool = False,
    ):
        """Continue what is there, or start afresh with `overwrite`.

        Raises ValueError, naming the settings that differ, when what is there was asked in another way.
        """
        self.path = Path(folder) / "eval" / f"{name}-{step}.json"
        self._items = self.path.with_suffix(".jsonl")
        self._unfinished = self.path.with_suffix(".settings.json")
        self._settings = {"benchmark": name, "step": step, **settings}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if overwrite:
            for path in (self.path, self._unfinished, self._items):
                path.unlink(missing_ok=True)
        self._check_settings()
        if not self.path.exists():
            write_whole(self._unfinished, _json(self._settings))

    def figures(self) -> dict[str, Any] | None:
        """The settings and figures of an evaluation that is finished; None for one that is not."""
        if not self.path.exists():
            return None
        content = _saved(self.path)
        return {name: value for name, value in content.items() if name != "rejected_items"}

    def done(self, batch_size: int = 1) -> list[ItemResult]:
        """The items of whole batches that an interrupted evaluation has answered; all else is cut off.

        Then the rest is asked in the same batches as it would have been without the interruption.
        """
        if not self._items.exists():
            return []
        lines = self._items.read_bytes().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        kept = whole[: len(whole) // batch_size * batch_size]
        with self._items.open("rb+") as file:
            file.truncate(sum(map(len, kept)))
        return [_read_record(line, f"{self._items}:{number}") for number, line in enumerate(kept, 1)]

    def append(self, items: Sequence[ItemResult]) -> None:
        """Add the items of a batch; they are on the disk when this returns."""
        with self._items.open("a", encoding="utf-8") as file:
            file.writelines(_line(item) for item in items)
            file.flush()
            os.fsync(file.fileno())

    def finish(self, result: EvaluationResult) -> dict[str, Any]:
        """Write the items in the benchmark's order, then the summary; returns settings and figures."""
        figures = {**self._settings, **summary(result)}
        listed = [{"id": rejected.id, "reason": rejected.reason} for rejected in result.rejected]
        write_whole(self._items, "".join(map(_line, result.items)))
        write_whole(self.path, _json({**figures, "rejected_items": listed}))
        self._unfinished.unlink(missing_ok=True)
        return figures

    def _check_settings(self) -> None:
        held = self.path if self.path.exists() else self._unfinished
        if not held.exists():
            if self._items.exists():
                raise ValueError(f"{self._items} is there, but not how it was asked for; {_WAY_OUT}")
            return
        saved = _saved(held)
        differing = [
            f"{name} {saved.get(name)!r}, now {value!r}"
            for name, value in self._settings.items()
            if saved.get(name) != value
        ]
        if differing:
            raise ValueError(f"{held} was made with another {'; '.join(differing)}; {_WAY_OUT}")


_WAY_OUT = "choose another --out, or start it afresh with --overwrite"


def _line(item: ItemResult) -> str:
    record = {name: value for name, value in asdict(item).items() if value is not None}
    return json.dumps(record, ensure_ascii=False) + "\n"


def _saved(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except ValueError as error:
        raise ValueError(f"{error}; {_WAY_OUT}") from None


def _read_record(line: bytes, place: str) -> ItemResult:
    """The item of a line of the file; ValueError where the line is not as it was written."""
    hints = get_type_hints(ItemResult)
    try:
        record = parse_object(line)
        record["choices"] = tuple(record["choices"])
        known: dict[str, Any] = {name: record.get(name) for name in hints}
        sound = all(isinstance(known[name], _checked(hint)) for name, hint in hints.items())
    except (ValueError, KeyError, TypeError):
        sound, known = False, {}
    if not sound:
        raise ValueError(f"{place}: the item is not as it was written; {_WAY_OUT}") from None
    return ItemResult(**known)


def _checked(hint: Any) -> Any:
    return tuple if get_origin(hint) is tuple else hint


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"
