"""Saved outputs of models, from files of three layouts, as items with what was said to them.

The layouts are vtzero's own `eval/BENCHMARK-STEP.jsonl`, BLINK's saved outputs and R1-V's result files; keys
tell them apart. The module reads and checks; it scores nothing.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtzero.evaluation.items import BenchmarkItem

BLINK_CHOICES: Mapping[str, tuple[str, ...]] = {
    "Relative_Depth": ("A is closer", "B is closer"),
    "Spatial_Relation": ("yes", "no"),
}
"""The choices of BLINK's tasks whose items all have the same; its files of outputs do not carry them."""

_LETTER = re.compile(r"\(([A-Z])\)")
_BLINK_ID = re.compile(r"(?:val|test)_(.+)_\d+")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Prediction:
    """What a model said to an item.

    Attributes:
        item: the question, its choices and its answer.
        output: the whole text; `None` where the file has none, which is not the same as wrong.
        source: CV-Bench's column of that name; empty elsewhere.
        verdict: whether the file itself counts the output as correct; `None` where it does not say.
        letter: the letter that the file's authors read from the output, "Z" for none; `None` where they
            recorded no letter.
    """

    item: BenchmarkItem
    output: str | None
    source: str = ""
    verdict: bool | None = None
    letter: str | None = None


@dataclass(frozen=True)
class Predictions:
    """The outputs in a file, the name of its layout, and the scorer that its authors' task calls for."""

    layout: str
    scorer: str
    rows: list[Prediction]


@dataclass(frozen=True)
class _Layout:
    name: str
    keys: frozenset[str]
    output: str
    read: Callable[[int, Row, str, Sequence[str]], Prediction]


def read_predictions(path: str | Path, *, choices: Sequence[str] = ()) -> Predictions:
    """Read the saved outputs in a JSON or JSON-lines file.

    `choices` are those of every item; needed where neither the file nor `BLINK_CHOICES` has them. Of BLINK's
    files the validation items are read: the answers of the test items are hidden.

    Raises FileNotFoundError for no such file, and ValueError for a file that is not JSON, holds no item, has
    unknown keys, or has no output at all.
    """
    path = Path(path)
    rows = _rows(path)
    layout = _layout(rows, path)
    _check_keys(rows, layout, path)
    read = [layout.read(number, row, layout.output, choices) for number, row in enumerate(rows)]
    if all(prediction.output is None for prediction in read):
        raise ValueError(f"{path}: no item has an output (key {layout.output!r})")
    return Predictions(layout.name, _default_scorer(layout, rows, path), read)


def _rows(path: Path) -> list[Row]:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; give the outputs that an evaluation saved")
    content = _parsed(path)
    if isinstance(content, dict):
        content = next((content[key] for key in ("val", "results") if key in content), [content])
    if not isinstance(content, list) or not content:
        raise ValueError(f"{path}: holds no item")
    for number, row in enumerate(content):
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}: item {number} is {type(row).__name__}, not an object with named values"
            )
    return content


def _parsed(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not text, and so not JSON: {error}") from None
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{path}: is nested too deep") from None
    except ValueError:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    rows = []
    for number, line in lines:
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: line {number} is not JSON: {error}") from None
    return rows


def _layout(rows: Sequence[Row], path: Path) -> _Layout:
    found = set().union(*rows)
    for layout in _LAYOUTS:
        if layout.keys | {layout.output} <= found:
            return layout
    known = "; ".join(
        f"{layout.name}: {', '.join(sorted(layout.keys | {layout.output}))}" for layout in _LAYOUTS
    )
    raise ValueError(f"{path}: unknown layout with the keys {', '.join(sorted(found))}; known are {known}")


def _check_keys(rows: Sequence[Row], layout: _Layout, path: Path) -> None:
    for number, row in enumerate(rows):
        if missing := layout.keys - row.keys():
            raise ValueError(f"{path}: item {number} lacks {', '.join(sorted(missing))}")
        choices = row.get("choices") or []
        if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
            raise ValueError(f"{path}: item {number} has choices that are no list of texts")


def _default_scorer(layout: _Layout, rows: Sequence[Row], path: Path) -> str:
    if layout.name == "vtzero":
        return _scorer_of_evaluation(path)
    if layout.name != "r1v":
        return "strict"
    counts = all(isinstance(row["ground_truth"], int) for row in rows)
    return "superclevr" if counts else "geoqa"


def _scorer_of_evaluation(path: Path) -> str:
    """What the evaluation's summary, which lies beside its items, says that they were scored by."""
    beside = path.with_suffix(".json")
    summary = _parsed(beside) if beside != path and beside.is_file() else {}
    scoring = summary.get("scoring") if isinstance(summary, dict) else None
    return str(scoring) if scoring in ("superclevr", "geoqa", "math") else "strict"


def _vtzero(number: int, row: Row, output: str, choices: Sequence[str]) -> Prediction:
    if row["choices"] and choices:
        raise ValueError(f"item {row['id']!r} has choices of its own; leave out --choices")
    item = BenchmarkItem(
        str(row["id"]),
        str(row.get("task") or ""),
        str(row.get("prompt") or ""),
        tuple(row["choices"] or choices),
        str(row["answer"]),
    )
    verdict = row["correct"] if isinstance(row.get("correct"), bool) else None
    return Prediction(item, _text(row.get(output)), str(row.get("source") or ""), verdict)


def _blink(number: int, row: Row, output: str, choices: Sequence[str]) -> Prediction:
    name = str(row["idx"])
    found = _BLINK_ID.fullmatch(name)
    task = found.group(1) if found else ""
    offered = tuple(choices) or BLINK_CHOICES.get(task)
    if offered is None:
        known = ", ".join(BLINK_CHOICES)
        raise ValueError(
            f"item {name!r}: the choices of BLINK's task {task!r} are not known here (known: {known}); "
            'give them, for instance --choices \'["left", "right"]\''
        )
    item = BenchmarkItem(name, task, "", offered, str(row["answer"]))
    letter = _LETTER.search(str(row["prediction"]))
    verdict = letter is not None and letter.group() == row["answer"]
    return Prediction(
        item, _text(row.get(output)), verdict=verdict, letter=letter.group(1) if letter else None
    )


def _r1v(number: int, row: Row, output: str, choices: Sequence[str]) -> Prediction:
    question = row["question"]
    asked = str(question.get("question", "")) if isinstance(question, dict) else str(question)
    gold = row["ground_truth"]
    item = BenchmarkItem(
        str(number), "counting" if isinstance(gold, int) else "geometry", asked, (), str(gold)
    )
    verdict = row.get("is_correct")
    if verdict is None and "extracted_answer" in row:
        verdict = row["extracted_answer"] == gold
    return Prediction(item, _text(row.get(output)), verdict=verdict)


def _text(output: Any) -> str | None:
    return output if isinstance(output, str) else None


_LAYOUTS = (
    _Layout("vtzero", frozenset({"id", "choices", "answer"}), "output", _vtzero),
    _Layout("blink", frozenset({"idx", "answer", "prediction"}), "full_prediction", _blink),
    _Layout("r1v", frozenset({"question", "ground_truth"}), "model_output", _r1v),
)
