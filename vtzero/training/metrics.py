"""What a run writes down as it goes: metrics a step, samples set aside, and TRL's metrics of a batch.

Knows files and numbers on the host; knows no model, no arrays of a device and no formula of training.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from vtzero.rewards.runner import RewardFailure
from vtzero.rewards.text import AHA_WORDS
from vtzero.training.completions import remove_completions_after
from vtzero.training.tensorboard import TensorBoardLog
from vtzero.whole_files import written_whole

METRICS_FILE = "metrics.jsonl"
REJECTED_FILE = "rejected.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


class MetricsLog:
    """Appends to `metrics.jsonl`, and to `tensorboard/`, in a run folder; one process of a run has one."""

    def __init__(
        self, folder: str | Path, *, tensorboard: bool = True, resume_step: int | None = None
    ) -> None:
        """A last line that an interruption tore is dropped.

        With `resume_step`, so is all that was logged after that step, in `metrics.jsonl`, `completions/` and
        `tensorboard/`. None keeps what is there.

        Raises ValueError naming the line of `metrics.jsonl` that is damaged.
        """
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lines = _Lines(self._folder / METRICS_FILE, resume_step)
        if resume_step is not None:
            remove_completions_after(self._folder, resume_step)
        events = self._folder / TENSORBOARD_FOLDER
        self.tensorboard = TensorBoardLog(events, resume_step) if tensorboard else None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append `{"step": step, **metrics}` as one line, and flush it.

        JSON knows no NaN and no infinity: both are written as null, and are absent in TensorBoard.

        Raises ValueError naming the metric that is no number, or is called "step".
        """
        if "step" in metrics:
            raise ValueError("a metric is called 'step', which is the name of the step itself; rename it")
        values = {name: _finite(name, value) for name, value in metrics.items()}
        self._lines.append({"step": int(step), **values})
        if self.tensorboard is not None:
            self.tensorboard.write(step, {name: value for name, value in values.items() if value is not None})

    def close(self) -> None:
        """Close the files."""
        self._lines.close()
        if self.tensorboard is not None:
            self.tensorboard.close()


class RejectedLog:
    """Appends to `rejected.jsonl` in a run folder what was set aside, and why."""

    def __init__(self, folder: str | Path, *, resume_step: int | None = None) -> None:
        """`resume_step` as in `MetricsLog`."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._lines = _Lines(Path(folder) / REJECTED_FILE, resume_step)

    def write(
        self, step: int, id: str, kind: Literal["sample", "reward", "update"], reason: str, **details: Any
    ) -> None:
        """Append `{"step", "id", "kind", "reason", **details}`; details are JSON values."""
        self._lines.append({"step": int(step), "id": id, "kind": kind, "reason": reason, **details})

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The objects of `metrics.jsonl` in order; no file, no objects. A torn last line is left out.

    Raises ValueError naming the line that is damaged.
    """
    path = Path(folder) / METRICS_FILE
    return [record for _, record in _records(path)] if path.is_file() else []


def length_metrics(
    lengths: Int[np.ndarray, "..."], terminated: Bool[np.ndarray, "..."], max_length: int
) -> dict[str, float]:
    """TRL's metrics of completion lengths in tokens, the stop token counted.

    `clipped_ratio` is the share that met no stop token within `max_length`. Where none met one, the three
    lengths of terminated completions are 0 (TRL, `trl/trainer/grpo_trainer.py`).

    Raises ValueError without completions, or for a length out of range.
    """
    lengths, terminated = np.asarray(lengths), np.asarray(terminated, bool)
    if lengths.shape != terminated.shape or not lengths.size:
        raise ValueError(f"lengths has shape {lengths.shape} and terminated {terminated.shape}")
    if lengths.min() < 0 or lengths.max() > max_length:
        raise ValueError(
            f"lengths go from {lengths.min()} to {lengths.max()}; they must be 0 to {max_length}"
        )
    ended = lengths[terminated] if terminated.any() else np.zeros(1)
    return {
        "completions/mean_length": float(lengths.mean()),
        "completions/min_length": float(lengths.min()),
        "completions/max_length": float(lengths.max()),
        "completions/clipped_ratio": float((~terminated).mean()),
        "completions/mean_terminated_length": float(ended.mean()),
        "completions/min_terminated_length": float(ended.min()),
        "completions/max_terminated_length": float(ended.max()),
    }


def reward_metrics(names: Sequence[str], scores: Float[np.ndarray, "functions samples"]) -> dict[str, float]:
    """TRL's `rewards/{name}/mean` and `rewards/{name}/std` of each reward function.

    A NaN is an absent score and counts in neither. The standard deviation is the unbiased one; 0 for a single
    score. Without any score both are NaN.

    Raises ValueError unless there is one row of scores a name.
    """
    if len(names) != len(scores):
        raise ValueError(f"{len(names)} reward names for {len(scores)} rows of scores")
    metrics = {}
    for name, row in zip(names, np.asarray(scores, np.float64), strict=True):
        present = row[~np.isnan(row)]
        metrics[f"rewards/{name}/mean"] = float(present.mean()) if present.size else math.nan
        metrics[f"rewards/{name}/std"] = _unbiased_std(present)
    return metrics


def failure_metrics(names: Sequence[str], failures: Sequence[RewardFailure]) -> dict[str, float]:
    """`rewards/{name}/failures` of each function: completions that it should have scored and did not."""
    failed = Counter(one.function_name for one in failures if one.sample_index is not None)
    return {f"rewards/{name}/failures": float(failed[name]) for name in names}


def aha_metrics(found: Sequence[Sequence[str]]) -> dict[str, float]:
    """`aha/WORD` for each of `AHA_WORDS`: its occurrences in all completions of a step, as the paper counts.

    `found` has the words of each completion (`vtzero.rewards.text.aha_words`).
    """
    counts = Counter(word for words in found for word in words)
    return {f"aha/{word}": float(counts[word]) for word in AHA_WORDS}


def _unbiased_std(values: Float[np.ndarray, " samples"]) -> float:
    if not values.size:
        return math.nan
    return float(values.std(ddof=1)) if values.size > 1 else 0.0


class _Lines:
    """A file of one JSON object a line, each flushed as it is written."""

    def __init__(self, path: Path, last_step: int | None) -> None:
        if path.is_file():
            _cut(path, last_step)
        self._file = path.open("a", encoding="utf-8")

    def append(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _cut(path: Path, last_step: int | None) -> None:
    """Drop the torn last line and the lines of later steps; all of it or nothing happens to the file."""
    kept = [line for line, record in _records(path) if last_step is None or record["step"] <= last_step]
    with written_whole(path) as unfinished:
        unfinished.write_bytes(b"".join(line + b"\n" for line in kept))


def _records(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each whole line with what it holds; what follows the last line break is torn."""
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            int(record["step"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}:{number}: not a JSON object with a step; remove the line") from error
        yield line, record


def _finite(name: str, value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metric {name!r} is {value!r}, not a number") from error
    return number if math.isfinite(number) else None
