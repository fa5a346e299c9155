"""What a failure says, and its exit code; the commands' own tests have the rest."""

import errno

import pytest

from vtzero.failures import FAILED, MISTAKE, RunFailedError, described, full_disk


def raised_by(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RunFailedError("five steps\nin a row"), "five steps in a row"),
        (OSError(errno.ENOSPC, "No space left", "a.json"), "cannot write (a.json: No space left on device)"),
        (OSError(errno.EROFS, "Read-only file system"), "cannot write (Read-only file system)"),
        (
            ValueError('RESOURCE_EXHAUSTED: "a/b": No space left on device [28]'),
            "cannot write (No space left on device)",
        ),
        (
            ValueError("UNKNOWN: Gloo AllGather failed: Read error [127.0.0.1]:1: Connection reset by peer"),
            "another process of this job is gone (UNKNOWN: Gloo AllGather failed: Read error "
            "[127.0.0.1]:1: Connection reset by peer); its own output says why",
        ),
        (ValueError("from elsewhere"), None),
        (KeyError("x"), None),
    ],
)
def test_a_failure_in_one_line_or_with_its_traceback(error, line):
    assert described(raised_by(error)) == (FAILED, line)


def test_a_full_disk_is_found_behind_other_errors():
    full = OSError(errno.ENOSPC, "No space left on device")
    assert full_disk(raised_by(RuntimeError("cannot save"), full)) == "No space left on device"
    assert full_disk(raised_by(RuntimeError("cannot save"))) is None


def test_a_file_of_somebody_else_is_a_mistake():
    error = PermissionError(errno.EACCES, "Permission denied", "/results/eval")
    assert described(raised_by(error)) == (MISTAKE, "/results/eval: Permission denied")
