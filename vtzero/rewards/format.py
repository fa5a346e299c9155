"""Format rewards: the paper's, those of its siblings, and one that asks for the tags alone.

They know only text. Each is 1.0 or 0.0. A prompt that ends with `<think>` has opened that tag already: it
then counts as the completion's first word.
"""

import re
from collections.abc import Sequence
from typing import Any

_OPENING = "<think>"
_TAGS = re.compile(r"</?think>|</?answer>")
_EACH_ONCE = ["<think>", "</think>", "<answer>", "</answer>"]
_PAPER = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
_OPEN_R1 = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>")
_R1_MULTIMODAL_JOURNEY = re.compile(r"<think>.*?</think><answer>.*?</answer>$")


def format_paper(completions: Sequence[str], prompts: Sequence[str], **_: Any) -> list[float]:
    """Whether each completion thinks and then answers inside tags; see `paper_format`."""
    return [paper_format(completion, prompt) for completion, prompt in zip(completions, prompts, strict=True)]


def paper_format(completion: str, prompt: str) -> float:
    """1.0 where the whole completion is `<think>…</think> <answer>…</answer>`; a final newline makes it 0.0.

    Tags may be nested or repeated, as in the paper. Source: `format_reward` in
    turningpoint-ai/VisualThinker-R1-Zero, and in Deep-Agent/R1-V since the middle of February 2025.
    """
    return float(_PAPER.fullmatch(_whole(completion, prompt)) is not None)


def format_open_r1(completions: Sequence[str], prompts: Sequence[str], **_: Any) -> list[float]:
    """Whether each completion starts with the paper's format, each part of it on one line; text may follow.

    Thinking over several lines earns nothing, since the pattern was written without DOTALL. Source:
    `format_reward` in EvolvingLMMs-Lab/open-r1-multimodal.
    """
    return _matches(_OPEN_R1, completions, prompts)


def format_r1_multimodal_journey(completions: Sequence[str], prompts: Sequence[str], **_: Any) -> list[float]:
    """Whether each completion is `<think>…</think><answer>…</answer>` on one line; a newline may end it.

    No white space may stand between the two parts. Source: `format_reward` in FanqingM/R1-Multimodal-Journey.
    """
    return _matches(_R1_MULTIMODAL_JOURNEY, completions, prompts)


def format_tags_only(completions: Sequence[str], prompts: Sequence[str], **_: Any) -> list[float]:
    """Whether the four tags occur in each completion once and in order, whatever stands around them."""
    return [
        float(_TAGS.findall(_whole(completion, prompt)) == _EACH_ONCE)
        for completion, prompt in zip(completions, prompts, strict=True)
    ]


def _matches(pattern: re.Pattern[str], completions: Sequence[str], prompts: Sequence[str]) -> list[float]:
    return [
        float(pattern.match(_whole(completion, prompt)) is not None)
        for completion, prompt in zip(completions, prompts, strict=True)
    ]


def _whole(completion: str, prompt: str) -> str:
    return _OPENING + completion if prompt.endswith(_OPENING) else completion
