"""From answer texts to choices."""

import random

import pytest

from vtzero.evaluation.extraction import choice_text, last_stated_choice, paper_answer, resolve_choice

CHOICES = ["left", "right", "in front of"]


BARE = [
    "B",
    "b",
    "(B)",
    "(b).",
    "[B]",
    "B.",
    "B)",
    " B \n",
    "right",
    "Right.",
    '"right"',
    "**right**",
    "(right)",
]
BOTH = ["(B) right", "(B)right", "B. right", "B: Right!", "B right", "(B) (right)", "B, right"]
UNKNOWN = ["", " ", ".", "D", "(D)", "Z", "BB", "bright", "to the right", "right left", "1", "é"]
CONTRADICTORY = ["(A) right", "B. left", "(A) (B)", "A or B", "(B) right or left"]


@pytest.mark.parametrize("text", BARE + BOTH)
def test_texts_that_name_the_second_choice(text: str) -> None:
    assert resolve_choice(text, CHOICES) == 1


@pytest.mark.parametrize("text", UNKNOWN + CONTRADICTORY)
def test_texts_that_name_none(text: str) -> None:
    assert resolve_choice(text, CHOICES) is None


def test_a_choice_that_is_a_letter_goes_before_the_bare_letter() -> None:
    assert resolve_choice("A", ["B", "A"]) == 1
    assert resolve_choice("(A)", ["B", "A"]) == 0
    assert resolve_choice("(A) B", ["B", "A"]) == 0
    assert resolve_choice("A is closer", ["A is closer", "B is closer"]) == 0
    assert resolve_choice("(A) B is closer", ["A is closer", "B is closer"]) is None


def test_numbers_keep_their_points() -> None:
    assert resolve_choice("1.5", ["15", "1.5", "1"]) == 1
    assert resolve_choice("1.", ["15", "1.5", "1"]) == 2


def test_every_rendering_of_every_choice_resolves_to_it() -> None:
    draw = random.Random(5)
    renderings = ["{letter}", "({letter})", "({letter}) {text}", "{letter}. {text}", "{text}", "{text}."]
    texts = ["left", "right", "3", "12", "chair (marked A)", "in front of", "yes", "2.5", "un café"]
    for _ in range(300):
        choices = draw.sample(texts, draw.randint(1, 6))
        index = draw.randrange(len(choices))
        rendered = draw.choice(renderings).format(letter="ABCDEF"[index], text=choices[index])
        rendered = draw.choice([str.upper, str.lower, str])(rendered)
        assert resolve_choice(rendered, choices) == index, (rendered, choices)


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("<s> B", 1),
        ("It is (A), or rather (B)", 1),
        ("The answer is B.", 1),
        ("Answer: C because it is not left", 2),
        ("(B) right\n\nThere is nothing on the left", 1),
        ("(A) right", 1),
        ("it is not left but right", 1),
        ("I choose B, as it seems", 1),
        ("between A and B, hard to say", None),
        ("A thing is here", None),
        ("object(s) everywhere", None),
        ("", None),
        ("nothing", None),
    ],
)
def test_last_stated_choice(text: str, index: int | None) -> None:
    assert last_stated_choice(text, CHOICES) == index


def test_choice_text_ignores_case_space_and_punctuation() -> None:
    assert choice_text(" The  Chair, (marked A)! ") == "the chair marked a"
    assert choice_text("?!") == ""


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("<answer> left </answer><answer>right</answer>", "left"),
        ("<answer>\nleft\n</answer>", "left"),
        ("<answer>two\nlines</answer>", "<answer>two\nlines</answer>"),
        ("<answer></answer>", "<answer></answer>"),
        ("left", "left"),
        ("", ""),
    ],
)
def test_paper_answer(output: str, answer: str) -> None:
    assert paper_answer(output) == answer
