"""From tokens to what a person reads: text that only grows, tokens one a line, what several answers agree on.

Knows text, ids and options: no model, no rewards and no terminal.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from vtzero.data.processor import Processor
from vtzero.evaluation.extraction import last_stated_choice
from vtzero.rewards.text import conclusion, normalized, tagged_answer, without_tags

_INCOMPLETE = "\ufffd"
"""What a decoder writes for bytes that are no character, or not yet: a token may end within one."""


class GrowingText:
    """The text of an answer whose tokens come a few at a time."""

    def __init__(self, processor: Processor):
        self._processor, self._shown = processor, ""

    def more(self, ids: Sequence[int], *, whole: bool = False) -> str:
        """What these ids, all from the answer's start, add to the text returned so far.

        An incomplete character at the end is held back until it is complete, or the answer is `whole`.
        """
        text = self._processor.decode(ids)
        if not whole:
            text = text.rstrip(_INCOMPLETE)
        added = text[len(self._shown) :]
        self._shown += added
        return added


def token_line(processor: Processor, place: int, token: int, logp: float) -> str:
    """One token in columns: its place, its id, its log-probability, and itself as a Python string.

    A token that is a part of a character stands there as the vocabulary has it.
    """
    piece = processor.decode([token], special=True)
    if _INCOMPLETE in piece:
        piece = str(processor.tokenizer.convert_ids_to_tokens(token))
    return f"{place:>5} {token:>7} {logp:>9.3g}  {piece!r}"


def final_answer(text: str, options: Sequence[str] = ()) -> str | None:
    """What an answer settles on, to be compared with others: an option, or else the text in its tags.

    Without tags and options it is all that follows the thinking. None where there is nothing.
    """
    tagged = tagged_answer(text)
    if options:
        choice = last_stated_choice(text if tagged is None else tagged, options)
        if choice is not None:
            return normalized(options[choice])
    said = tagged if tagged is not None or options else conclusion(text)
    return normalized(without_tags(said or "")) or None


@dataclass(frozen=True)
class Majority:
    """The answer that most settle on, the first of those that tie, and how many do; None where none does."""

    answer: str | None
    votes: int


def majority(texts: Sequence[str], options: Sequence[str] = ()) -> Majority:
    """Of several answers to one question."""
    found = [said for text in texts if (said := final_answer(text, options)) is not None]
    return Majority(*Counter(found).most_common(1)[0]) if found else Majority(None, 0)
