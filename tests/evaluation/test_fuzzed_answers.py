"""Whatever an output says: a choice or none, and a verdict, the same each time, and soon."""

from fixtures.fuzzing import fuzzed
from fixtures.mutated import pieces
from hypothesis import assume, example
from hypothesis import strategies as st

from vtzero.data.example import Example
from vtzero.evaluation.benchmarks import benchmark_item
from vtzero.evaluation.extraction import choice_text, last_stated_choice, paper_answer, resolve_choice
from vtzero.evaluation.items import BenchmarkItem
from vtzero.evaluation.scorers import lenient, strict, strict_choice, superclevr
from vtzero.evaluation.statements import stated_choice
from vtzero.evaluation.verdicts import check_answer

PROSE = (
    "the answer is",
    "therefore",
    "so",
    "not",
    "neither",
    "or",
    "and",
    "point",
    "box",
    "option",
    "because",
    "appears to be closer",
    "is closer",
    "A",
    "B",
    "(A)",
    "(b)",
    "[C]",
    "C.",
    "a",
    "I",
    "no",
    "yes",
    "left",
    "right of",
    ".",
    ",",
    ":",
    "\n",
    " ",
    "'s",
    "<answer>",
    "</answer>",
    "</think>",
    "<L1>",
    "<T?>",
    "<N0>",
    "\\1",
    "１",
    "（Ａ）",
    "1.5",
)
OUTPUTS = pieces(*PROSE, most=15)
CHOICES = st.lists(
    pieces("A", "(B)", "left", "right of", "A is closer", "no", "1.5", ".", " ", "\\", "(", most=3),
    max_size=5,
)


@fuzzed(60, output=OUTPUTS, choices=CHOICES)
@example(output="the answer is " * 1000, choices=["left", "right"])
@example(output="answer choice option " * 1000, choices=["answer"])
@example(output="the most likely " * 2000 + "answer is " + "the likely " * 2000, choices=["left"])
@example(output="A, B, " * 2000, choices=["A", "B"])
@example(output="A or B or " * 2000, choices=["A", "B"])
@example(output="not the the the " * 2000, choices=["the"])
@example(output="left " * 4000, choices=["left", "left left"])
@example(output="(" * 8000, choices=["(", "(("])
@example(output=" " * 16000 + "A", choices=["A"])
@example(output="<answer>" + " " * 8000, choices=["A"])
@example(output="<answer>" * 4000 + "\nA\nB</answer>", choices=["A"])
def test_a_reading_is_one_of_the_choices_or_none(output, choices):
    for read in (resolve_choice, last_stated_choice, strict_choice, stated_choice):
        index = read(output, choices)
        assert index is None or 0 <= index < len(choices)
        assert index == read(output, choices)
    assert paper_answer(output) in output
    assert choice_text(choice_text(output)) == choice_text(output)


@fuzzed(40, output=OUTPUTS, choices=CHOICES, answer=pieces("A", "(B)", "left", "1.5", "7", most=2))
@example(output="<answer>" + "7" * 5000 + "</answer>", choices=[], answer="7")
@example(output="<answer>7</answer>", choices=[], answer="7" * 5000)
@example(output="<answer>７</answer>", choices=[], answer="7")
@example(output="<answer>7</answer>", choices=[], answer="²")
def test_verdicts_of_any_output(output, choices, answer):
    try:
        item = benchmark_item(Example("i", "q", answer, (), tuple(choices)))
        check_answer(item, "superclevr" if not choices else "choices")
    except ValueError:
        assume(False)
    strictly, leniently = strict(output, item), lenient(output, item)
    assert leniently >= strictly
    if not choices:
        assert isinstance(superclevr(output, item), bool)
    assert strict(f"<answer>{item.answer}</answer>", BenchmarkItem("i", "", "q", item.choices, item.answer))
