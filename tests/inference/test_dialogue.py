"""Lines of a dialogue: commands change how the next question is asked, and mistakes cost a line."""

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from vtzero.inference.answers import Asking
from vtzero.inference.dialogue import COMMANDS, Dialogue, changed, help_text

ASKING = Asking(prompt_template="r1_zero_base")


class Asked:
    """Stands where the model would: keeps what it is asked."""

    def __init__(self, refused=()):
        self.asked, self._refused = [], refused

    def load(self):
        """There is nothing to read."""

    def answer(self, question, asking):
        if question in self._refused:
            # Raised by vtzero itself, as a question that cannot be asked is.
            changed(asking, "/nothing", "")
        self.asked.append((question, asking))
        return {"question": question}


def held(monkeypatch, *lines, refused=()):
    """A dialogue whose lines came through a pipe, and what was asked."""
    asked = Asked(refused)
    stdin = io.TextIOWrapper(io.BytesIO("\n".join(lines).encode()), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    dialogue = Dialogue(asked, ASKING)
    dialogue.from_pipe()
    return dialogue, asked.asked


@pytest.mark.parametrize(
    ("line", "changes"),
    [
        ("/options left, right", {"options": ("left", "right")}),
        ('/options ["a, b", "c"]', {"options": ("a, b", "c")}),
        ("/answer the red cube", {"answer": "the red cube"}),
        ("/reward length, a.py:f", {"rewards": ("length", "a.py:f")}),
        ("/prompt base_plain", {"prompt_template": "base_plain"}),
        ("/n 8", {"num_generations": 8}),
        ("/temperature 0.7", {"temperature": 0.7}),
        ("/top-k 5", {"top_k": 5}),
        ("/top-p 0.9", {"top_p": 0.9}),
        ("/min-p 0.1", {"min_p": 0.1}),
        ("/repetition-penalty 1.1", {"repetition_penalty": 1.1}),
        ("/seed 3", {"seed": 3}),
        ("/raw", {"raw": True}),
    ],
)
def test_a_command_changes_how_the_next_question_is_asked(monkeypatch, line, changes):
    _, asked = held(monkeypatch, "before", line, "after")
    assert asked == [("before", ASKING), ("after", replace(ASKING, **changes))]


@pytest.mark.parametrize("name", ["/options", "/answer", "/reward", "/image"])
def test_a_command_without_its_value_takes_it_back(name):
    before = replace(
        ASKING, options=("a",), answer="a", rewards=("length",), images=(Path("a.png"),), raw=True
    )
    field = {"/reward": "rewards", "/image": "images"}.get(name, name[1:])
    assert getattr(changed(before, name, ""), field) == getattr(ASKING, field)


def test_raw_is_turned_off_again():
    assert changed(changed(ASKING, "/raw", ""), "/raw", "") == ASKING


def test_pictures_are_opened_at_once_and_may_have_spaces(tmp_path):
    for name in ("a b.png", "c.png"):
        Image.new("RGB", (30, 30)).save(tmp_path / name)
    one, other = tmp_path / "a b.png", tmp_path / "c.png"
    assert changed(ASKING, "/image", str(one)).images == (one,)
    assert changed(ASKING, "/image", f"'{one}' {other}").images == (one, other)
    (tmp_path / "d.png").write_text("no picture")
    for argument, words in (
        (f"{other} none.png", "none.png cannot be read"),
        (str(tmp_path / "d.png"), "it is none of"),
        ("'a", "No closing quotation"),
    ):
        with pytest.raises(ValueError, match=words):
            changed(ASKING, "/image", argument)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/temperature warm", "temperature must be a number, got 'warm'"),
        ("/temperature -1", "temperature must be finite and >= 0"),
        ("/n 1.5", "num_generations must be a whole number"),
        ("/n", "num_generations must be a whole number, got ''"),
        ("/n 0", "num_generations is 0"),
        ("/prompt r2", "the templates are r1_zero_base"),
        ("/prompt", "/prompt: name one of r1_zero_base"),
        ("/options [1", "not a JSON list"),
        ("/image none.png", "none.png cannot be read"),
        ("/nonsense", "there is no command /nonsense; /help lists them"),
        ("/again", "nothing was asked yet"),
        ("refused", "there is no command /nothing"),
    ],
)
def test_a_mistake_is_one_line_and_the_rest_is_asked(monkeypatch, capsys, line, words):
    dialogue, asked = held(monkeypatch, line, "after", refused=["refused"])
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("line 1: ")
    assert words in said
    assert asked == [("after", ASKING)]
    assert dialogue.mistakes == 1


def test_again_asks_the_last_question_with_the_next_seed(monkeypatch):
    _, asked = held(monkeypatch, "/seed 4", "What?", "/again", "/again")
    assert asked == [("What?", replace(ASKING, seed=seed)) for seed in (4, 5, 6)]


def test_questions_stand_above_their_answers_and_no_prompt_is_printed(monkeypatch, capsys):
    dialogue, _ = held(monkeypatch, "", "One\x1b?", "  Two?  ")
    assert capsys.readouterr().out == "One\\x1b?\nTwo?\n"
    assert dialogue.answered == [{"question": "One\x1b?"}, {"question": "Two?"}]


@pytest.mark.parametrize("line", ["/quit", "/exit"])
def test_nothing_is_asked_after_quit(monkeypatch, line):
    assert [question for question, _ in held(monkeypatch, "What?", line, "More?")[1]] == ["What?"]


def test_bytes_that_are_no_text_are_a_question_like_any_other(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\xff\nb\n"), encoding="utf-8"))
    asked = Asked()
    Dialogue(asked, ASKING).from_pipe()
    assert [question for question, _ in asked.asked] == ["a\udcff", "b"]


def test_a_pipe_without_a_line_is_a_mistake(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(ValueError, match="no question: give one"):
        Dialogue(Asked(), ASKING).from_pipe()


def test_help_names_every_command_and_the_settings():
    text = help_text(replace(ASKING, answer="\x1b[31m", seed=7))
    for name in (*COMMANDS, "/again", "/help", "/quit"):
        assert f"  {name} " in text
    assert "seed 7" in text
    assert "\x1b" not in text
