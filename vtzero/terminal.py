"""Text of others, made safe to show: models and data sets may say anything. Knows text only."""

import re
import unicodedata

LONGEST = 400
"""Characters of a short line."""

_READ = 10_000
"""Characters of each end, of which a short line is made: a secret that is cut in two is not known as one."""

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
_KEPT = {"\n", "\t", "\u200c", "\u200d"}
"""Persian and Hindi are written with the joiners, and emoji are made with them; no terminal obeys them."""
_SECRETS = re.compile(
    r"""
    (?:(?<=:/)|(?<=://))[^/\s]+(?=@)  # what stands before the last @ of a link's host
    | \bhf_[A-Za-z0-9]{8,}  # Hugging Face
    # OpenAI and who copies it; no words with hyphens, in which letters are small
    | (?<![\w-])sk-(?=[\w-]*\d)(?=[\w-]*(?:[A-Z]|\w{12}))[\w-]{16,}
    # a header; no word that follows on "the bearer"
    | (?<=(?i:bearer)[ ])(?:(?=[\w.~+/=-]*\d)[\w.~+/=-]{8,}|[\w.~+/=-]{20,})
    """,
    re.VERBOSE,
)
_KEY = re.compile(r"(key\W{1,4}(?:is )?(?:local-)?)[0-9a-f]{40}\b", re.IGNORECASE)
"""W&B's. A commit is such a number too, so that only the word before it tells."""
_LINK = re.compile(r"(?<=:/)[^\s'\"<>]*")
_CLOSING = ".,:;!?)]}"


def visible(text: object) -> str:
    """The text with what a terminal would obey, or hide, written out: `\\x1b` for the escape character.

    These are control characters but line breaks and tabs, and marks that turn the direction of writing round.
    """
    return "".join(letter if _is_plain(letter) else ascii(letter)[1:-1] for letter in str(text))


def one_line(text: object) -> str:
    """A message in one visible line, without passwords, tokens and keys, and without the queries of links.

    Whoever has a signed link has the file: its path stays, and `?…` stands for what would open it.
    """
    line = _SECRETS.sub("***", " ".join(str(text).split()))
    return visible(_LINK.sub(_without_query, _KEY.sub(r"\1***", line)))


def its_lines(text: object) -> str:
    """Text of several lines, such as a traceback: each as `one_line`, and as far to the right as it was."""
    lines = str(text).splitlines()
    return "\n".join(line[: len(line) - len(line.lstrip())] + one_line(line) for line in lines)


def short_line(text: object) -> str:
    """`one_line` with its middle left out: a reason that quotes ten megabytes of an answer helps nobody."""
    whole, half = str(text), (LONGEST - 3) // 2
    # Cut first, so that ten megabytes are not walked through.
    line = one_line(whole if len(whole) <= 2 * _READ else f"{whole[:_READ]}{whole[-_READ:]}")
    return line if len(line) <= LONGEST else f"{line[:half]} … {line[-half:]}"


def error_line(error: BaseException) -> str:
    """An error's kind and what it says, as a `short_line`."""
    try:
        said = str(error)
    except Exception:  # it is another's, and may do anything
        said = "<its text cannot be read>"
    return short_line(f"{type(error).__name__}: {said}".removesuffix(": "))


def _without_query(link: re.Match[str]) -> str:
    address, _, query = link[0].partition("?")
    if "=" not in query:  # a question may end on a link
        return link[0]
    return f"{address}?…{query[len(query.rstrip(_CLOSING)) :]}"


def _is_plain(letter: str) -> bool:
    return letter in _KEPT or unicodedata.category(letter) not in _HIDDEN
