"""Prompt texts against the original systems' strings, and rendering against transformers' chat template."""

import pytest
from fixtures.tiny_folder import CHAT_TEMPLATE
from jinja2 import Environment

from vtzero.data.prompts import TEMPLATES, prompt_template, question_body

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


@pytest.mark.parametrize(
    ("options", "choices"),
    [
        (["a"], "a"),
        (["a", "b"], "a or b"),
        (["a", "b", "c"], "a, b or c"),
        (["3", "1", "2", "4"], "3, 1, 2 or 4"),
    ],
)
def test_question_body_lists_options(options, choices):
    expected = f"Answer in natural language. Where is it? Choose between the following options: {choices}"
    assert question_body("Where is it?", options) == expected


def test_question_body_without_options_is_the_question():
    assert question_body(" Where is it?") == " Where is it?"


def test_r1_zero_base_is_the_papers():
    assert prompt_template("r1_zero_base").render("Q?", 1) == (
        "<|vision_start|><|image_pad|><|vision_end|>A conversation between User and Assistant. "
        "The user asks a question about the image, and the Assistant solves it. "
        "The assistant first thinks about the reasoning process in the mind "
        "and then provides the user with the answer.\n"
        "User: Q? \nAssistant: Let me solve this step by step.\n<think>"
    )


def test_the_faithful_base_prompt_differs_by_the_quirks_alone():
    clean = prompt_template("r1_zero_base").render("Q?", 1)
    quirks = clean.replace(IMAGE, IMAGE + "<image>").replace("User: Q", "User:  Q")
    assert prompt_template("r1_zero_base_paper").render("Q?", 1) == quirks


def test_base_plain_is_the_papers():
    assert prompt_template("base_plain").render("Q?", 0) == (
        "A conversation between User and Assistant. "
        "The user asks a question about the image, and the Assistant solves it.\nUser: Q? \nAssistant: "
    )


def test_instruct_texts_are_the_papers():
    tags = "Output the thinking process in <think> </think> and final answer"
    texts = {name: template.text for name, template in TEMPLATES.items() if template.kind == "chat"}
    assert texts["instruct_reason"] == f"{{question}}  {tags} (option) in <answer> </answer> tags."
    assert texts["instruct_reason_eval"] == f"{{question}}\n{tags} in <answer> </answer> tags."
    assert texts["r1v"] == f"{{question}}  {tags} (number) in <answer> </answer> tags."
    assert texts["instruct_plain"] == "{question}"


@pytest.mark.parametrize("images", [0, 1, 3])
@pytest.mark.parametrize("name", [name for name, template in TEMPLATES.items() if template.kind == "chat"])
def test_chat_prompts_equal_the_chat_template(name, images):
    template = prompt_template(name)
    body = 'Where {is} "it"?\n<think>'
    content = [{"type": "image"}] * images + [
        {"type": "text", "text": template.text.replace("{question}", body)}
    ]
    rendered = (
        Environment()
        .from_string(CHAT_TEMPLATE)
        .render(messages=[{"role": "user", "content": content}], add_generation_prompt=True)
    )
    assert template.render(body, images) == rendered


@pytest.mark.parametrize("name", TEMPLATES)
def test_opening_think_says_how_the_prompt_ends(name):
    template = prompt_template(name)
    assert template.name == name
    assert template.opening_think == template.render("Q?", 1).endswith("<think>")


def test_unknown_template_lists_the_names():
    with pytest.raises(ValueError, match=r"unknown prompt template 'r1'.*r1_zero_base.*instruct_plain"):
        prompt_template("r1")
