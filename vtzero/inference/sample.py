"""`vtzero sample`: one question, or a dialogue; or the prompt alone, for which no weights are read."""

import sys
from collections.abc import Mapping
from typing import Any

from vtzero.inference.answers import Answerer, Asking
from vtzero.inference.dialogue import Dialogue
from vtzero.inference.models import ModelSettings, resolved
from vtzero.terminal import visible


def sample_model(
    settings: ModelSettings,
    asking: Mapping[str, Any],
    question: str | None = None,
    *,
    interactive: bool = False,
    prompt_only: bool = False,
) -> dict[str, Any]:
    """Print the answers to a question as they are drawn, and return them in JSON's types.

    Without a question, or with `interactive` after it, lines of standard input are asked (`Dialogue`); what
    is returned then has them as `questions`, and with a pipe counts `mistakes`. `asking` are the values of
    `Asking` but the prompt template, which stands in `settings`.

    Raises ValueError for a value out of range, or a question that cannot be asked.
    """
    chosen = resolved(settings)
    asked = Asking(prompt_template=chosen.prompt_template, **asking)
    answerer = Answerer(chosen)
    if prompt_only:
        return _show_prompt(answerer, question, asked)
    dialogue = Dialogue(answerer, asked)
    if question is not None:
        answerer.prepare(question, asked)  # a mistake is told before anything else is
    if chosen.note is not None:
        print(visible(chosen.note), flush=True)
    if question is not None:
        dialogue.ask(question)
        if not interactive:
            return dialogue.answered[0]
    return _held(dialogue)


def _held(dialogue: Dialogue) -> dict[str, Any]:
    if sys.stdin.isatty():
        dialogue.at_terminal()
        return {"questions": dialogue.answered}
    dialogue.from_pipe()
    return {"questions": dialogue.answered, "mistakes": dialogue.mistakes}


def _show_prompt(answerer: Answerer, question: str | None, asking: Asking) -> dict[str, Any]:
    if question is None:
        raise ValueError("--prompt-only needs a question")
    figures = answerer.prompt_figures(answerer.prepare(question, asking))
    print(visible(figures["prompt"]))
    images = figures["image_tokens"]
    shares = f", {sum(images)} of them of images ({' + '.join(map(str, images))})" if images else ""
    print(f"{figures['prompt_tokens']} tokens{shares}", flush=True)
    return figures
