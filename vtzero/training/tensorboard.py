"""A run's metrics for TensorBoard, written when `write` returns; what came after a resumed step is cut off.

Not through tensorboardX's SummaryWriter, which writes in a thread: where the disk is full that thread ends,
and the run would wait for it for ever.
"""

import os
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import scalar

# TFRecord: length, its checksum, the record, its checksum.
_HEADER, _FOOTER = struct.Struct("<QI"), 4


class TensorBoardLog:
    """Appends to a new event file in `folder`."""

    def __init__(self, folder: Path, resume_step: int | None = None):
        """With `resume_step`, older files lose what was logged after it, and TensorBoard is told so."""
        folder.mkdir(parents=True, exist_ok=True)
        if resume_step is not None:
            for path in sorted(folder.glob("events.out.tfevents.*")):
                cut(path, resume_step)
        # Files are named by the second: without the suffix, a quick restart would overwrite the one before.
        self._events = EventsWriter(str(folder / "events"), f".{os.getpid()}.{time.time_ns() % 10**9}")
        if resume_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._write(Event(step=resume_step + 1, session_log=start))
        self._events.flush()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One scalar each."""
        for name, value in values.items():
            self._write(Event(step=step, summary=scalar(name, value)))
        self._events.flush()

    def close(self) -> None:
        """Close the file."""
        self._events.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._events.write_event(event)


def cut(path: Path, last_step: int) -> None:
    """Shorten an event file to what comes before its first event of a later step, or that cannot be read."""
    content = path.read_bytes()
    kept = 0
    for event, end in read_events(content):
        if event.step > last_step:
            break
        kept = end
    if kept < len(content):
        os.truncate(path, kept)


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
