"""Benchmarks by name or by file: what is asked, in which words, and what answers it.

Knows no model and no scores.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from vtzero.data.example import Example
from vtzero.data.sources import Source, open_source
from vtzero.evaluation.extraction import resolve_choice
from vtzero.evaluation.items import BenchmarkItem
from vtzero.evaluation.scorers import gold_index

BENCHMARKS = {"scenes": "test"}
"""The benchmarks known by name, and the split of each that is held out."""


@dataclass(frozen=True)
class Benchmark:
    """A named, finite list of questions; a row that could not be read is `Rejected` in its place."""

    name: str
    examples: Source


def open_benchmark(spec: str | Path, *, limit: int | None = None) -> Benchmark:
    """Open a benchmark of `BENCHMARKS`, a `.jsonl` or `.parquet` file, or several (`test-*.parquet`).

    A file may have any columns that `open_source` knows; its stem is the benchmark's name. `limit` keeps the
    first rows only.

    Raises ValueError for an unknown name, an empty file or unknown columns, FileNotFoundError for no file.
    """
    text = str(spec)
    if text in BENCHMARKS:
        return Benchmark(text, open_source(text, split=BENCHMARKS[text], limit=limit))
    if not text.endswith((".jsonl", ".parquet")):
        names = ", ".join(BENCHMARKS)
        raise ValueError(
            f"unknown benchmark {text!r}; give {names}, or the path of a .jsonl or .parquet file"
        )
    return Benchmark(_file_name(text), open_source(text, limit=limit))


def benchmark_item(example: Example) -> BenchmarkItem:
    """What the scorers need of an example; without options it is an open question.

    The answer is the text of a choice, or its letter where scorers would read that text as another choice's
    letter (the choices "(B)" and "(A)").

    Raises ValueError when the answer names no choice.
    """
    item = BenchmarkItem(example.id, example.task, example.question, example.options, example.answer)
    if not example.options:
        return item
    if example.answer in example.options:
        index = example.options.index(example.answer)
        if resolve_choice(example.answer, example.options) != index:
            item = replace(item, answer=f"({chr(ord('A') + index)})")
    gold_index(item)
    return item


def as_asked(example: Example) -> Example:
    """The example in the words that its benchmark publishes, if any, with the choices inside them.

    CV-Bench and BLINK carry the whole question, lettered choices included, in a column `prompt`, and the
    paper's evaluation asks exactly that. Source: turningpoint-ai/VisualThinker-R1-Zero, `src/eval`.
    """
    prompt = example.columns.get("prompt")
    if not example.options or "choices" not in example.columns or not isinstance(prompt, str):
        return example
    return replace(example, question=prompt, options=())


def _file_name(path: str) -> str:
    """The stem as part of a file name: without the characters of a pattern."""
    return re.sub(r"[^\w.-]+", "", Path(path).stem).strip("-.") or "benchmark"
