"""Whatever a completion says: a score of each reward, the same each time, and soon."""

import re

import pytest
from fixtures.fuzzing import fuzzed
from fixtures.mutated import pieces
from hypothesis import example
from hypothesis import strategies as st

from vtzero.evaluation.extraction import paper_answer
from vtzero.rewards import accuracy, format, text
from vtzero.rewards.accuracy import (
    accuracy_lenient,
    accuracy_math_verify,
    accuracy_paper,
    accuracy_r1_v,
    accuracy_strict,
    lenient_accuracy,
    strict_accuracy,
)
from vtzero.rewards.length import length_reward, soft_overlong
from vtzero.rewards.symbolic import Comparison, SymbolicError, compare

TAGS = ("<think>", "</think>", "<answer>", "</answer>", "<|im_end|>", "<", ">")
WORDS = (
    "left",
    "Left of",
    "A",
    "(B)",
    "[c]",
    "a",
    "I",
    "3",
    "-3.5",
    ".",
    ",",
    " ",
    "\n",
    "ß",
    "İ",
    "\u2028",
    "\0",
)
COMPLETIONS = pieces(*TAGS, *WORDS)
ANSWERS = pieces(*WORDS, "<answer>", most=3)
OPTIONS = st.none() | st.lists(ANSWERS, max_size=4)
LATEX = (
    "$",
    "\\frac{1}{2}",
    "\\sqrt",
    "{",
    "}",
    "\\boxed{",
    "x",
    "=",
    "^",
    "1/2",
    "1e9",
    "9",
    "!",
    "\\pi",
    "%",
    "(",
    ")",
    "\\int",
    "_",
    "+",
)


@fuzzed(80, said=COMPLETIONS, answer=ANSWERS, options=OPTIONS, prompt=st.sampled_from(["", "x<think>"]))
@example(said="<answer>" * 4000, answer="3", options=None, prompt="<think>")
@example(said="</think><answer>" * 2000, answer="3", options=None, prompt="<think>")
@example(said="</think> <answer></answer>" * 1000 + "x", answer="3", options=["3"], prompt="<think>")
@example(said="<think>" * 4000, answer="3", options=["think"], prompt="")
@example(said="a-" * 8000, answer="a-" * 4000, options=["a-a", "a"], prompt="")
@example(said=" " * 16000 + "x", answer="x", options=["left  of", " " * 4000], prompt="")
def test_rewards_of_text_alone(said, answer, options, prompt):
    columns = {"answer": [answer], "options": [options], "prompts": [prompt]}
    for reward in (
        accuracy_strict,
        accuracy_lenient,
        format.format_paper,
        format.format_open_r1,
        format.format_r1_multimodal_journey,
        format.format_tags_only,
    ):
        assert reward([said], **columns) in ([0.0], [1.0])
    assert lenient_accuracy(said, answer, options) >= strict_accuracy(said, answer)
    assert strict_accuracy(f"{said}<answer>{answer}</answer>", answer) == float(
        text.normalized(answer) != "" and "<answer>" not in answer
    )


# The originals' own patterns, which take a time that grows with the square of a text, or worse.
PATTERN = "<think>.*?</think>\\s*<answer>.*?</answer>"
PARTS = st.sampled_from([*TAGS[:4], " ", "\n", "x", "\r", "\u2028", "\x1c"])
FORMATS = st.lists(PARTS, max_size=9).map("".join)


@fuzzed(150, said=FORMATS | FORMATS.map(lambda text: f"<think>{text}</answer>"))
@example(said="<think></think><answer></answer>\n")
@example(said="<think></think>\n<answer></answer>")
@example(said="<think>\n</think><answer></answer>")
@example(said="<think></answer>")
def test_texts_are_read_as_the_originals_patterns_read_them(said):
    columns = {"prompts": [""]}
    paper, start = re.fullmatch(PATTERN, said, re.DOTALL), re.match(PATTERN, said)
    journey = re.match(PATTERN.replace("\\s*", "") + "$", said)
    assert format.format_paper([said], **columns) == [float(paper is not None)]
    assert format.format_open_r1([said], **columns) == [float(start is not None)]
    assert format.format_r1_multimodal_journey([said], **columns) == [float(journey is not None)]
    tagged = re.search("<answer>(.*?)</answer>", said)
    assert accuracy._one_line_answer(said) == (tagged.group(1) if tagged else said).strip()
    spaced = re.search(r"<answer>\s*(.*?)\s*</answer>", said)
    assert paper_answer(said) == ((spaced and spaced.group(1)) or said)


@fuzzed(50, said=COMPLETIONS, options=st.lists(ANSWERS, max_size=4))
@example(said=".", options=[".."])
@example(said="it is etc.", options=["left", "etc.."])
def test_readings_are_parts_of_the_text(said, options):
    tagged = text.tagged_answer(said)
    assert tagged is None or f"<answer>{tagged}</answer>" in said
    assert said.endswith(text.conclusion(said))
    assert set(text.aha_words(said)) <= set(text.AHA_WORDS)
    found = text.last_option(said, options)
    assert found is None or found in {text.normalized(option) for option in options}
    assert text.words(said) == text.words(text.without_tags(said)) or "<" in text.without_tags(said)


@fuzzed(50, lengths=st.lists(st.integers(0, 5000), max_size=4), cache=st.integers(1, 4000))
def test_rewards_of_length_are_bounded_and_fall(lengths, cache):
    said = ["x"] * len(lengths)
    assert length_reward(said, lengths) == pytest.approx([length / 1000 for length in lengths])
    punished = soft_overlong(said, lengths, max_completion_length=4000, soft_punish_cache=cache)
    assert all(-1 <= value <= 0 for value in punished)
    assert [value for _, value in sorted(zip(lengths, punished, strict=True))] == sorted(
        punished, reverse=True
    )


@fuzzed(15, said=pieces(*LATEX, *WORDS, *TAGS, most=8), answer=pieces(*LATEX, *WORDS, most=4))
@example(said="\\frac" * 2000, answer="3")
@example(said="\\boxed{" * 500 + "}" * 500, answer="3")
@example(said="(" * 500 + "3" + ")" * 500, answer="3")
@example(said="3", answer="\ud800")
def test_symbolic_rewards(said, answer):
    for reward in (accuracy_paper, accuracy_r1_v, accuracy_math_verify):
        (score,) = reward([said], answer=[answer])
        assert score in (0.0, 1.0) or isinstance(score, SymbolicError)
    first, second = compare([Comparison(answer, said)] * 2)
    assert str(first) == str(second) or isinstance(first, SymbolicError) or isinstance(second, SymbolicError)
