"""Text of others, made safe to show: models and data sets may say anything. Knows text only."""

import re
import unicodedata

LONGEST = 400
"""Characters of a short line."""

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
_KEPT = {"\n", "\t", "\u200c", "\u200d"}
"""Persian and Hindi are written with the joiners, and emoji are made with them; no terminal obeys them."""
_SECRETS = re.compile(r"(?:(?<=:/)|(?<=://))[^/\s@]+(?=@)|\bhf_[A-Za-z0-9]{8,}")


def visible(text: object) -> str:
    """The text with what a terminal would obey, or hide, written out: `\\x1b` for the escape character.

    These are control characters but line breaks and tabs, and marks that turn the direction of writing round.
    """
    return "".join(letter if _is_plain(letter) else ascii(letter)[1:-1] for letter in str(text))


def one_line(text: object) -> str:
    """A message in one visible line, without the passwords in its links and the hub's tokens."""
    return visible(_SECRETS.sub("***", " ".join(str(text).split())))


def short_line(text: object) -> str:
    """`one_line` with its middle left out: a reason that quotes ten megabytes of an answer helps nobody."""
    whole, half = str(text), (LONGEST - 3) // 2
    # Cut first, so that ten megabytes are not walked through.
    line = one_line(whole if len(whole) <= 4 * LONGEST else f"{whole[: 2 * LONGEST]}{whole[-2 * LONGEST :]}")
    return line if len(line) <= LONGEST else f"{line[:half]} … {line[-half:]}"


def error_line(error: BaseException) -> str:
    """An error's kind and what it says, as a `short_line`."""
    try:
        said = str(error)
    except Exception:  # it is another's, and may do anything
        said = "<its text cannot be read>"
    return short_line(f"{type(error).__name__}: {said}".removesuffix(": "))


def _is_plain(letter: str) -> bool:
    return letter in _KEPT or unicodedata.category(letter) not in _HIDDEN
