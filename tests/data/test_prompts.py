"""Prompts against the original systems' words, as transformers' chat templates render and tokenize them."""

import pytest
from fixtures.tiny_folder import CHAT_TEMPLATE, make_tiny_folder
from transformers import AutoTokenizer

from vtzero.data.prompts import TEMPLATES, prompt_template, question_body

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
BASE = sorted(name for name, template in TEMPLATES.items() if template.kind == "base")
CHAT = sorted(name for name, template in TEMPLATES.items() if template.kind == "chat")

# The template of the base checkpoint's tokenizer_config.json: a flat list of contents, and no roles.
BASE_TEMPLATE = (
    "{% if messages is string %}{{ messages }}{% else %}{% for content in messages %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
)

CONVERSATION = (
    "A conversation between User and Assistant. The user asks a question about the image, and the Assistant "
    "solves it."
)
R1_ZERO = (
    CONVERSATION
    + " The assistant first thinks about the reasoning process in the mind and then provides the "
    "user with the answer.\nUser: Q? \nAssistant: Let me solve this step by step.\n<think>"
)
R1 = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The "
    "assistant first thinks about the reasoning process in the mind and then provides the user with the "
    "answer. The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> "
    "tags, respectively, i.e., <think> reasoning process here </think>"
)
OPEN_R1 = R1 + "<answer> answer here </answer>"
QWEN = "You are a helpful assistant."
TAGS = "the thinking process in <think> </think> and final answer"

BASE_TEXTS = {
    "r1_zero_base": R1_ZERO,
    "r1_zero_base_paper": "<image>" + R1_ZERO.replace("User: Q?", "User:  Q?"),
    "r1_zero_base_eval_paper": "<image>" + R1_ZERO,
    "base_plain": CONVERSATION + "\nUser: Q? \nAssistant: ",
    "base_plain_paper": "<image>" + CONVERSATION + "\nUser: Q? \nAssistant: ",
    "deepseek_r1_zero": R1 + " <answer> answer here </answer>. User: Q?. Assistant:",
}
# The system turn, and the user's words.
CHAT_TEXTS = {
    "instruct_reason": (QWEN, f"Q?  Output {TAGS} (option) in <answer> </answer> tags."),
    "instruct_reason_paper": (QWEN, f"<image> Q?  Output {TAGS} (option) in <answer> </answer> tags."),
    "instruct_reason_eval": (QWEN, f"Q?\nOutput {TAGS} in <answer> </answer> tags."),
    "instruct_answer_only": (QWEN, "Q?  Output the final answer (option) in <answer> </answer> tags."),
    "instruct_plain": (QWEN, "Q?"),
    "instruct_plain_paper": (QWEN, "<image> Q?"),
    "r1_v": (QWEN, f"Q?  Output {TAGS} (number) in <answer> </answer> tags."),
    "r1_v_superclevr_eval": (QWEN, f"Q? First output {TAGS} (number) in <answer> </answer> tags."),
    "r1_v_geoqa_eval": (QWEN, f"Q? Output {TAGS} (number) in <answer> </answer> tags."),
    "r1_multimodal_journey": (OPEN_R1, "Q?"),
    "open_r1": (QWEN, f"Q?  Output {TAGS} (number) in <answer> </answer> tags."),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(make_tiny_folder(tmp_path_factory.mktemp("tiny")))


def assert_same(tokenizer, text, messages, chat_template):
    """Our text and its ids against those that transformers makes of the messages."""
    options = {"chat_template": chat_template, "add_generation_prompt": True}
    assert text == tokenizer.apply_chat_template(messages, tokenize=False, **options)
    theirs = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)
    assert tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids == theirs["input_ids"]


# --- the question body ---


@pytest.mark.parametrize(
    ("options", "choices"),
    [
        (["a"], "a"),
        (["a", "b"], "a or b"),
        (["a", "b", "c"], "a, b or c"),
        (["3", "1", "2", "4"], "3, 1, 2 or 4"),
        (["left, a bit", "right"], "left, a bit or right"),
    ],
)
def test_question_body_lists_options(options, choices):
    expected = f"Answer in natural language. Where is it? Choose between the following options: {choices}"
    assert question_body("Where is it?", options) == expected


def test_question_body_without_options_is_the_question():
    assert question_body(" Where is it?") == " Where is it?"


# --- the texts, character by character, as transformers renders them ---


def test_every_template_has_its_words_written_out_here():
    assert sorted(BASE_TEXTS) == BASE
    assert sorted(CHAT_TEXTS) == CHAT


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("name", BASE)
def test_base_prompts_are_the_papers_in_the_base_checkpoints_template(name, images, tokenizer):
    flat = [{"type": "image"}] * images + [{"type": "text", "text": BASE_TEXTS[name]}]
    assert_same(tokenizer, prompt_template(name).render("Q?", images), flat, BASE_TEMPLATE)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("name", CHAT)
def test_chat_prompts_are_the_originals_in_the_instruct_checkpoints_template(name, images, tokenizer):
    system, words = CHAT_TEXTS[name]
    content = [{"type": "image"}] * images + [{"type": "text", "text": words}]
    # Qwen's own system turn is the one that the template writes where a conversation has none.
    messages = [{"role": "user", "content": content}]
    if system != QWEN:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    assert_same(tokenizer, prompt_template(name).render("Q?", images), messages, CHAT_TEMPLATE)


@pytest.mark.parametrize("name", BASE)
def test_base_prompts_without_images(name, tokenizer):
    """No image tokens, and no literal <image> either."""
    words = BASE_TEXTS[name].removeprefix("<image>")
    text = prompt_template(name).render("Q?", 0)
    assert_same(tokenizer, text, [{"type": "text", "text": words}], BASE_TEMPLATE)


# open-r1-multimodal and R1-V ask a question without an image under DeepSeek-R1's system turn.
TEXT_ONLY = CHAT_TEXTS | {"r1_v": (OPEN_R1, "Q?"), "open_r1": (OPEN_R1, "Q?")}


@pytest.mark.parametrize("name", CHAT)
def test_chat_prompts_without_images(name, tokenizer):
    system, words = TEXT_ONLY[name]
    messages = [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": words.removeprefix("<image>")})
    assert_same(tokenizer, prompt_template(name).render("Q?", 0), messages, CHAT_TEMPLATE)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("images", [0, 1])
def test_the_body_is_not_read_as_a_template(name, images):
    body = 'Where {is} "it"? {question} <think>'
    rendered = prompt_template(name).render(body, images)
    assert rendered == prompt_template(name).render("BODY", images).replace("BODY", body)


def test_the_whole_paper_prompt_of_a_sat_question():
    body = question_body("Where is it?", ["left", "right"])
    assert prompt_template("r1_zero_base_paper").render(body, 1) == (
        f"{IMAGE}<image>{CONVERSATION} The assistant first thinks about the reasoning process in the mind "
        "and then provides the user with the answer.\nUser:  Answer in natural language. Where is it? Choose "
        "between the following options: left or right \nAssistant: Let me solve this step by step.\n<think>"
    )
    assert (
        f"user\n{IMAGE}<image> Answer in natural language. Where is it? Choose between the following "
        "options: left or right<|im_end|>"
    ) in prompt_template("instruct_plain_paper").render(body, 1)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("images", [0, 1])
def test_opening_think_says_how_the_prompt_ends(name, images):
    template = prompt_template(name)
    assert template.name == name
    assert template.opening_think == template.render("Q?", images).endswith("<think>")


def test_unknown_template_lists_the_names():
    with pytest.raises(ValueError, match=r"unknown prompt template 'r1'.*r1_zero_base.*instruct_plain"):
        prompt_template("r1")
