"""The paper's format reward. It knows only text."""

import re
from collections.abc import Sequence
from typing import Any

_OPENING = "<think>"
_FORMAT = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)


def format_paper(completions: Sequence[str], prompts: Sequence[str], **_: Any) -> list[float]:
    """Whether each completion thinks and then answers inside tags; see `paper_format`."""
    return [paper_format(completion, prompt) for completion, prompt in zip(completions, prompts, strict=True)]


def paper_format(completion: str, prompt: str) -> float:
    """1.0 where the whole completion is `<think>…</think> <answer>…</answer>`; a final newline makes it 0.0.

    A prompt that ends with `<think>` has opened that tag already. Tags may be nested or repeated, as in the
    paper. Source: `format_reward` in turningpoint-ai/VisualThinker-R1-Zero.
    """
    text = _OPENING + completion if prompt.endswith(_OPENING) else completion
    return float(_FORMAT.fullmatch(text) is not None)
