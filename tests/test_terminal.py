"""What others wrote is shown, and obeyed by no terminal."""

import pytest
from rich.console import Console

from vtzero.evaluation.tables import summary_table
from vtzero.terminal import LONGEST, one_line, short_line, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b[H", "\\x1b[2J\\x1b[H"),  # clears the screen
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),  # names the window
        ("\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "\\x1b]8;;http://a\\x1b\\link\\x1b]8;;\\x1b\\"),
        ("\x9b31mred", "\\x9b31mred"),  # the same in one C1 character
        ("wrong\rright", "wrong\\rright"),
        ("wrong\b\b\b\b\bright", "wrong\\x08\\x08\\x08\\x08\\x08right"),
        ("a\u202ecba", "a\\u202ecba"),  # turned round
        ("\u2066hidden\u2069", "\\u2066hidden\\u2069"),
        ("\ufeffmark", "\\ufeffmark"),
        ("\ud800", "\\ud800"),
        ("a\u2028b", "a\\u2028b"),
        ("\0\x7f", "\\x00\\x7f"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text, shown):
    assert visible(text) == shown


@pytest.mark.parametrize(
    "text", ["two\nlines\tand a tab", "größer", "立方体", "می‌خواهم", "👩‍🚀 é", "[red]a[/red]"]
)
def test_what_is_only_read_stays_as_it_is(text):
    assert visible(text) == text


def test_a_message_is_one_line_without_secrets():
    token = "hf_" + "a1B2" * 8
    said = f"no\n file\tat https://me:secret@host/x ({token}) or s3://key:other@b \x1b[0m"
    assert one_line(said) == "no file at https://***@host/x (***) or s3://***@b \\x1b[0m"


def test_a_long_message_keeps_its_ends():
    line = short_line("begins" + "x" * 10_000_000 + "https://me:secret@host ends")
    assert line.startswith("beginsxxx")
    assert line.endswith("xxhttps://***@host ends")
    assert len(line) <= LONGEST
    assert short_line("a\nb") == "a b"


def test_tables_show_the_names_of_tasks(capsys):
    figures = {"n": 1, "accuracy": 0.0, "accuracy_interval": [0, 1], "accuracy_lenient": 0.0}
    figures |= {"accuracy_lenient_interval": [0, 1], "mean_length": 1.0, "clipped_ratio": 0.0}
    table = summary_table({**figures, "rejected": 0, "tasks": {"\x1b[2J[/red]": figures, "b": figures}})
    Console(width=120).print(table)
    assert "\\x1b[2J[/red]" in capsys.readouterr().out
