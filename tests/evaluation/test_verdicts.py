"""Each benchmark's outputs are judged by its own scorers; an item that cannot be scored is an error."""

import pytest

from vtzero.evaluation.items import BenchmarkItem
from vtzero.evaluation.verdicts import Verdict, check_answer, judge

CHOICES = BenchmarkItem("1", "", "Where?", ("table", "chair"), "table")


def number(answer):
    return BenchmarkItem("1", "", "How many?", (), answer)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("<answer> 4 Cubes. </answer>", (True, True)),
        ("there are 4 cubes", (False, True)),
        ("<answer> 5 cubes </answer>", (False, False)),
        ("", (False, False)),
    ],
)
def test_strict_and_lenient_of_an_open_question(output, expected):
    verdict = judge(output, BenchmarkItem("1", "", "How many?", (), "4 cubes"), "choices")
    assert (verdict.correct, verdict.correct_lenient) == expected


def test_the_papers_free_credit_is_kept_apart():
    prose = "I think it is a chair"
    assert judge(prose, CHOICES, "paper_choices") == Verdict(False, False, True)
    assert judge(prose, CHOICES, "choices") == Verdict(False, False, None)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("<think>3 + 4</think><answer> 7 </answer>", (True, True)),
        ("<answer>seven</answer>", (False, False)),
        ("there are 7", (False, True)),
        ("<answer> 8 </answer>", (False, False)),
    ],
)
def test_superclevr_counts_what_its_authors_count(output, expected):
    verdict = judge(output, number("7"), "superclevr")
    assert (verdict.correct, verdict.correct_lenient) == expected


def test_geoqa_counts_what_its_authors_count():
    assert judge("so the angle is $140$", number("140"), "geoqa").correct
    assert not judge("so the angle is $14$", number("140"), "geoqa").correct


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("<think>x</think> <answer>18</answer>", (True, True)),
        ("<answer>$\\frac{36}{2}$</answer>", (True, True)),
        ("<answer>18 dollars</answer>", (True, True)),
        ("<answer>17</answer>", (False, False)),
        ("He makes 9 * 2 = 18", (False, True)),
        ("Of 18 he keeps 12", (False, False)),
        ("", (False, False)),
    ],
)
def test_a_number_is_compared_as_a_number(output, expected):
    verdict = judge(output, number("18"), "math")
    assert (verdict.correct, verdict.correct_lenient) == expected


@pytest.mark.parametrize(
    ("scoring", "words"), [("superclevr", "'many' is not a whole number"), ("math", "'many' is not a number")]
)
def test_an_answer_that_cannot_be_compared_is_an_error(scoring, words):
    with pytest.raises(ValueError, match=words):
        check_answer(number("many"), scoring)


@pytest.mark.parametrize(("scoring", "answer"), [("superclevr", "4"), ("math", "-2.5"), ("geoqa", "140°")])
def test_other_answers_are_fine(scoring, answer):
    check_answer(number(answer), scoring)
