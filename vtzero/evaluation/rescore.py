"""Scores saved outputs again, without a model: `vtzero rescore`. Knows scorers, totals and the terminal."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vtzero.evaluation.predictions import Prediction, Predictions, read_predictions
from vtzero.evaluation.scorers import SCORERS, Scorer, strict, strict_choice
from vtzero.evaluation.totals import (
    Scored,
    has_official,
    micro_total,
    official_total,
    task_totals,
)
from vtzero.rewards.symbolic import SymbolicError
from vtzero.terminal import visible

_SHOWN_TEXT = 160  # characters of an output in the list of differences


def rescore(
    path: str | Path,
    *,
    scorer: str | None = None,
    require_tags: bool = False,
    choices: str = "",
    differences: bool = False,
) -> dict[str, Any]:
    """Score the outputs saved in a file, print a table by task, and return the figures in JSON's types.

    `scorer` is one of `SCORERS`, by default the one of the file's layout; `require_tags` is the strict
    scorer's; `choices` (commas between, or a JSON list) are those of every item where the file has none.
    `differences` prints each item that is scored otherwise than the file says.

    Items without an output are in no figure: "missing" counts and lists them. "accuracy" is in percent, the
    paper's total over all items, with a 95 % "interval"; "official" is CV-Bench's, where the sources of the
    items are known. "stored" is what the file itself counts as correct. "agreement" is, for BLINK's files and
    the strict scorer, the share of items whose choice is the letter that BLINK's authors read.

    Raises FileNotFoundError or ValueError, in one line, for whatever cannot be scored.
    """
    predictions = read_predictions(path, choices=parse_choices(choices))
    name = scorer or predictions.scorer
    report = score_predictions(predictions, name, require_tags=require_tags)
    _print(report, Path(path).name, differences=differences)
    return report


def parse_choices(text: str) -> tuple[str, ...]:
    """Choices from a command line: a JSON list where it looks like one, else the parts between commas.

    Raises ValueError for a malformed list.
    """
    if not text.lstrip().startswith("["):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        listed = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{text}: not a JSON list ({error})") from None
    if not all(isinstance(choice, str) for choice in listed):
        raise ValueError(f'{text}: not a list of texts such as ["left", "right"]')
    return tuple(listed)


def score_predictions(predictions: Predictions, scorer: str, *, require_tags: bool = False) -> dict[str, Any]:
    """The figures of `rescore` for predictions that were read already.

    Raises ValueError for an unknown scorer, and for an item that this scorer cannot score.
    """
    answered = [row for row in predictions.rows if row.output is not None]
    scored = scored_items(answered, scorer, require_tags=require_tags)
    chosen = _chosen(answered, require_tags) if scorer == "strict" else None
    total = micro_total(scored)
    missing = [row.item.id for row in predictions.rows if row.output is None]
    return {
        "layout": predictions.layout,
        "scorer": scorer,
        "require_tags": require_tags if scorer == "strict" else None,
        **asdict(total),
        "tasks": {task: asdict(part) for task, part in task_totals(scored).items()},
        "official": _official(scored),
        "missing": len(missing),
        "missing_items": missing,
        "stored": _stored(answered),
        "agreement": _agreement(answered, chosen),
        "differences": _differences(answered, [correct for _, _, correct in scored], chosen),
    }


def scored_items(rows: Sequence[Prediction], scorer: str, *, require_tags: bool = False) -> list[Scored]:
    """(task, source, correct) of each row that has an output, in order.

    Raises ValueError for an unknown scorer, and for an item that this scorer cannot score.
    """
    score = _scorer(scorer, require_tags)
    return [
        (row.item.task, row.source, _verdict(score, scorer, row)) for row in rows if row.output is not None
    ]


def _scorer(name: str, require_tags: bool) -> Scorer:
    if name not in SCORERS:
        raise ValueError(f"unknown scorer {name!r}; known are {', '.join(SCORERS)}")
    if require_tags and name != "strict":
        raise ValueError(f"--require-tags belongs to the scorer strict, not to {name}")
    return partial(strict, require_tags=require_tags) if name == "strict" else SCORERS[name]


def _verdict(score: Scorer, scorer: str, row: Prediction) -> bool:
    item = row.item
    if scorer == "paper" and not item.choices:
        raise ValueError(
            f"item {item.id!r} has no choices, which the scorer paper compares with; use another"
        )
    if scorer == "superclevr" and not item.answer.isdecimal():
        raise ValueError(f"item {item.id!r}: its answer {item.answer!r} is no count; use another scorer")
    try:
        return score(row.output or "", item)
    except SymbolicError as error:
        raise ValueError(f"item {item.id!r} cannot be scored: {error}") from error


def _chosen(rows: Sequence[Prediction], require_tags: bool) -> list[str]:
    return [_choice_letter(row, require_tags) for row in rows]


def _choice_letter(row: Prediction, require_tags: bool) -> str:
    index = strict_choice(row.output or "", row.item.choices, require_tags=require_tags)
    return "Z" if index is None else chr(ord("A") + index)


def _official(scored: Sequence[Scored]) -> dict[str, Any] | None:
    return asdict(official_total(scored)) if has_official(scored) else None


def _stored(rows: Sequence[Prediction]) -> dict[str, Any] | None:
    stored = [(row.item.task, row.source, row.verdict) for row in rows if row.verdict is not None]
    return asdict(micro_total(stored)) if stored else None


def _agreement(rows: Sequence[Prediction], chosen: Sequence[str] | None) -> dict[str, Any] | None:
    if chosen is None:
        return None
    agreed = [
        ("", "", row.letter == letter)
        for row, letter in zip(rows, chosen, strict=True)
        if row.letter is not None
    ]
    return asdict(micro_total(agreed)) if agreed else None


def _differences(
    rows: Sequence[Prediction], verdicts: Sequence[bool], chosen: Sequence[str] | None
) -> list[dict[str, Any]]:
    found = []
    for number, (row, verdict) in enumerate(zip(rows, verdicts, strict=True)):
        letter = chosen[number] if chosen is not None and row.letter is not None else None
        if (row.verdict is not None and row.verdict != verdict) or (letter and letter != row.letter):
            found.append(_difference(row, verdict, letter))
    return found


def _difference(row: Prediction, verdict: bool, letter: str | None) -> dict[str, Any]:
    return {
        "id": row.item.id,
        "stored": row.verdict,
        "scored": verdict,
        "stored_letter": row.letter,
        "scored_letter": letter,
        "answer": row.item.answer,
        "output": row.output,
    }


def _print(report: dict[str, Any], name: str, *, differences: bool) -> None:
    console = Console()
    tags = ", tags required" if report["require_tags"] else ""
    heading = f"{name}: {report['layout']} layout, scorer {report['scorer']}{tags}"
    console.print(visible(heading), markup=False, highlight=False, soft_wrap=True)
    console.print(_table(report))
    for line in _notes(report):
        console.print(visible(line), markup=False, highlight=False, soft_wrap=True)
    if differences:
        for found in report["differences"]:
            console.print(visible(_described(found)), markup=False, highlight=False, soft_wrap=True)


def _table(report: dict[str, Any]) -> Table:
    table = Table()
    table.add_column("task")
    for column in ("n", "correct", "accuracy %", "95 %"):
        table.add_column(column, justify="right")
    for task, figures in report["tasks"].items():
        table.add_row(Text(visible(task) or "no task"), *_cells(figures))
    table.add_section()
    table.add_row("all", *_cells(report))
    if report["official"]:
        table.add_row("CV-Bench's official score", *_cells(report["official"]))
    return table


def _cells(figures: dict[str, Any]) -> list[str]:
    low, high = figures["interval"]
    return [
        str(figures["n"]),
        str(figures["correct"]),
        f"{figures['accuracy']:.2f}",
        f"{low:.1f} – {high:.1f}",
    ]


def _notes(report: dict[str, Any]) -> list[str]:
    notes = []
    if report["missing"]:
        notes.append(
            f"{report['missing']} without an output, in no figure: {', '.join(report['missing_items'])}"
        )
    if stored := report["stored"]:
        notes.append(
            f"the file's own verdicts: {stored['correct']} of {stored['n']}, {stored['accuracy']:.2f} %"
        )
    if agreement := report["agreement"]:
        share = f"{agreement['correct']} of {agreement['n']}, {agreement['accuracy']:.2f} %"
        notes.append(f"the choice is the file's own letter for {share}")
    if stored or agreement:
        found = [difference["id"] for difference in report["differences"]]
        notes.append(f"{len(found)} differ: {', '.join(found)}" if found else "none differs")
    return notes


def _described(found: dict[str, Any]) -> str:
    output = " ".join(found["output"].split())
    shown = output if len(output) <= _SHOWN_TEXT else output[:_SHOWN_TEXT] + " …"
    letters = f" ({found['stored_letter']} → {found['scored_letter']})" if found["scored_letter"] else ""
    words = {True: "right", False: "wrong", None: "unknown"}
    return (
        f"{found['id']}: {words[found['stored']]} → {words[found['scored']]}{letters}, "
        f"answer {found['answer']}: {shown}"
    )
