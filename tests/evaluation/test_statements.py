"""Which choice a free text states: made-up texts, each with the choice that a reader would name."""

import time

import pytest

from vtzero.evaluation.statements import stated_choice

THINGS = ("chair", "table")
SIDES = ("left", "right")
COUNTS = ("2", "3", "0", "10")
POLAR = ("yes", "no")
CLOSER = ("A is closer", "B is closer")
IMAGES = ("the second image", "the third image")
WITH_COMMAS = ("red, round", "red", "blue")

LETTERS = [
    (SIDES, "B", 1),
    (SIDES, "(B)", 1),
    (SIDES, "（B）", 1),
    (SIDES, "B. It is behind the sofa", 1),
    (SIDES, "The answer is (B).", 1),
    (SIDES, "Answer: A", 0),
    (SIDES, "The correct option is **B**.", 1),
    (SIDES, "I would pick B because of the shadow.", 1),
    (SIDES, "So the answer would be:\n\n(A) left", 0),
    (SIDES, "option b", 1),
    (SIDES, "(B) is correct and (A) is not.", 1),
    (SIDES, "(A) is wrong, (B) is correct", 1),
    (SIDES, "<think>(A)</think> (B)", 1),
    (SIDES, "The answer is (B).\n\n(A) would need a mirror.", 1),
    (SIDES, "(A) The lamp stands there.\n(B) The sofa does.\n\nTherefore, the side is:\n(B)", 1),
]
TEXTS = [
    (THINGS, "I think it is a chair.", 0),
    (THINGS, "Answer: A table", 1),
    (THINGS, "It is not the chair but the table.", 1),
    (SIDES, "It is to the right of the sofa.", 1),
    (COUNTS, "I count 3 cars.", 1),
    (COUNTS, "There are 10.", 3),
    (POLAR, "No, the cat is not on it.", 1),
    (POLAR, "Yes the dog is there", 0),
    (POLAR, "The answer is no.", 1),
    (POLAR, "(B) no\n\nThere is yes-or-no doubt about it.", 1),
    (IMAGES, "The second image is alike. It shows the same house.", 0),
    (WITH_COMMAS, "It is red, round and small.", 0),
    (WITH_COMMAS, "a red ball", 1),
]
CLAUSES = [
    (CLOSER, "Point B is closer to the camera, while point A is on the wall.", 1),
    (CLOSER, "Point A, which is circled on the left, appears to be closer than point B.", 0),
    (CLOSER, "It is hard to tell, but point B seems closer.", 1),
    (CLOSER, "The one closer to the camera is B.", 1),
    (("The car is nearer", "The bus is nearer"), "The bus is nearer to us.", 1),
]
NOTHING = [
    (SIDES, ""),
    (SIDES, "I am sorry, I cannot help with that."),
    (SIDES, "A or B"),
    (SIDES, "The answer is A or B."),
    (SIDES, "either (A) or (B)"),
    (SIDES, "both A and B"),
    (SIDES, "A, B"),
    (SIDES, "(A) left or (B) right?"),
    (SIDES, "Neither (A) left nor (B) right can be selected."),
    (SIDES, "The answer is not (A)."),
    (SIDES, "(B) left"),
    (SIDES, "(A) left\n(B) right"),
    (SIDES, "from left to right"),
    (SIDES, "I cannot tell whether it is left."),
    (SIDES, "alright"),
    (THINGS, "A picture of a room."),
    (THINGS, "There is a lamp."),
    (THINGS, "a chair or a table"),
    (COUNTS, "There are 2 tables with 3 lamps."),
    (COUNTS, "3.5"),
    (POLAR, "There is no chair."),
    (POLAR, "No chair is visible."),
    (POLAR, "Yes/No"),
    (CLOSER, "A person is closer to the camera."),
    (CLOSER, "Which point, A or B, is closer?"),
    (CLOSER, "Point A is not closer."),
    (CLOSER, "Both points A and B are on the wall."),
]


@pytest.mark.parametrize(("choices", "text", "index"), LETTERS + TEXTS + CLAUSES)
def test_a_text_that_states_a_choice(choices: tuple[str, ...], text: str, index: int) -> None:
    assert stated_choice(text, choices) == index


@pytest.mark.parametrize(("choices", "text"), NOTHING)
def test_a_text_that_states_none(choices: tuple[str, ...], text: str) -> None:
    assert stated_choice(text, choices) is None


def test_a_bare_letter_is_the_choice_that_holds_it_and_one_in_brackets_is_the_letter() -> None:
    swapped = ("B is closer", "A is closer")
    assert stated_choice("Point A is closer to us.", swapped) == 1
    assert stated_choice("(A), because of the light", swapped) == 0
    assert stated_choice("The answer is A.", ("B", "A")) == 1


@pytest.mark.parametrize(
    "piece", ["(", "\n", " ", "A or ", "(A) ", "answer: ", "the ", "not ", "1 ", "is : "]
)
def test_long_repetitions_take_no_time(piece: str) -> None:
    start = time.perf_counter()
    stated_choice(piece * (8000 // len(piece)), SIDES)
    assert time.perf_counter() - start < 2.0
