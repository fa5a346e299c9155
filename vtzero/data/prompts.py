"""Prompt texts: the paper's question body, its templates by name, and how they are rendered for Qwen2-VL.

Pure string functions; knows no tokenizer. The texts are the original systems' own, character by character.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
"""One image in a rendered prompt; the processor repeats `<|image_pad|>` once for each image token."""

_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt with `{question}` in it.

    kind: "base" puts the images, then the text; "chat" makes both one user turn of Qwen's ChatML.
    opening_think: the prompt ends with `<think>`, so that a completion starts inside it.
    """

    name: str
    text: str
    kind: Literal["base", "chat"]
    opening_think: bool = False

    def render(self, body: str, images: int) -> str:
        """The prompt for a question body and a number of images.

        A chat prompt equals transformers' Qwen2-VL chat template with `add_generation_prompt`, its default
        system turn included; a base prompt equals the base checkpoint's, which writes no roles.
        """
        content = IMAGE * images + self.text.replace("{question}", body)
        if self.kind == "base":
            return content
        return f"{_SYSTEM}<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"


_CONVERSATION = (
    "A conversation between User and Assistant. "
    "The user asks a question about the image, and the Assistant solves it."
)
_R1_ZERO = (
    _CONVERSATION + " The assistant first thinks about the reasoning process in the mind"
    " and then provides the user with the answer.\n"
    "User: {question} \nAssistant: Let me solve this step by step.\n<think>"
)
_TAGS = "Output the thinking process in <think> </think> and final answer"

TEMPLATES: dict[str, PromptTemplate] = {
    template.name: template
    for template in (
        PromptTemplate("r1_zero_base", _R1_ZERO, "base", opening_think=True),
        # What the original code really feeds the model: a literal <image>, and a second space after "User:".
        PromptTemplate(
            "r1_zero_base_paper",
            "<image>" + _R1_ZERO.replace("User: ", "User:  "),
            "base",
            opening_think=True,
        ),
        PromptTemplate("base_plain", _CONVERSATION + "\nUser: {question} \nAssistant: ", "base"),
        PromptTemplate(
            "instruct_reason", "{question}  " + _TAGS + " (option) in <answer> </answer> tags.", "chat"
        ),
        # The paper's evaluation words the same request in another way than its training does.
        PromptTemplate(
            "instruct_reason_eval", "{question}\n" + _TAGS + " in <answer> </answer> tags.", "chat"
        ),
        PromptTemplate("r1v", "{question}  " + _TAGS + " (number) in <answer> </answer> tags.", "chat"),
        # R1-V's evaluations, of SuperCLEVR and of GeoQA, word it in two further ways.
        PromptTemplate(
            "r1v_superclevr_eval",
            "{question} First output the thinking process in <think> </think>"
            " and final answer (number) in <answer> </answer> tags.",
            "chat",
        ),
        PromptTemplate(
            "r1v_geoqa_eval", "{question} " + _TAGS + " (number) in <answer> </answer> tags.", "chat"
        ),
        PromptTemplate("instruct_plain", "{question}", "chat"),
    )
}


def prompt_template(name: str) -> PromptTemplate:
    """The template of that name; ValueError listing all names if there is none."""
    if name not in TEMPLATES:
        raise ValueError(f"unknown prompt template {name!r}; the templates are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def question_body(question: str, options: Sequence[str] = ()) -> str:
    """The question as the paper's SAT training puts it; without options, the question as it is."""
    if not options:
        return question
    *most, last = options
    choices = f"{', '.join(most)} or {last}" if most else last
    return f"Answer in natural language. {question} Choose between the following options: {choices}"
