"""JSON files that others wrote: read whole or refused in one line that names the file. Knows no keys."""

import json
from pathlib import Path
from typing import Any

from vtzero.terminal import one_line

MOST_BYTES = 64 * 2**20
"""tokenizer.json, the largest of a model's, has 7 MB."""


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises FileNotFoundError where there is none, ValueError that names the file when it holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing; fetch the whole folder of the model")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise ValueError(f"{path}: has {size:,} bytes, too many for a JSON file of a model")
    try:
        return parse_object(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse_object(raw: bytes) -> dict[str, Any]:
    """The object in a JSON text; ValueError that says why there is none."""
    try:
        value = json.loads(raw.decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else one_line(error)
        raise ValueError(f"not JSON ({reason})") from None
    if not isinstance(value, dict):
        raise ValueError("holds no JSON object")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a key that is there twice JSON takes the last without a word."""
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the key {name[:80]!r} is there twice")
            seen.add(name)
    return value
