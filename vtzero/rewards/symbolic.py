"""math-verify behind two functions that neither raise nor depend on the calling thread.

math-verify limits its time with SIGALRM, which only the main thread may set; anywhere else each call would
raise and every score would silently become 0. Off the main thread it therefore runs without a limit of its
own, and whoever started that thread bounds the time. It knows nothing of rewards.
"""

import threading
from collections.abc import Sequence
from typing import Any

import math_verify
from math_verify.errors import TimeoutException

_TIME_LIMIT_SECONDS = 5  # math-verify's own default
_NO_TIME_LIMIT = 0

DEFAULT_EXTRACTION = (math_verify.LatexExtractionConfig(), math_verify.ExprExtractionConfig())


def parse_math(text: str, extraction: Sequence[Any] = DEFAULT_EXTRACTION) -> list[Any]:
    """math-verify's `parse`: the last expression of a text and its source string; empty where none parses."""
    try:
        return math_verify.parse(text, extraction_config=extraction, parsing_timeout=_time_limit())
    except (Exception, TimeoutException):  # a timeout of math-verify is a BaseException
        return []


def verify_math(gold: list[Any], target: list[Any]) -> bool:
    """math-verify's `verify`: whether any of `target` equals any of `gold`; False where comparing fails."""
    try:
        return bool(math_verify.verify(gold, target, timeout_seconds=_time_limit()))
    except (Exception, TimeoutException):
        return False


def _time_limit() -> int:
    on_main_thread = threading.current_thread() is threading.main_thread()
    return _TIME_LIMIT_SECONDS if on_main_thread else _NO_TIME_LIMIT
