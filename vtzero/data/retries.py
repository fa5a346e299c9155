"""Asking again where a network fails for a moment. Knows no address and no data."""

import random
import sys
from collections.abc import Callable, Iterator
from time import sleep
from typing import TypeVar

from vtzero.terminal import one_line

Answer = TypeVar("Answer")

WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try, and up to half as much again, so that many do not ask at once."""

_PASSING = (408, 425, 429, 500, 502, 503, 504)

# By name: which library's errors come through huggingface_hub changes between its versions.
_BROKEN_OFF = {"ConnectionError", "TimeoutError", "TransportError", "gaierror", "IncompleteRead"}


def with_retries(ask: Callable[[], Answer], what: str) -> Answer:
    """What `ask` returns; it is asked again, after a line on standard error, while its error may pass.

    Raises the last error.
    """
    for wait in WAITS:
        try:
            return ask()
        except Exception as error:
            if not may_pass(error):
                raise
            seconds = wait * random.uniform(1, 1.5)
            said = f"{what}: {type(error).__name__}: {error}; asked again in {seconds:.0f} s"
            print(one_line(said), file=sys.stderr, flush=True)
            sleep(seconds)
    return ask()


def may_pass(error: BaseException) -> bool:
    """Whether it is for want of a connection or an answer, and not because the answer is no."""
    chain = list(_chain(error))
    codes = [code for one in chain if (code := _status(one)) is not None]
    if codes:
        return codes[0] in _PASSING
    kinds = {kind.__name__ for one in chain for kind in type(one).__mro__}
    return bool(kinds & _BROKEN_OFF) and "OfflineModeIsEnabled" not in kinds


def _status(error: BaseException) -> int | None:
    """The HTTP status of an answer that an error is about: of httpx, huggingface_hub and urllib."""
    code = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "code", None)
    return code if isinstance(code, int) else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        reason = getattr(error, "reason", None)  # that of urllib's URLError
        error = reason if isinstance(reason, BaseException) else error.__cause__ or error.__context__
