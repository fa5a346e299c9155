"""Reading a completion: its tags, its words and the options that it states.

Shared by the accuracy rewards and by the benchmark scorers. It knows neither rewards nor benchmarks.
"""

import re
from collections.abc import Sequence

# No answer tag inside the pair, so that nested or repeated opening tags cannot swallow text.
_ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_TAG = re.compile(r"</?\|?\w+\|?>")
_AHA = re.compile(r"\b(?:aha|check|possibl\w*|verify|wait|yet)\b", re.IGNORECASE)
_WORD = re.compile(r"(?:(?<!\w)-(?=\d))?\w+(?:[.'’-]\w+)*")

AHA_WORDS = ("aha", "check", "possibl", "verify", "wait", "yet")
"""The words by which the paper's author counts "aha moments"; "possibl" is any word that so begins."""


def aha_words(text: str) -> list[str]:
    """Each occurrence of one of `AHA_WORDS` in a text, in order.

    Whole words in any case: "Wait, double-check" has two, "waiting" and "checked" none; "possible"
    and "possibly" are "possibl". Source: issue 12 of turningpoint-ai/VisualThinker-R1-Zero.
    """
    found = (word.casefold() for word in _AHA.findall(text))
    return ["possibl" if word.startswith("possibl") else word for word in found]


def tagged_answer(text: str) -> str | None:
    """The text inside the last closed `<answer>…</answer>`, as it stands; `None` where there is none."""
    answers = _ANSWER.findall(text)
    return answers[-1] if answers else None


def normalized(text: str) -> str:
    """Case-folded, runs of white space as one space, the final full stop dropped."""
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()


def without_tags(text: str) -> str:
    """The text with each tag, such as `</think>`, `<s>` or `<|im_end|>`, replaced by a space."""
    return _TAG.sub(" ", text)


def conclusion(text: str) -> str:
    """What follows the last `</think>`; the whole text where there is no such tag or no text after it."""
    after = text.rpartition("</think>")[2]
    return after if without_tags(after).strip() else text


def words(text: str) -> list[str]:
    """The case-folded words of a text, without tags and punctuation; numbers keep sign and fraction."""
    return _WORD.findall(without_tags(text).casefold())


def last_option(text: str, options: Sequence[str]) -> str | None:
    """The option that occurs last in a text as whole words, normalized; `None` where none occurs.

    Case is ignored, and white space may differ. Where several options match at one place the longest wins, so
    that "left of" is not read as "left". A lone "a" or "i" is read as a word, not as option A or I.
    """
    named = sorted({normalized(option) for option in options} - {""}, key=len, reverse=True)
    if not named:
        return None
    either = "|".join(_option_pattern(option) for option in named)
    whole = rf"(?<!\w)(?<!\d\.)(?:{either})(?!\w)(?!\.\d)"
    matches = list(re.finditer(whole, text, re.IGNORECASE))
    if not matches:
        return None
    # Not `normalized`, which would drop a full stop that the option kept of its two.
    said = " ".join(matches[-1].group().casefold().split())
    return said if said in named else normalized(said)


def _option_pattern(option: str) -> str:
    if option in {"a", "i"}:
        return rf"(?-i:{option.upper()})|(?<=\(){option}(?=\))"
    return r"\s+".join(re.escape(word) for word in option.split())
