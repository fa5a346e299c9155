"""The scorers on made-up items: the paper's table row by row, strict, lenient, odd inputs."""

import random
import threading

import pytest

from vtzero.evaluation.items import BenchmarkItem
from vtzero.evaluation.scorers import (
    SCORERS,
    geoqa,
    gold_index,
    lenient,
    paper,
    strict,
    strict_choice,
    superclevr,
)

LEFT_RIGHT = ("left", "right")
TRUE_FALSE = ("True", "False")
TABLE_CHAIR = ("table", "chair")


def item(choices: tuple[str, ...], answer: str) -> BenchmarkItem:
    return BenchmarkItem("7", "Relation", "Where is it?", choices, answer)


def tagged(text: str) -> str:
    return f"<think>left? right?</think>\n<answer>{text}</answer>"


# What the paper's scorer gives with its own math-verify, 0.5.2; 0.9 gives the same on every row.
PAPER_TABLE = [
    ("<answer>(B)</answer>", LEFT_RIGHT, "(B)", True),
    ("B", LEFT_RIGHT, "(B)", True),
    ("(B) right", LEFT_RIGHT, "(B)", True),
    ("right", LEFT_RIGHT, "(B)", True),
    ("to the right of", LEFT_RIGHT, "(B)", True),
    ("<answer>(A) right</answer>", LEFT_RIGHT, "(A)", True),
    ("<answer>Right</answer>", LEFT_RIGHT, "(B)", False),
    ("<answer>Yes</answer>", TRUE_FALSE, "(A)", False),
    ("true", TRUE_FALSE, "(A)", False),
    ("I think it is a chair", TABLE_CHAIR, "(A)", True),
    ("I think it is a chair", TABLE_CHAIR, "(B)", False),
    ("<answer>reasons\nB</answer>", LEFT_RIGHT, "(B)", False),
    ("", LEFT_RIGHT, "(A)", False),
    ("", LEFT_RIGHT, "(B)", False),
]


@pytest.mark.parametrize(("output", "choices", "answer", "correct"), PAPER_TABLE)
def test_paper_table(output: str, choices: tuple[str, ...], answer: str, correct: bool) -> None:
    assert paper(output, item(choices, answer)) is correct


def test_paper_scores_the_same_off_the_main_thread() -> None:
    results: list[bool] = []
    thread = threading.Thread(
        target=lambda: results.extend(paper(output, item(*rest)) for output, *rest, _ in PAPER_TABLE)
    )
    thread.start()
    thread.join()
    assert results == [correct for *_, correct in PAPER_TABLE]


def test_paper_reads_numbers() -> None:
    counts = ("2", "3", "0", "10")
    assert paper("<answer>3</answer>", item(counts, "(B)"))
    assert paper("There are 10.", item(counts, "(D)"))
    assert not paper("<answer>10</answer>", item(counts, "(B)"))


@pytest.mark.parametrize("said", ["B", "b", "(B)", "(B) right", "B. Right", "right", " RIGHT. ", "\nright\n"])
@pytest.mark.parametrize("answer", ["(B)", "B", "right", "Right.", "(B) right"])
def test_strict_takes_letter_or_text_against_any_form_of_the_answer(said: str, answer: str) -> None:
    assert strict(tagged(said), item(LEFT_RIGHT, answer))
    assert not strict(tagged(said), item(LEFT_RIGHT, "(A)"))


@pytest.mark.parametrize("said", ["A", "left", "(B) left", "(A) right", "A or B", "the right", "", "C"])
def test_strict_refuses_everything_else(said: str) -> None:
    assert not strict(tagged(said), item(LEFT_RIGHT, "(B)"))


@pytest.mark.parametrize("output", ["(B)", "right", "<answer>B", "B</answer>", "", "<think>x</think> right"])
def test_strict_needs_the_tags(output: str) -> None:
    assert not strict(output, item(LEFT_RIGHT, "(B)"))


def test_strict_reads_an_untagged_output_as_prose_when_tags_are_not_required() -> None:
    gold = item(LEFT_RIGHT, "(B)")
    assert strict("right", gold, require_tags=False)
    assert strict("<think>left</think> (B)<|im_end|>", gold, require_tags=False)
    assert strict("It is to the right.", gold, require_tags=False)
    assert not strict("left or right", gold, require_tags=False)
    assert not strict("right <answer>left</answer>", gold, require_tags=False)
    assert not strict("The answer is (B). <answer>A or B</answer>", gold, require_tags=False)


def test_strict_gives_no_credit_for_an_article_where_paper_does() -> None:
    prose, gold = "There is a lamp in a corner.", item(TABLE_CHAIR, "(A)")
    assert paper(prose, gold)
    assert not strict(prose, gold, require_tags=False)


@pytest.mark.parametrize(
    ("output", "index"), [("<answer>(B)</answer>", 1), ("<answer>A or B</answer>", None), ("(B)", None)]
)
def test_strict_choice(output: str, index: int | None) -> None:
    assert strict_choice(output, LEFT_RIGHT) == index


def test_choices_that_contain_commas() -> None:
    gold = item(("red, round", "red", "round"), "red, round")
    for said in ("red, round", "(A)", "(A) red, round", "Red,  round."):
        assert strict(tagged(said), gold)
        assert strict(said, gold, require_tags=False)
    assert not strict(tagged("red"), gold)
    assert strict("It is red, round and small.", gold, require_tags=False)
    assert paper("<answer>red, round</answer>", gold)


@pytest.mark.parametrize("said", ["two lamps", " Two  lamps. "])
def test_open_questions_are_answered_in_their_own_words(said: str) -> None:
    question = item((), "two lamps")
    assert strict(tagged(said), question)
    assert not strict(said, question)
    assert strict(said, question, require_tags=False)
    assert not strict("there are two lamps", question, require_tags=False)
    assert lenient(f"there are {said}", question)
    assert not strict(tagged(""), item((), ""))


def test_equal_choices_are_one_answer() -> None:
    assert strict(tagged("3"), item(("3", "4", "3"), "(C)"))
    assert strict(tagged("(A)"), item(("3", "4", "3"), "(C)"))


@pytest.mark.parametrize(
    ("output", "correct"),
    [
        ("It is to the right of the sofa.", True),
        ("(B) right\n\nThere is nothing on the left.", True),
        ("The answer is B.", True),
        ("right, no, left", False),
        ("<think>right</think> left", False),
        ("<answer>left</answer>", False),
        ("bright", False),
        ("", False),
    ],
)
def test_lenient(output: str, correct: bool) -> None:
    assert lenient(output, item(LEFT_RIGHT, "(B)")) is correct


def test_strict_implies_lenient_on_random_outputs() -> None:
    draw = random.Random(42)
    pieces = ["<think>", "</think>", "<answer>", "</answer>", "left", "right", "(A)", "B", " ", "\n", ". "]
    right = 0
    for _ in range(3000):
        output, gold = (
            "".join(draw.choices(pieces, k=draw.randint(1, 8))),
            item(LEFT_RIGHT, draw.choice("AB")),
        )
        if strict(output, gold):
            right += 1
            assert lenient(output, gold), output
    assert right > 10


ODD_OUTPUTS = [
    "",
    "<answer>",
    "</answer>",
    "<answer></answer>",
    "<answer><answer>",
    "</think>",
    "x" * 10_000,
    "<answer>" * 1_000,
    "$" * 10_000,
    "(" * 1_000 + ")" * 1_000,
    "\\frac{",
    "椅子 🪑 ١٢٣",
    "\x00\ud800",
]


@pytest.mark.parametrize("output", ODD_OUTPUTS)
@pytest.mark.parametrize("name", SCORERS)
def test_odd_outputs_are_wrong_and_break_nothing(name: str, output: str) -> None:
    gold = item((), "4") if name in ("superclevr", "geoqa") else item(("+", "chair", "4"), "(C)")
    assert SCORERS[name](output, gold) is False
    if name == "strict":
        assert strict(output, gold, require_tags=False) is False


@pytest.mark.parametrize("scorer", [strict, lenient, paper])
@pytest.mark.parametrize("answer", ["(C)", "up", ""])
def test_an_answer_that_is_no_choice_names_its_item(scorer, answer: str) -> None:
    with pytest.raises(ValueError, match="item '7': its answer"):
        scorer(tagged("left"), item(LEFT_RIGHT, answer))


def test_gold_index() -> None:
    assert [gold_index(item(LEFT_RIGHT, answer)) for answer in ("(A)", "B", "right", "(a) left")] == [
        0,
        1,
        1,
        0,
    ]


@pytest.mark.parametrize(
    ("output", "correct"),
    [
        ("<answer>\n 4 </answer>", True),
        ("<answer>04</answer>", True),
        ("<answer>4 cars</answer>", False),
        ("<answer>-4</answer>", False),
        ("<answer>5</answer><answer>4</answer>", False),
        ("4", False),
    ],
)
def test_superclevr(output: str, correct: bool) -> None:
    assert superclevr(output, item((), "4")) is correct


def test_geoqa_compares_expressions() -> None:
    assert geoqa("so $x = \\frac{1}{2}$", item((), "0.5"))
    assert not geoqa("so $x = \\frac{1}{3}$", item((), "0.5"))
