"""The format rewards: the paper's, its siblings' that read one line, and the tags alone."""

import pytest

from vtzero.rewards.format import (
    format_open_r1,
    format_paper,
    format_r1_multimodal_journey,
    format_tags_only,
    paper_format,
)
from vtzero.rewards.registry import REWARDS

OPENED = "Assistant: Let me solve this step by step.\n<think>"
PLAIN = "user\nWhere is it?"


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("left of it</think><answer>left</answer>", 1.0),
        ("one\ntwo</think>\n\n <answer>\nleft\n</answer>", 1.0),
        ("</think><answer></answer>", 1.0),
        ("aha <think> again</think><answer>left</answer>", 1.0),
        ("a</think><answer>left</answer> or <answer>right</answer>", 1.0),
        ("a</think><answer>left</answer>\n", 0.0),
        ("a</think><answer>left</answer>.", 0.0),
        ("a</think> so <answer>left</answer>", 0.0),
        ("a</think><answer>left", 0.0),
        ("<answer>left</answer>", 0.0),
        ("left", 0.0),
        ("", 0.0),
        ("</think><answer>" + "x" * 10_000 + "</answer>", 1.0),
        ("</think>" * 1_000, 0.0),
    ],
)
def test_completions_of_a_prompt_that_opened_the_thought(completion: str, reward: float) -> None:
    assert paper_format(completion, OPENED) == reward


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("<think>a</think><answer>left</answer>", 1.0),
        ("a</think><answer>left</answer>", 0.0),
        (" <think>a</think><answer>left</answer>", 0.0),
        ("<Think>a</Think><Answer>left</Answer>", 0.0),
    ],
)
def test_completions_of_a_prompt_that_did_not(completion: str, reward: float) -> None:
    assert paper_format(completion, PLAIN) == reward


def test_each_completion_is_read_with_its_own_prompt() -> None:
    completion = "a</think><answer>left</answer>"
    columns = {"answer": ["left"] * 3, "completion_lengths": [5] * 3}
    assert format_paper([completion] * 3, [OPENED, PLAIN, OPENED + "\n"], **columns) == [1.0, 0.0, 0.0]


# (completion, paper, open-r1-multimodal, R1-Multimodal-Journey, tags only)
VARIANTS = [
    ("<think>a</think><answer>b</answer>", 1, 1, 1, 1),
    ("<think>a</think> <answer>b</answer>", 1, 1, 0, 1),
    ("<think>a</think>\n\n<answer>b</answer>", 1, 1, 0, 1),
    ("<think>one\ntwo</think><answer>b</answer>", 1, 0, 0, 1),
    ("<think>a</think><answer>b\nc</answer>", 1, 0, 0, 1),
    ("<think>a</think><answer>b</answer>\n", 0, 1, 1, 1),
    ("<think>a</think><answer>b</answer>\n\n", 0, 1, 0, 1),
    ("<think>a</think><answer>b</answer> is it", 0, 1, 0, 1),
    ("<think>a</think><answer>b</answer><answer>c</answer>", 1, 1, 1, 0),
    ("so <think>a</think><answer>b</answer>", 0, 0, 0, 1),
    ("<think>a</think> so <answer>b</answer>", 0, 0, 0, 1),
    ("<think>a<think>b</think><answer>c</answer>", 1, 1, 1, 0),
    ("<answer>b</answer><think>a</think>", 0, 0, 0, 0),
    ("<think>a</think><answer>b", 0, 0, 0, 0),
    ("<think><answer></think></answer>", 0, 0, 0, 0),
    ("", 0, 0, 0, 0),
]


@pytest.mark.parametrize(("completion", "paper", "open_r1", "journey", "tags"), VARIANTS)
def test_variants(completion: str, paper: int, open_r1: int, journey: int, tags: int) -> None:
    functions = (format_paper, format_open_r1, format_r1_multimodal_journey, format_tags_only)
    for function, expected in zip(functions, (paper, open_r1, journey, tags), strict=True):
        assert function([completion], [PLAIN], answer=["b"]) == [expected], function.__name__
        if completion.startswith("<think>"):
            rest = completion.removeprefix("<think>")
            assert function([rest], [OPENED], answer=["b"]) == [expected], function.__name__


def test_no_dotall_names_the_form_of_open_r1() -> None:
    assert REWARDS["format_no_dotall"] is format_open_r1
