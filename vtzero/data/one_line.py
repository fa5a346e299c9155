"""What is told about bad data: one line that no terminal obeys, however odd they are. Knows text only."""

LONGEST = 400
"""Characters; a reason that quotes ten megabytes of an answer helps nobody."""


def one_line(text: object) -> str:
    """The text with spaces for white space, escapes for what cannot be printed, its middle left out."""
    # Cut first, so that ten megabytes are not walked through.
    whole = str(text)
    shown = whole if len(whole) <= 4 * LONGEST else f"{whole[: 2 * LONGEST]}{whole[-2 * LONGEST :]}"
    line = " ".join(shown.split())
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
    half = LONGEST // 2
    return line if len(line) <= LONGEST else f"{line[:half]} … {line[-half:]}"
