"""Reading tags, words and options out of completions."""

import random

import pytest

from vtzero.rewards.text import (
    AHA_WORDS,
    aha_words,
    conclusion,
    last_option,
    normalized,
    tagged_answer,
    without_tags,
    words,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>3</answer>", "3"),
        ("<answer>\n3\n</answer>", "\n3\n"),
        ("<answer></answer>", ""),
        ("<answer>1</answer><answer>2</answer>", "2"),
        ("<answer>1<answer>2</answer></answer>", "2"),
        ("<answer>1</answer>2</answer>", "1"),
        ("<answer>open", None),
        ("</answer>1<answer>", None),
        ("", None),
    ],
)
def test_tagged_answer(text: str, answer: str | None) -> None:
    assert tagged_answer(text) == answer


def test_tagged_answer_finds_what_was_put_last_whatever_came_before() -> None:
    draw = random.Random(7)
    for _ in range(500):
        pieces = ["<answer>", "</answer>", "x", "\n", "<think>", "é"]
        noise = "".join(draw.choices(pieces, k=draw.randint(0, 12)))
        trailing = "<answer>" * draw.randint(0, 2)
        assert tagged_answer(noise + "<answer>last 1</answer>" + trailing) == "last 1"


def test_normalized_is_idempotent_on_random_texts() -> None:
    draw = random.Random(11)
    for _ in range(500):
        text = "".join(draw.choices("aB ß.\n\t3É", k=draw.randint(0, 10)))
        if not normalized(text).endswith("."):
            assert normalized(normalized(text)) == normalized(text)
    assert normalized("  The\n Chair . ") == "the chair"


def test_conclusion_needs_something_after_the_thought() -> None:
    assert conclusion("<think>a</think> b") == " b"
    assert conclusion("<think>a</think>b</think> c") == " c"
    assert conclusion("<think>a</think> \n") == "<think>a</think> \n"
    assert conclusion("no tags") == "no tags"


def test_without_tags_leaves_comparisons_alone() -> None:
    assert without_tags("<s>1 < 2 and 3 > 2<|im_end|>").strip() == "1 < 2 and 3 > 2"


def test_words_drop_punctuation_and_keep_numbers() -> None:
    assert words("<answer>It's -3.5, (Left-Handed)!</answer>") == ["it's", "-3.5", "left-handed"]
    assert words("?! …") == []


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("left of the sofa", "left of"),
        ("left of, then LEFT", "left"),
        ("left\n  of", "left of"),
        ("(x+y) is right", "right"),
        ("right (X+Y)", "(x+y)"),
        ("xleft leftx", None),
    ],
)
def test_last_option(text: str, option: str | None) -> None:
    assert last_option(text, ["left", "right", "Left of", "(x+y)", "", "right."]) == option


def test_no_options_means_no_option() -> None:
    assert last_option("left", []) is None
    assert last_option("left", ["", " "]) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Wait, aha! Let me VERIFY and double-check.", ["wait", "aha", "verify", "check"]),
        ("possible, Possibly; impossible", ["possibl"] * 2),
        ("waiting checked yeti verifying", []),
        ("<think>yet</think>\nyet", ["yet", "yet"]),
        ("", []),
    ],
)
def test_aha_words(text: str, found: list[str]) -> None:
    assert aha_words(text) == found


def test_aha_words_are_found_among_random_others() -> None:
    draw = random.Random(13)
    for _ in range(200):
        drawn = draw.choices([*AHA_WORDS, "await", "checker", "so", "verified"], k=draw.randint(0, 12))
        text = draw.choice([" ", ", ", "\n", "-"]).join(draw.choice([word, word.upper()]) for word in drawn)
        assert aha_words(text) == [word for word in drawn if word in AHA_WORDS]
