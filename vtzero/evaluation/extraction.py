"""From the text of an answer to the choice that it names.

It knows choices and text, not what is correct. The tagged answer itself is read by `vtzero.rewards.text`, so
that training and evaluation agree on it.
"""

import re
from collections.abc import Sequence

from vtzero.rewards.text import last_option, normalized, without_tags

_ORNAMENTS = " \t\n\r*`\"'“”‘’"
_BRACKETED_LETTER = re.compile(r"[(\[]([A-Za-z])[)\]][.,:;!]*")
_LETTER_AND_TEXT = re.compile(r"[(\[]?([A-Za-z])(?:[)\].,:;!]+\s*|\s+|$)(.*)", re.DOTALL)
_STATED_LETTER = re.compile(r"(?<!\w)\(([A-Za-z])\)|(?i:\b(?:answer|option|choice)(?: is)?:? +)([A-Z])(?!\w)")
_BARE_LETTER = re.compile(r"(?<![\w'])([A-Z])(?!\w)")
_CLOSING_LETTER = re.compile(_BARE_LETTER.pattern + r"(?=\s*(?:[.,;:!?]|$))")
_PUNCTUATION = re.compile(r"(?<!\d)[.,:]|[.,:](?!\d)|[;!?*`\"'“”‘’()\[\]]")  # "1.5" and "3:15" stay whole


def choice_text(text: str) -> str:
    """A choice's text for comparison: case-folded, without punctuation, white space as single spaces."""
    return " ".join(_PUNCTUATION.sub(" ", text.casefold()).split())


def resolve_choice(text: str, choices: Sequence[str]) -> int | None:
    """The index of the choice that the whole text names; `None` where it names none or contradicts itself.

    Accepted: "(C)", the text of a choice, "C" and "(C) text" or "C. text" where that text belongs to choice
    C. A text that is itself a choice goes before a bare letter: of the choices "B" and "A", "A" is the
    second.
    """
    stated = text.strip(_ORNAMENTS)
    if bracketed := _BRACKETED_LETTER.fullmatch(stated):
        return _letter_index(bracketed.group(1), choices)
    by_text = _text_index(stated, choices)
    return by_text if by_text is not None else _agreeing_letter_index(stated, choices)


def last_stated_choice(text: str, choices: Sequence[str]) -> int | None:
    """The index of the choice that a free text settles on; `None` where it names none.

    In this order: the text as a whole; the choice at the last "(C)" or "answer is C", where a choice's text
    right after the letter outweighs the letter; the choice whose text occurs last; the only choice named by
    bare capital letters, before punctuation at least once. Stated letters go before texts because prose is
    full of words such as "no" that are choices too.
    """
    bare = without_tags(text)
    whole = resolve_choice(bare, choices)
    if whole is not None:
        return whole
    by_letter = _last_stated_letter(bare, choices)
    if by_letter is not None:
        return by_letter
    option = last_option(bare, choices)
    return _sole_letter(bare, choices) if option is None else _text_index(option, choices)


def paper_answer(output: str) -> str:
    """The first one-line `<answer>…</answer>`; the whole output where there is none or it is empty.

    Source: `extract_answer` in the evaluation scripts of turningpoint-ai/VisualThinker-R1-Zero, whose pattern
    `<answer>\\s*(.*?)\\s*</answer>` takes minutes for a tag and four thousand spaces.
    """
    for opening in re.finditer("<answer>", output):
        inside, closed, _ = output[opening.end() :].partition("</answer>")
        if closed and "\n" not in inside.strip():
            return inside.strip() or output
    return output


def _letter_index(letter: str, choices: Sequence[str]) -> int | None:
    index = ord(letter.upper()) - ord("A")
    return index if index < len(choices) else None


def _text_index(text: str, choices: Sequence[str]) -> int | None:
    wanted = choice_text(text)
    texts = [choice_text(choice) for choice in choices]
    return texts.index(wanted) if wanted and wanted in texts else None


def _agreeing_letter_index(stated: str, choices: Sequence[str]) -> int | None:
    match = _LETTER_AND_TEXT.fullmatch(stated)
    index = _letter_index(match.group(1), choices) if match else None
    if match is None or index is None:
        return None
    rest = choice_text(match.group(2))
    return index if rest in ("", choice_text(choices[index])) else None


def _last_stated_letter(bare: str, choices: Sequence[str]) -> int | None:
    found = [
        (index, bare[match.end() :])
        for match in _STATED_LETTER.finditer(bare)
        if (index := _letter_index(match.group(1) or match.group(2), choices)) is not None
    ]
    if not found:
        return None
    index, rest = found[-1]
    following = _leading_choice(rest, choices)
    return index if following is None else following


def _sole_letter(bare: str, choices: Sequence[str]) -> int | None:
    named = {_letter_index(letter, choices) for letter in _BARE_LETTER.findall(bare)} - {None}
    closing = {_letter_index(letter, choices) for letter in _CLOSING_LETTER.findall(bare)} - {None}
    return closing.pop() if closing and len(named) == 1 else None


def _leading_choice(rest: str, choices: Sequence[str]) -> int | None:
    """The longest choice whose text opens `rest` as whole words."""
    opening = choice_text(rest) + " "
    leading = [
        choice for choice in choices if choice_text(choice) and opening.startswith(choice_text(choice) + " ")
    ]
    return _text_index(max(leading, key=lambda choice: len(normalized(choice))), choices) if leading else None
