"""Before any test imports JAX: libtpu, which is there to compile for slices, asks no cloud what it runs on.

Else every process prints warnings on a machine that has no TPU. Where there is one, nothing is set.
"""

import signal
from glob import glob

import pytest

from vtzero.data import retries
from vtzero.planning.environment import prepare_compiler

if not glob("/dev/accel*") and not glob("/dev/vfio/*"):
    prepare_compiler()

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it puts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def nobody_waits_to_ask_again(monkeypatch):
    """A network that a test takes away does not come back."""
    monkeypatch.setattr(retries, "sleep", lambda _: None)
