"""Event files as TensorBoard reads them, after a run that was interrupted too."""

from pathlib import Path

import pytest
from fixtures.tensorboard_files import scalars

from vtzero.training.tensorboard import TensorBoardLog, cut, read_events


def write(folder: Path, steps: range, resume_step: int | None = None) -> Path:
    """The file that was written."""
    log = TensorBoardLog(folder / "tensorboard", resume_step)
    for step in steps:
        log.write(step, {"loss": 1 / 2**step, "kl": 0.5 * step})
    log.close()
    return max((folder / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns)


def test_points_are_there_before_the_log_is_closed(tmp_path):
    log = TensorBoardLog(tmp_path / "tensorboard")
    log.write(1, {"loss": 0.5})
    assert scalars(tmp_path) == [(1, "loss", 0.5)]
    log.close()


def test_a_resumed_run_shows_what_an_uninterrupted_one_does(tmp_path):
    write(tmp_path / "whole", range(1, 10))
    write(tmp_path / "resumed", range(1, 7))
    write(tmp_path / "resumed", range(5, 8), resume_step=4)
    write(tmp_path / "resumed", range(3, 10), resume_step=2)
    assert scalars(tmp_path / "resumed") == scalars(tmp_path / "whole")


def test_later_steps_leave_the_files_themselves(tmp_path):
    first = write(tmp_path, range(1, 7))
    write(tmp_path, range(5, 7), resume_step=4)
    assert max(event.step for event, _ in read_events(first.read_bytes())) == 4


def test_a_file_cut_or_garbled_anywhere_keeps_what_comes_before(tmp_path):
    file = write(tmp_path, range(1, 4))
    whole = file.read_bytes()
    ends = [end for _, end in read_events(whole)]
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        cut(file, last_step=3)
        assert file.stat().st_size == max([0, *(end for end in ends if end <= length)])
        file.write_bytes(whole[:length] + b"\xff" * 40)
        cut(file, last_step=3)
        assert whole.startswith(file.read_bytes())


def test_two_starts_in_one_second_write_two_files(tmp_path):
    for _ in range(3):
        write(tmp_path, range(1, 2), resume_step=0)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 3
    assert scalars(tmp_path) == [(1, "kl", 0.5), (1, "loss", 0.5)]


def test_a_full_disk_is_an_error_at_once(tmp_path):
    """Not a writer that waits for ever for a thread that is gone."""
    log = TensorBoardLog(tmp_path)
    log._events._py_recordio_writer._writer = open("/dev/full", "wb")  # noqa: SIM115
    with pytest.raises(OSError, match="No space left"):
        log.write(1, {"loss": 0.5})
