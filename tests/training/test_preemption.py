"""A signal is a wish that is heard at a safe point; a second one ends the process at once."""

import os
import signal
import subprocess
import sys
import time
from threading import Timer

import jax
import jax.numpy as jnp
import pytest
from fixtures.signalled import signalled_by

from vtzero.signals import SIGNALS
from vtzero.training.preemption import StopRequest


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_a_wish(number):
    with StopRequest() as stop:
        stop.immediate = False
        assert not stop.agreed()
        os.kill(os.getpid(), number)
        assert stop.agreed()
        assert stop.agreed()


@pytest.mark.parametrize("number", SIGNALS)
def test_where_nothing_can_be_saved_it_interrupts(number):
    with StopRequest() as stop:
        assert stop.immediate
        assert signalled_by(signal_and_wait, number) == number


def signal_and_wait(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(10)


@pytest.mark.parametrize("number", SIGNALS)
def test_work_that_may_be_given_up_is_given_up_at_once(number):
    with StopRequest() as stop:
        stop.immediate = False
        assert stop.unless_asked(lambda: 5) == 5
        began = time.monotonic()
        assert stop.unless_asked(lambda: signal_and_wait(number)) is None
        assert time.monotonic() - began < 5
        assert stop.agreed()
        assert not stop.immediate
        assert stop.unless_asked(lambda: pytest.fail("a stopped process begins nothing")) is None


@pytest.mark.parametrize("number", SIGNALS)
def test_work_on_devices_is_waited_for_until_a_signal_comes(number):
    with StopRequest() as stop:
        stop.immediate = False
        short = worked(1)
        assert stop.arrived(short)
        assert short.is_ready()
        long = worked(400)
        Timer(0.2, os.kill, [os.getpid(), number]).start()
        began = time.monotonic()
        assert not stop.arrived(long)
        assert time.monotonic() - began < 3
        assert not long.is_ready()
        assert not stop.arrived(short)


@jax.jit
def worked(times: int) -> jax.Array:
    """On its way when this returns: a time takes some 20 ms."""
    matrix = jnp.full((1024, 1024), 1e-3)
    return jax.lax.fori_loop(0, times, lambda _, x: x @ matrix, matrix)


def test_what_fails_on_a_device_fails_here():
    """Among several processes the others may wait for this one, in the same program, for ever."""

    class Failed:
        def block_until_ready(self):
            raise RuntimeError("out of memory")

    with StopRequest() as stop, pytest.raises(RuntimeError, match="out of memory"):
        stop.arrived(Failed())


def test_the_handlers_of_before_come_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopRequest():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


TWICE = """
import hashlib
from vtzero.training.preemption import StopRequest
with StopRequest() as stop:
    stop.immediate = IMMEDIATE
    print("listening", flush=True)
    # C code that does not come back to Python for a minute or so, as a long program of XLA.
    hashlib.pbkdf2_hmac("sha256", b"word", b"salt", 200_000_000)
    print("not heard", flush=True)
"""


@pytest.mark.parametrize("immediate", ["False", "True"])
def test_a_second_signal_ends_a_process_that_is_deep_in_a_program(immediate):
    program = TWICE.replace("IMMEDIATE", immediate)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "listening\n"
    time.sleep(0.5)  # it is deep in it
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert time.monotonic() - began < 5
    assert said == ""
