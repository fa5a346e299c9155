"""What a run says of its steps, evaluations, completions and end, as lines of text and as JSON objects.

Pure functions of numbers and text; what models and data say is made visible here. Knows no terminal.
"""

import math
import shlex
import textwrap
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from vtzero.terminal import visible
from vtzero.training.completions import CompletionRow

# Metric, its short name and its format, in the order shown; those a method lacks are left out.
SHOWN = (
    ("reward", "reward", "{:.2f}"),
    ("accuracy", "accuracy", "{:.2f}"),
    ("completions/mean_length", "length", "{:.1f}"),
    ("completions/clipped_ratio", "clipped", "{:.2f}"),
    ("kl", "kl", "{:.3f}"),
    ("loss", "loss", "{:.4f}"),
    ("tokens/s", "tokens/s", "{:,.0f}"),
    ("timing_s/step", "s/step", "{:.2f}"),
)
LOST = (("rejected_samples", "set aside"), ("reward_failures", "failed rewards"))
"""What a step did without, shown where there is some."""
_WIDEST, _QUESTION_LINES, _COMPLETION_LINES = 100, 6, 12
_LONGEST = 8_000
"""Characters of a text that are looked at: nobody reads ten megabytes line by line."""


class Pace:
    """Seconds that are left, by the steps that ended last; evaluations and saves between them count too."""

    def __init__(self, total: int):
        self._total = total
        self._ends: deque[tuple[int, float]] = deque(maxlen=50)

    def ended(self, step: int) -> None:
        """A step has ended now."""
        self._ends.append((step, perf_counter()))

    def left(self) -> float | None:
        """Seconds from now on; None before two steps have ended."""
        if len(self._ends) < 2:
            return None
        (first, began), (last, ended) = self._ends[0], self._ends[-1]
        whole = (ended - began) / (last - first) * (self._total - last)
        return max(0.0, whole - (perf_counter() - ended))


def known_figures(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics, with `accuracy` (of the first reward that is one) and `tokens/s` over all devices."""
    known = dict(metrics)
    accuracy = (name for name in metrics if name.startswith("rewards/accuracy") and name.endswith("/mean"))
    if (name := next(accuracy, None)) is not None:
        known["accuracy"] = metrics[name]
    if metrics.get("perf/time_per_step"):
        known["tokens/s"] = metrics["perf/total_num_tokens"] / metrics["perf/time_per_step"]
    return known


def short_figures(metrics: Mapping[str, float]) -> dict[str, str]:
    """The figures of a step that are shown, by their short names."""
    known = known_figures(metrics)
    shown = {short: form.format(known[name]) for name, short, form in SHOWN if name in known}
    return shown | {short: f"{known[name]:.0f}" for name, short in LOST if known.get(name)}


def step_line(step: int, total: int, metrics: Mapping[str, float], left: float | None) -> str:
    """A step in one line."""
    figures = short_figures(metrics) | ({} if left is None else {"left": duration(left)})
    return "  ".join([f"step {step}/{total}", *(f"{name} {value}" for name, value in figures.items())])


def duration(seconds: float) -> str:
    """`1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def evaluation_line(step: int, measured: Mapping[str, Any]) -> str:
    """An evaluation in one line."""
    rejected = f", {measured['rejected']} set aside" if measured.get("rejected") else ""
    return (
        f"step {step}: held-out accuracy {measured['accuracy']:.1f} % strict, "
        f"{measured['accuracy_lenient']:.1f} % lenient, mean length {measured['mean_length']:.1f} tokens "
        f"({measured['n']} items{rejected})"
    )


def completion_lines(step: int, row: CompletionRow, width: int = _WIDEST) -> list[str]:
    """A completion with its question, the right answer and its rewards, without the middle of a long text."""
    rewards = "  ".join(f"{visible(name)} {value:.2f}" for name, value in row.rewards.items())
    asked = row.question or row.prompt
    parts = (
        # What is asked stands near the end.
        ("question", _cut(asked, width, first=0, last=_QUESTION_LINES)),
        ("answer", _cut(row.answer, width, first=1, last=0)),
        (
            "completion",
            _cut(row.completion, width, first=_COMPLETION_LINES // 2, last=_COMPLETION_LINES // 2),
        ),
        ("reward", [f"{row.reward:.2f}  ({rewards})  advantage {row.advantage:.2f}"]),
    )
    return [f"step {step}, a completion of {row.length} tokens:", *_labelled(parts)]


_INDENT = 14


def _labelled(parts: Sequence[tuple[str, Sequence[str]]]) -> Iterator[str]:
    for label, lines in parts:
        for number, line in enumerate(lines or [""]):
            yield f"  {'' if number else label:<{_INDENT - 2}}{line}".rstrip()


def _cut(text: str, width: int, *, first: int, last: int) -> list[str]:
    """The text in visible lines: so many first and last ones, and a line that says what is left out."""
    half = _LONGEST // 2
    short = text if len(text) <= _LONGEST else f"{text[:half]}\n{text[-half:]}"
    room = max(20, min(width, _WIDEST) - _INDENT)
    lines = [part for line in visible(short).split("\n") for part in textwrap.wrap(line, room) or [""]]
    if len(lines) <= first + last + 1:
        return lines
    left_out = (
        f"[… {len(lines) - first - last} lines …]" if short is text else f"[… of {len(text):,} characters …]"
    )
    return [*lines[:first], left_out, *lines[len(lines) - last :]]


def result_lines(figures: Mapping[str, Any], folder: Path) -> list[str]:
    """What a run has reached, and where things are."""
    run = visible(folder)
    done = f"done: {figures['steps']} steps, which took {duration(figures['seconds'])}"
    if "accuracy_before" in figures:
        accuracy = "{accuracy_before:.1f} -> {accuracy_after:.1f} % strict".format(**figures)
        length = "{mean_length_before:.1f} -> {mean_length_after:.1f} tokens".format(**figures)
        done += f"; held-out accuracy {accuracy}, mean length {length}"
    return [
        done,
        f"model:  {visible(folder / 'export')} (a Hugging Face folder)",
        f"report: vtzero report {shlex.quote(run)}",
    ]


def finite(value: Any) -> Any:
    """What JSON knows: null for NaN and infinity, in mappings and lists too."""
    if isinstance(value, Mapping):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def completion_object(row: CompletionRow) -> dict[str, Any]:
    """A completion for JSON; of its picture nothing."""
    return {
        "question": row.question,
        "prompt": row.prompt,
        "answer": row.answer,
        "completion": row.completion,
        "length": row.length,
        "rewards": dict(row.rewards),
        "reward": row.reward,
        "advantage": row.advantage,
    }
