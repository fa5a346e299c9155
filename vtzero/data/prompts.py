"""Prompt texts: the paper's question body, its templates by name, and how they are rendered for Qwen2-VL.

Pure string functions; knows no tokenizer. The texts are the original systems' own, character by character.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
"""One image in a rendered prompt; the processor repeats `<|image_pad|>` once for each image token."""

DEFAULT_SYSTEM = "You are a helpful assistant."
"""What Qwen2-VL's chat template says where a conversation has no system turn of its own."""


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt with `{question}` in it.

    kind: "base" puts the images, then the text; "chat" makes both one user turn of Qwen's ChatML.
    opening_think: the prompt ends with `<think>`, so that a completion starts inside it.
    system: the system turn of a chat prompt.
    before: written before the text where there are images.
    text_only: the template for questions without images, where that is another one.
    """

    name: str
    text: str
    kind: Literal["base", "chat"]
    opening_think: bool = False
    system: str = DEFAULT_SYSTEM
    before: str = ""
    text_only: "PromptTemplate | None" = None

    def render(self, body: str, images: int) -> str:
        """The prompt for a question body and a number of images.

        A chat prompt equals transformers' Qwen2-VL chat template with `add_generation_prompt`, its default
        system turn included; a base prompt equals the base checkpoint's, which writes no roles.
        """
        if self.text_only and not images:
            return self.text_only.render(body, 0)
        content = self.text.replace("{question}", body)
        if images:
            content = IMAGE * images + self.before + content
        if self.kind == "base":
            return content
        system = f"<|im_start|>system\n{self.system}<|im_end|>\n"
        return f"{system}<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"


_CONVERSATION = (
    "A conversation between User and Assistant. "
    "The user asks a question about the image, and the Assistant solves it."
)
_BASE_PLAIN = _CONVERSATION + "\nUser: {question} \nAssistant: "
_R1_ZERO = (
    _CONVERSATION + " The assistant first thinks about the reasoning process in the mind"
    " and then provides the user with the answer.\n"
    "User: {question} \nAssistant: Let me solve this step by step.\n<think>"
)
_TAGS = "the thinking process in <think> </think> and final answer"
_REASON = "{question}  Output " + _TAGS + " (option) in <answer> </answer> tags."
_R1_V = "{question}  Output " + _TAGS + " (number) in <answer> </answer> tags."

# DeepSeek-R1's words (arXiv 2501.12948v1, Table 1), which open-r1 made a system turn with other spaces.
_R1 = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the "
    "answer. The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> "
    "tags, respectively, i.e., <think> reasoning process here </think>"
)
_OPEN_R1_SYSTEM = _R1 + "<answer> answer here </answer>"
_OPEN_R1_TEXT = PromptTemplate("open_r1_text", "{question}", "chat", system=_OPEN_R1_SYSTEM)

# The names of a row's training prompt; `_eval` where that system's evaluation words it in another way, and
# `_paper` where VisualThinker's code also feeds a literal <image> (an empty one where a row has no image).
TEMPLATES: dict[str, PromptTemplate] = {
    template.name: template
    for template in (
        PromptTemplate("r1_zero_base", _R1_ZERO, "base", opening_think=True),
        # In training the question itself begins with <image> and a space, and only the former is taken out.
        PromptTemplate(
            "r1_zero_base_paper",
            _R1_ZERO.replace("User: ", "User:  "),
            "base",
            opening_think=True,
            before="<image>",
        ),
        PromptTemplate("r1_zero_base_eval_paper", _R1_ZERO, "base", opening_think=True, before="<image>"),
        PromptTemplate("base_plain", _BASE_PLAIN, "base"),
        PromptTemplate("base_plain_paper", _BASE_PLAIN, "base", before="<image>"),
        PromptTemplate("instruct_reason", _REASON, "chat"),
        PromptTemplate("instruct_reason_paper", " " + _REASON, "chat", before="<image>"),
        PromptTemplate(
            "instruct_reason_eval", "{question}\nOutput " + _TAGS + " in <answer> </answer> tags.", "chat"
        ),
        # Ours: the paper's Table 4 names such a prompt, but neither it nor its code prints the words.
        PromptTemplate(
            "instruct_answer_only",
            "{question}  Output the final answer (option) in <answer> </answer> tags.",
            "chat",
        ),
        PromptTemplate("instruct_plain", "{question}", "chat"),
        PromptTemplate("instruct_plain_paper", " {question}", "chat", before="<image>"),
        PromptTemplate("r1_v", _R1_V, "chat", text_only=_OPEN_R1_TEXT),
        PromptTemplate(
            "r1_v_superclevr_eval",
            "{question} First output " + _TAGS + " (number) in <answer> </answer> tags.",
            "chat",
        ),
        PromptTemplate(
            "r1_v_geoqa_eval", "{question} Output " + _TAGS + " (number) in <answer> </answer> tags.", "chat"
        ),
        PromptTemplate("r1_multimodal_journey", "{question}", "chat", system=_OPEN_R1_SYSTEM),
        # R1-V's code is open-r1-multimodal's: both ask about images in the same words.
        PromptTemplate("open_r1", _R1_V, "chat", text_only=_OPEN_R1_TEXT),
        # The full stop after the question is Table 1's, in which the word "prompt" stands for the question.
        PromptTemplate(
            "deepseek_r1_zero",
            _R1 + " <answer> answer here </answer>. User: {question}. Assistant:",
            "base",
        ),
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
