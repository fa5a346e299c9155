"""The scorers on made-up items: the paper's table row by row, strict, lenient, odd inputs."""

import random
import threading

import pytest

from vtzero.evaluation.items import BenchmarkItem
from vtzero.evaluation.scorers import SCORERS, geoqa, gold_index, lenient, paper, strict, superclevr

LEFT_RIGHT = ("left", "right")
TRUE_FALSE = ("True", "False")
TABLE_CHAIR = ("table", "chair")


def item(choices: tuple[str, ...], answer: str) -> BenchmarkItem:
    return BenchmarkItem("7", "Relation", "Where is it?", choices, answer)


def tagged(text: str) -> str:
    return f"<think>left? right?</think>\n<answer>{text}</answer>"


# reference/original-systems.md §1.8, measured with the paper's math-verify 0.5.2
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


def test_strict_can_be_asked_to_take_a_bare_answer() -> None:
    gold = item(LEFT_RIGHT, "(B)")
    assert strict("right", gold, require_tags=False)
    assert strict("<think>left</think> (B)<|im_end|>", gold, require_tags=False)
    assert not strict("it is right", gold, require_tags=False)
    assert not strict("right <answer>left</answer>", gold, require_tags=False)


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
