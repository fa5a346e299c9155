"""The values that a setting may have, written beside its type: `Annotated[int, at_least(1)]`.

Knows no settings.
"""

import typing
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

MOST_SHOWN = 100


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, both in it, but for those in `without`; `words` say so to a person.

    NaN is in none.
    """

    least: float
    most: float
    words: str
    without: tuple[float, ...] = ()

    def __contains__(self, value: Any) -> bool:
        return bool(self.least <= value <= self.most) and value not in self.without


def at_least(least: float, most: float) -> Range:
    """From `least` to `most`."""
    return Range(least, most, f"at least {least:,} and at most {most:,}")


def out_of_range(settings: Any) -> Iterator[tuple[str, Any, str]]:
    """Each field of a dataclass with a value that is not in its range: its name, the value, the words."""
    kind: Any = type(settings)
    for name, allowed in _ranges(kind).items():
        value = getattr(settings, name)
        parts = value if isinstance(value, tuple) else () if value is None else (value,)
        if not all(part in allowed for part in parts):
            yield name, value, allowed.words


def shown(value: Any) -> str:
    """A value as Python writes it, cut where it is long; a whole number may have too many digits to write."""
    try:
        text = repr(list(value) if isinstance(value, tuple) else value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]} …"


@cache
def _ranges(kind: type) -> dict[str, Range]:
    hints = typing.get_type_hints(kind, include_extras=True)
    found = {field.name: _range(hints[field.name]) for field in fields(kind)}
    return {name: allowed for name, allowed in found.items() if allowed is not None}


def _range(hint: Any) -> Range | None:
    """The first one in an annotation such as `tuple[Annotated[int, Range], ...] | None`."""
    for part in getattr(hint, "__metadata__", ()):
        if isinstance(part, Range):
            return part
    inner = (_range(part) for part in typing.get_args(hint))
    return next((allowed for allowed in inner if allowed is not None), None)
