"""Text that is shown as it is drawn is only ever added to, and what answers agree on."""

import numpy as np
import pytest
from fixtures.tiny_folder import make_tiny_folder

from vtzero.data.processor import Processor
from vtzero.inference.text import GrowingText, Majority, final_answer, majority, token_line


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return Processor.from_folder(make_tiny_folder(tmp_path_factory.mktemp("model")))


def pieces(processor, ids, cuts):
    """What is shown of these ids when they come in parts that end at `cuts`."""
    text = GrowingText(processor)
    return [text.more(ids[:cut]) for cut in cuts] + [text.more(ids, whole=True)]


@pytest.mark.parametrize("said", ["left, 左 and 🙂👩‍👧!", "e\u0301 ", "\x1b[31m\u202ered", "", "��", "🙂"])
def test_a_character_is_shown_once_it_is_complete(processor, said):
    ids = processor.encode(said)
    shown = pieces(processor, ids, range(len(ids)))
    assert "".join(shown) == processor.decode(ids)
    assert not any("\ufffd" in piece for piece in shown[:-1] if "\ufffd" not in said)


def test_random_tokens_in_random_parts_make_the_text_of_all_of_them(processor):
    random = np.random.default_rng()
    for _ in range(300):
        ids = random.integers(0, processor.config.text.vocab_size, random.integers(0, 30)).tolist()
        cuts = sorted(random.integers(0, len(ids) + 1, 6).tolist())
        assert "".join(pieces(processor, ids, cuts)) == processor.decode(ids), (ids, cuts)


def test_what_never_becomes_a_character_is_shown_at_the_end(processor):
    ids = processor.encode("a🙂")[:-1]
    shown = pieces(processor, ids, range(len(ids)))
    assert "".join(shown[:-1]) == "a"
    assert shown[-1] == "\ufffd"


def test_special_tokens_stand_in_raw_lines_and_not_in_text(processor):
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert processor.decode([end]) == ""
    assert token_line(processor, 3, end, -0.5).split() == ["3", str(end), "-0.5", "'<|im_end|>'"]


def test_a_raw_line_holds_nothing_that_a_terminal_obeys(processor):
    for number in range(processor.config.text.vocab_size):
        line = token_line(processor, 0, number, -1.0)
        assert line.isprintable(), line


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("so </think> <answer> Red. </answer>", (), "red"),
        ("<answer> (B) </answer>", ("left", "right"), "right"),
        ("<answer> It is left. </answer>", ("left", "right"), "left"),
        ("I think it is right", ("left", "right"), "right"),
        ("I cannot tell", ("left", "right"), None),
        ("first. </think> Two cubes.", (), "two cubes"),
        (" The answer is 2. </think>", (), "the answer is 2"),
        ("", (), None),
    ],
)
def test_what_an_answer_settles_on(text, options, said):
    assert final_answer(text, options) == said


def test_the_majority_is_the_answer_of_most_and_the_first_of_those_that_tie():
    texts = [f"<answer>{word}</answer>" for word in ("two", "three", "Three", "two")]
    assert majority(texts) == Majority("two", 2)
    assert majority(["", " "]) == Majority(None, 0)
