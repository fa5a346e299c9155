"""From free prose to the choice that it states in so many words.

Every mention of a choice is first replaced by a mark: `<L1>` for a letter in brackets, `<N1>` for a bare
letter, `<T1>` for the choice's text, `<L?>` for two choices in one ("A or B"). The readings then look at the
marks and at a few English words around them. The text's own angle brackets are taken out before. The module
knows choices and English, not what is correct.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence

from vtzero.evaluation.extraction import choice_text, resolve_choice
from vtzero.rewards.text import conclusion, without_tags

_MARK = r"<[LTN](\d+|\?)>"
_NOUN = r"(?:points?|box(?:es)?|images?|objects?|options?|choices?|letters?|labels?|labell?ed|marked)"
_VERB = r"(?:is|are|was|has|does|will|would|can|could|may|might|must|should|appears?|seems?|looks?)"
_POLAR = frozenset({"yes", "no", "true", "false"})

# Mentions
_BRACKETED_LETTER = re.compile(r"(?<![\w)])[(\[]([A-Za-z])[)\]]")
_OPENING_LETTER = re.compile(r"(?m)^[^\w\n]*([A-Z])[.):](?=\s)")
_NOUN_LETTER = re.compile(rf"(?i:\b{_NOUN})\s+[\"'“‘]?(?:([A-Z])|([b-hj-z]))\b[\"'”’]?(?!['’]\w)")
_BARE_LETTER = re.compile(
    r"(?<![\w'’<])[\"'“‘]?(?:([B-HJ-Z])\b(?!['’]\w)"
    # The article "A" is followed by the name of a thing; the letter is not.
    rf"|([AI])\b(?=[\"'”’*]*\s*(?:[.,;:!?)/]|$)|\s+(?:{_VERB}|because|as|since|or|and|nor)\b))[\"'”’]?"
)
_LETTER_AND_TEXT = re.compile(r"<L(\d+)>[\s:,.*\"']*<T(\d+)>")
_ALTERNATIVES = re.compile(
    r"<([LTN])(\d+|\?)>(?:\s*(?:,|/|&|\band\b))*\s*"
    rf"(?:(?:,\s*)?\b(?:or|nor|versus)\s+(?:(?:the|{_NOUN})\s+)*<[LTN]|(?:(?:the|{_NOUN})\s+)*<\1)(\d+|\?)>",
    re.IGNORECASE,
)
_NEGATION = r"(?:\w*n['’]t|not|cannot|never|neither)"
_NEGATED = re.compile(
    rf"\b(?:{_NEGATION}|rather than|instead of)\s+(?:\w+\s+){{0,3}}{_MARK}"
    rf"|{_MARK}\s+(?:\w+\s+)?(?:{_NEGATION}|incorrect|wrong)\b",
    re.IGNORECASE,
)

# What makes a mention a statement
_FILLER = rf"(?:[^\w<.?!]|\b(?:the|that|most likely|likely|clearly|correct|{_NOUN})\b)*"
_DECLARATIONS = re.compile(
    r"(?:\b(?:answer|choice|option|conclusion)\b[^.!?\n<]{0,80}?(?:\b(?:is|be|was)\b|:)"
    rf"|\b(?:choose|select|pick|go with)\b){_FILLER}<[LTN](\d+|\?)>"
    rf"|(?:^|(?<=[.!?\n]))\s*(?:so|therefore|thus|hence|in conclusion)\b{_FILLER}<[LT](\d+|\?)>"
    rf"|{_MARK}[^\w<.]*(?:is|would be|seems to be|appears to be) (?:the )?(?:most )?"
    r"(?:correct|right|best|likely|appropriate)\b",
    re.IGNORECASE,
)
_LISTED = re.compile(r"(?m)^[^\w\n<]*<L(\d+)>")
_UNDECIDED = re.compile(
    r"\b(?:neither|none of|not (?:sure|clear|possible)|unsure|unclear|unable|impossible|cannot|can['’]t)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n|; |,? (?=(?:because|while|whereas|since|but)\b)")
_SUBJECT_IS_PREDICATE = re.compile(r"(.+?) (?:is|are) (.+)")

_Statements = list[int | None]


def stated_choice(text: str, choices: Sequence[str]) -> int | None:
    """The index of the choice that a free text states first; `None` where it states none, or two in one.

    What follows `</think>` is read, in this order: the whole text as a choice; a declaration ("the answer is
    …", "therefore …"); a letter in brackets or at the start of a line; a sentence that holds the text of one
    choice; a bare capital letter. Articles ("a chair"), the "no" of "no chair", negated choices ("not (A)")
    and lists of all choices state nothing. A choice such as "A is closer" is stated by "point A, which …,
    appears to be closer" too.
    """
    bare = _plain(without_tags(conclusion(text)))
    offered = [_plain(choice) for choice in choices]
    whole = resolve_choice(bare, offered)
    if whole is not None:
        return whole
    marked = _marked(bare, offered)
    predicates = {found.group(2) for choice in offered if (found := _SUBJECT_IS_PREDICATE.fullmatch(choice))}
    for statements in (_declared(marked), _lettered(marked), _claimed(marked, predicates), _named(marked)):
        if statements:
            return statements[0]
    return None


def _plain(text: str) -> str:
    """Full-width characters as plain ones, single spaces and line breaks, no angle brackets."""
    text = unicodedata.normalize("NFKC", text).translate({ord("<"): " ", ord(">"): " "})
    return "\n".join(" ".join(line.split()) for line in text.splitlines() if line.strip())


def _marked(text: str, choices: Sequence[str]) -> str:
    """The text with each mention of a choice as a mark, and alternatives as one mark of no choice."""
    letters = {chr(ord("A") + index): index for index in range(len(choices))}
    names = letters | _names(choices)
    text = _BRACKETED_LETTER.sub(_mark("L", letters), text)
    for index in sorted(range(len(choices)), key=lambda index: -len(choices[index])):
        text = _text_pattern(choices[index]).sub(f"<T{index}>", text)
    text = _OPENING_LETTER.sub(_mark("L", letters), text)
    text = _NOUN_LETTER.sub(_mark("N", names), text)
    text = _BARE_LETTER.sub(_mark("N", names), text)
    text = _LETTER_AND_TEXT.sub(lambda found: f"<L{_only(found[1], found[2])}>", text)
    return _without_negated(_joined(text))


def _names(choices: Sequence[str]) -> dict[str, int]:
    """The choices that a bare letter means because their text holds it, as "point B" and "B is closer" do."""
    found = [
        (letter, index)
        for index, choice in enumerate(choices)
        for pattern in (_NOUN_LETTER, _BARE_LETTER)
        for match in pattern.finditer(choice)
        for letter in (match.group(1) or match.group(2)).upper()
    ]
    return {letter: index for letter, index in found if {i for held, i in found if held == letter} == {index}}


def _mark(kind: str, letters: dict[str, int]) -> Callable[[re.Match[str]], str]:
    def replace(found: re.Match[str]) -> str:
        index = letters.get(next(letter for letter in found.groups() if letter).upper())
        return found.group() if index is None else f"<{kind}{index}>"

    return replace


def _text_pattern(choice: str) -> re.Pattern[str]:
    words = r"\s+".join(re.escape(word) for word in choice.strip(" .").split())
    if not words or (len(choice) == 1 and choice.isalpha()):
        return re.compile(r"(?!)")  # a single letter is left to the letters
    if choice_text(choice) in _POLAR:
        return _polar_pattern(words)
    return re.compile(rf"(?<![\w<])(?<!\d\.){words}(?!\w)(?!\.\d)(?!['’]\w)", re.IGNORECASE)


def _polar_pattern(word: str) -> re.Pattern[str]:
    # "no" answers where it follows a letter or opens a sentence; in "there is no chair" it is a determiner.
    opening = r"^|(?<=[.!?:\n])|(?<=\bis)|(?<=[\"'“‘*])"
    closing = (
        r"[\"'”’*]*\s*(?:[.,;:!?\n(-]|$)|\s+(?:it|the|there|this|that|these|they|he|she|we|because|as)\b"
    )
    return re.compile(rf"(?<=\d>)\s+{word}\b|(?:{opening})\s*{word}(?={closing})", re.IGNORECASE)


def _only(one: str, other: str) -> str:
    return one if one == other else "?"


def _joined(text: str) -> str:
    while True:
        joined = _ALTERNATIVES.sub(lambda found: f"<{found[1]}{_only(found[2], found[3])}>", text)
        if joined == text:
            return text
        text = joined


def _without_negated(text: str) -> str:
    return _NEGATED.sub(lambda found: re.sub(_MARK, " ", found.group()), text)


def _index(found: str) -> int | None:
    return None if found == "?" else int(found)


def _declared(marked: str) -> _Statements:
    return [_index(next(filter(None, found))) for found in _DECLARATIONS.findall(marked)]


def _lettered(marked: str) -> _Statements:
    lines = list(_LISTED.finditer(marked))
    listed = 0
    while listed < len(lines) and lines[listed].group(1) == str(listed):
        listed += 1
    start = lines[listed - 1].end() if listed > 1 else 0
    return [_index(index) for index in re.findall(r"<L(\d+|\?)>", marked[start:])]


def _claimed(marked: str, predicates: set[str]) -> _Statements:
    if not predicates and _UNDECIDED.search(marked):
        return []  # what is weighed up is not chosen
    claims = (_claim(sentence, predicates) for sentence in _SENTENCE.split(marked))
    return [claim for claim in claims if claim is not None]


def _claim(sentence: str, predicates: set[str]) -> int | None:
    texts = set(re.findall(r"<T(\d+|\?)>", sentence))
    if len(texts) == 1:
        return _index(texts.pop())
    for predicate in predicates:
        before, found, after = sentence.partition(f" {predicate}")
        subject = re.findall(_MARK, before)[-1:] or re.findall(rf"\bis\W+(?:the\W+)?{_MARK}", after)[:1]
        if found and subject:
            return _index(subject[0])
    return None


def _named(marked: str) -> _Statements:
    if _UNDECIDED.search(marked):
        return []
    named = set(re.findall(r"<N(\d+|\?)>", marked))
    return [_index(named.pop())] if len(named) == 1 else []
