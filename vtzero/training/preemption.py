"""SIGTERM and SIGINT as a wish to stop: heard at the next safe point of a step, by all processes together.

A second signal ends the process at once. Knows signals, processes and whether arrays are there yet; what is
saved is the loop's matter.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from types import FrameType
from typing import Any, TypeVar

import jax

from vtzero.parallel.messages import tell_all
from vtzero.signals import SIGNALS, caught, raise_signalled

Value = TypeVar("Value")

_TELLING = 1.0  # seconds
_LOOK_UP = 0.5  # seconds


class Stopped(Exception):
    """A step was given up at a safe point: the state is that of the step before."""


class StopRequest:
    """While it is entered, the first signal is a wish, unless `immediate`: then it is a KeyboardInterrupt.

    To be entered in the main thread.
    """

    def __init__(self, heard: Callable[[int], None] = lambda count: None) -> None:
        """`heard` is called in another thread with the number of signals so far; after the second the process
        ends, a second later at the latest where it does not return.
        """
        self.immediate = True
        self._tell = heard
        self._raised = False
        self._asked = False  # no Event: its lock may be held by what the handler interrupts
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        # Python's own handlers wait until the main thread is back from XLA; a byte written here does not, so
        # that a second signal is heard while a long program runs.
        self._read, self._written = socket.socketpair()
        self._written.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._written.fileno(), warn_on_full_buffer=False)
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._heard) for number in heard}
        threading.Thread(target=self._listen, name="signals", daemon=True).start()
        self._waiter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="arrival")
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._written.close()
        self._waiter.shutdown(wait=False)
        caught()  # on its way through code of ours alone it cannot get lost

    def agreed(self) -> bool:
        """Whether any process was asked to stop; all must call it, and get one answer."""
        return any(tell_all(self._asked))

    def arrived(self, values: Any) -> bool:
        """Wait until arrays are there, in every process; False as soon as any process was asked to stop.

        All must call it, and get one answer. What computes them goes on. Raises what made them fail here.
        """
        work = self._waiter.submit(jax.block_until_ready, values)
        while True:
            wait([work], timeout=_LOOK_UP)
            if work.done():
                work.result()  # what has failed here may keep the others waiting for ever
            told = tell_all((self._asked, work.done()))
            if any(asked for asked, _ in told):
                return False
            if all(done for _, done in told):
                return True

    def unless_asked(self, do: Callable[[], Value]) -> Value | None:
        """What `do` returns; None as soon as this process is asked to stop, in the midst of it too."""
        try:
            try:
                self.immediate = True
                return None if self._asked else do()
            finally:
                self.immediate = False
        except KeyboardInterrupt:  # perhaps just before that line
            self.immediate = False
            caught()
            return None

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if self.immediate and not self._raised:  # the other thread ends the process after a second one
            self._raised = True
            raise_signalled(number, frame)

    def _listen(self) -> None:
        wishes = 0
        while heard := self._read.recv(16):
            for number in heard:
                if number not in SIGNALS:
                    continue
                wishes += 1
                self._asked = True
                teller = threading.Thread(target=self._tell, args=(wishes,), daemon=True)
                teller.start()
                teller.join(timeout=_TELLING)  # a terminal that is halted must not keep the process
                if wishes > 1:
                    os._exit(128 + number)
        self._read.close()
