"""The paper's format reward."""

import pytest

from vtzero.rewards.format import format_paper, paper_format

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
