"""Format rewards: the paper's, those of its siblings, and one that asks for the tags alone.

They know only text. Each is 1.0 or 0.0. A prompt that ends with `<think>` has opened that tag already: it
then counts as the completion's first word.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

_OPENING = "<think>"
_TAGS = re.compile(r"</?think>|</?answer>")
_EACH_ONCE = ["<think>", "</think>", "<answer>", "</answer>"]
# The originals match `<think>.*?</think>\s*<answer>.*?</answer>`, in a time that grows with the square of a
# completion that repeats tags. What stands in the middle decides, and is searched for in one pass.
_MIDDLE = re.compile(r"</think>\s*<answer>")
_CLOSING = "</answer>"


def format_paper(completions: Sequence[str], prompts: Sequence[str], **_: Any) -> list[float]:
    """Whether each completion thinks and then answers inside tags; see `paper_format`."""
    return [paper_format(completion, prompt) for completion, prompt in zip(completions, prompts, strict=True)]


def paper_format(completion: str, prompt: str) -> float:
    """1.0 where the whole completion is `<think>…</think> <answer>…</answer>`; a final newline makes it 0.0.

    Tags may be nested or repeated, as in the paper. Source: `format_reward` in
    turningpoint-ai/VisualThinker-R1-Zero, and in Deep-Agent/R1-V since the middle of February 2025.
    """
    return float(_is_paper(_whole(completion, prompt)))


def format_open_r1(completions: Sequence[str], prompts: Sequence[str], **_: Any) -> list[float]:
    """Whether each completion starts with the paper's format, each part of it on one line; text may follow.

    Thinking over several lines earns nothing, since the pattern was written without DOTALL. Source:
    `format_reward` in EvolvingLMMs-Lab/open-r1-multimodal.
    """
    return _are(_starts_open_r1, completions, prompts)


def format_r1_multimodal_journey(completions: Sequence[str], prompts: Sequence[str], **_: Any) -> list[float]:
    """Whether each completion is `<think>…</think><answer>…</answer>` on one line; a newline may end it.

    No white space may stand between the two parts. Source: `format_reward` in FanqingM/R1-Multimodal-Journey.
    """
    return _are(_is_journey, completions, prompts)


def format_tags_only(completions: Sequence[str], prompts: Sequence[str], **_: Any) -> list[float]:
    """Whether the four tags occur in each completion once and in order, whatever stands around them."""
    return [
        float(_TAGS.findall(_whole(completion, prompt)) == _EACH_ONCE)
        for completion, prompt in zip(completions, prompts, strict=True)
    ]


def _are(fits: Callable[[str], bool], completions: Sequence[str], prompts: Sequence[str]) -> list[float]:
    return [
        float(fits(_whole(completion, prompt)))
        for completion, prompt in zip(completions, prompts, strict=True)
    ]


def _is_paper(text: str) -> bool:
    """The pattern, with DOTALL, on the whole text."""
    ends = text.startswith(_OPENING) and text.endswith(_CLOSING)
    return ends and _MIDDLE.search(text, len(_OPENING), len(text) - len(_CLOSING)) is not None


def _starts_open_r1(text: str) -> bool:
    """The pattern, without DOTALL, on the start of the text."""
    if not text.startswith(_OPENING):
        return False
    first_line = len(text.partition("\n")[0])
    for middle in _MIDDLE.finditer(text, len(_OPENING)):
        if middle.start() >= first_line:
            return False
        if _CLOSING in text[middle.end() :].partition("\n")[0]:
            return True
    return False


def _is_journey(text: str) -> bool:
    """The pattern without white space in its middle and without DOTALL, up to a final line break."""
    line = text.removesuffix("\n")
    ends = line.startswith(_OPENING) and line.endswith(_CLOSING) and "\n" not in line
    return ends and "</think><answer>" in line[len(_OPENING) : -len(_CLOSING)]


def _whole(completion: str, prompt: str) -> str:
    return _OPENING + completion if prompt.endswith(_OPENING) else completion
