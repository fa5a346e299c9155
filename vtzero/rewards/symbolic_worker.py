"""The process in which math-verify runs: reads comparisons, answers each with a line of its own.

Run as a file by `symbolic.py`, not imported, with a limit of its memory in bytes; it must know nothing of
this package, so that it starts in the time that math-verify itself takes. A request is one line of JSON, a
time limit in seconds and a list of comparisons; answers are `true` or `false`. The kernel ends the process
when a comparison takes longer than the limit, whatever code it is in and whether or not anyone waits for it.
"""

import functools
import json
import logging
import os
import resource
import signal
import sys
from typing import Any, TextIO

import math_verify

LATEX_AND_NUMBERS = (math_verify.LatexExtractionConfig(), math_verify.ExprExtractionConfig())
_NO_TIME_LIMIT = 0  # math-verify's own, which would turn a timeout into "not equal"


@functools.lru_cache(maxsize=4096)
def parse(text: str, strings: tuple[str, ...] = ()) -> list[Any]:
    """math-verify's `parse`: the last expression of a text and its source; empty where none can be read."""
    extraction = list(LATEX_AND_NUMBERS)
    if strings:
        extraction.append(math_verify.StringExtractionConfig(strings=strings))
    result: list[Any] = math_verify.parse(text, extraction, parsing_timeout=_NO_TIME_LIMIT)
    return result


def equal(gold: str | list[str], target: str, strings: tuple[str, ...]) -> bool:
    """math-verify's `verify` of two texts; strings given as a list are compared as they stand."""
    parsed: dict[str, list[Any]] = {}
    texts = {"target": target} if isinstance(gold, list) else {"gold": gold, "target": target}
    # The shorter first: nothing equals what cannot be read, and then the longer need not be.
    for name in sorted(texts, key=lambda name: len(texts[name])):
        parsed[name] = parse(texts[name], strings)
        if not parsed[name]:
            return False
    expected = parsed.get("gold", gold)
    return bool(math_verify.verify(expected, parsed["target"], timeout_seconds=_NO_TIME_LIMIT))


def main() -> None:
    """Answer requests until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the process that asks
    if sys.platform == "linux":
        limit = int(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    logging.disable(logging.CRITICAL)
    answers = _only_we_write_to_stdout()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        seconds, comparisons = json.loads(line)
        for gold, target, strings in comparisons:
            signal.setitimer(signal.ITIMER_REAL, seconds)  # SIGALRM without a handler ends the process
            verdict = equal(gold, target, tuple(strings))
            signal.setitimer(signal.ITIMER_REAL, 0)
            print(json.dumps(verdict), file=answers, flush=True)


def _only_we_write_to_stdout() -> TextIO:
    """A file for the answers; what libraries print goes nowhere."""
    answers = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    return answers


if __name__ == "__main__":
    main()
