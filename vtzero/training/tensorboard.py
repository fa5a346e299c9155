"""A run for TensorBoard: metrics, histograms, completions with pictures, settings with results.

All is written when a method returns; what came after a resumed step is cut off.

Not through tensorboardX's SummaryWriter, which writes in a thread: where the disk is full that thread ends,
and the run would wait for it for ever.
"""

import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import histogram, hparams, scalar, text

from vtzero.config import RunConfig
from vtzero.data.images import open_image
from vtzero.terminal import visible
from vtzero.training.completions import CompletionRow, png_bytes

# TFRecord: length, its checksum, the record, its checksum.
_HEADER, _FOOTER = struct.Struct("<QI"), 4
_AFTER_A_STEP = ("eval/", "_hparams_/")
"""What follows on the metrics of a step; where a run goes on after that step it is written once more."""

_BINS = 30
_PICTURE = 256
_MOST_SHOWN, _LONGEST = 8, 4_000
"""Completions of a group, and characters of each: 1,500 steps then show 5 MB at most."""

_RESULTS = {
    "grpo": ("eval/accuracy", "eval/mean_length", "reward", "completions/mean_length"),
    "sft": ("eval/accuracy", "eval/mean_length", "loss"),
}


class TensorBoardLog:
    """Appends to a new event file in `folder`."""

    def __init__(self, folder: Path, resume_step: int | None = None):
        """With `resume_step`, older files lose what was logged after it, and TensorBoard is told so."""
        folder.mkdir(parents=True, exist_ok=True)
        if resume_step is not None:
            for path in sorted(folder.glob("events.out.tfevents.*")):
                cut(path, resume_step)
        # Files are named by the second, and read in the order of their names: without the suffix, a quick
        # restart would overwrite the one before, or be read before it.
        self._events = EventsWriter(str(folder / "events"), f".{time.time_ns() % 10**9:09}.{os.getpid()}")
        if resume_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._write(Event(step=resume_step + 1, session_log=start))
        self._events.flush()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One scalar each."""
        for name, value in values.items():
            self._write(Event(step=step, summary=scalar(name, value)))
        self._events.flush()

    def show(self, step: int, samples: Mapping[str, np.ndarray], group: Sequence[CompletionRow] = ()) -> None:
        """A histogram each; and a group of completions as text, with its picture."""
        for name, numbers in samples.items():
            if (finite := numbers[np.isfinite(numbers)]).size:
                self._write(Event(step=step, summary=histogram(name, finite, _BINS)))
        if group:
            self._write(Event(step=step, summary=text("completions/group", group_text(group))))
            if group[0].image is not None:
                self._write(Event(step=step, summary=picture("completions/image", group[0].image)))
        self._events.flush()

    def finished(self, step: int, settings: Mapping[str, Any]) -> None:
        """The run is done: its settings, for the HPARAMS tab; results there are the last scalars."""
        results = dict.fromkeys(_RESULTS[settings["method"]], 0.0)
        for summary in hparams(dict(settings), results):
            self._write(Event(step=step, summary=summary))
        self._events.flush()

    def close(self) -> None:
        """Close the file."""
        self._events.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._events.write_event(event)


def cut(path: Path, last_step: int) -> None:
    """Shorten an event file to what comes before its first event of a later step, or that cannot be read.

    What follows on the metrics of `last_step`, its evaluation and the end of the run, is cut off too.
    """
    content = path.read_bytes()
    kept = 0
    for event, end in read_events(content):
        if event.step > last_step or (event.step == last_step and _follows(event)):
            break
        kept = end
    if kept < len(content):
        os.truncate(path, kept)


def _follows(event: Event) -> bool:
    return any(value.tag.startswith(_AFTER_A_STEP) for value in event.summary.value)


def read_events(content: bytes) -> Iterator[tuple[Event, int]]:
    """The events of a file up to one that cannot be read, and where each ends."""
    start = 0
    while start + _HEADER.size <= len(content):
        length, _ = _HEADER.unpack_from(content, start)
        end = start + _HEADER.size + length + _FOOTER
        if end > len(content):
            return
        record = content[start + _HEADER.size : end - _FOOTER]
        if content[end - _FOOTER : end] != struct.pack("<I", masked_crc32c(record)):
            return
        yield Event.FromString(record), end
        start = end


def group_text(group: Sequence[CompletionRow]) -> str:
    """A question with its completions as a block of code: nothing in it is read as Markdown or HTML."""
    first = group[0]
    parts = [first.prompt, f"right answer: {first.answer}"]
    for number, row in enumerate(group[:_MOST_SHOWN], 1):
        rewards = ", ".join(f"{name} {value:.2f}" for name, value in row.rewards.items())
        scored = f"{number}: reward {row.reward:.2f} ({rewards}), advantage {row.advantage:.2f}"
        parts += ["", scored, row.completion]
    lines = "\n".join(visible(_shortened(part)) for part in parts).expandtabs().split("\n")
    return "\n".join(f"    {line}" for line in lines)


def _shortened(part: str) -> str:
    return part if len(part) <= _LONGEST else f"{part[: _LONGEST // 2]} […] {part[-_LONGEST // 2 :]}"


def picture(name: str, content: bytes) -> Summary:
    """An image file, scaled to at most 256 pixels a side."""
    image = open_image(content)
    image.thumbnail((_PICTURE, _PICTURE))
    encoded = {"colorspace": 3, "encoded_image_string": png_bytes(image)}
    shown = Summary.Image(width=image.width, height=image.height, **encoded)
    return Summary(value=[Summary.Value(tag=name, image=shown)])


def hyperparameters(config: RunConfig) -> dict[str, bool | float | str]:
    """The settings of a run by name, `mesh.data` among them: numbers and texts, but for the folder's name.

    All runs have the same names: TensorBoard takes the names of one for all.
    """
    settings = asdict(config)
    del settings["output_dir"]
    mesh = settings.pop("mesh")
    settings |= {f"mesh.{axis}": size for axis, size in mesh.items()}
    return {name: _plain(value) for name, value in settings.items()}


def _plain(value: Any) -> bool | float | str:
    if isinstance(value, bool | int | float | str):
        return value
    return "null" if value is None else ", ".join(map(str, value))
