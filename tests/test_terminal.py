"""What others wrote is shown, and obeyed by no terminal."""

import time

import pytest
from rich.console import Console

from vtzero.evaluation.tables import summary_table
from vtzero.terminal import LONGEST, its_lines, one_line, short_line, visible


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


WANDB_KEY = "0123456789abcdef" * 2 + "01234567"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("401: {'Authorization': 'Bearer eyJh.b1-_.c~+/=='}", "401: {'Authorization': 'Bearer ***'}"),
        ("bearer\n abcdefghijklmnopqrstuvwxyz, sent", "bearer ***, sent"),
        ("key sk-abcdEFGH1234abcdEFGH1234 is wrong", "key *** is wrong"),
        ("OPENAI_API_KEY=sk-proj-aB3_dE6-hI9kLmNoPqRsT-v", "OPENAI_API_KEY=***"),
        ("sk-proj-" + "Zq7_Lm-2" * 8, "***"),
        ("'sk-ant-api03-AbCdEfGhIjKlMnOp-Qr'", "'***'"),
        (f"WANDB_API_KEY={WANDB_KEY}", "WANDB_API_KEY=***"),
        (f"{{'api_key': '{WANDB_KEY}'}}", "{'api_key': '***'}"),
        (f"the API key is {WANDB_KEY}.", "the API key is ***."),
        ("https://me:p@ss:w@rd@host/a@b", "https://***@host/a@b"),
        ("https://me:p?a=b#c@host:80", "https://***@host:80"),
        ("(https://b.s3/a/c.png?X-Amz-Signature=ab%2F1&Expires=9), gone", "(https://b.s3/a/c.png?…), gone"),
        ("'https://h/a?sig=x' and 'https://h/b?q'", "'https://h/a?…' and 'https://h/b?q'"),
        ("https://h/a?t=1,https://me:pw@h/b?t=2.", "https://h/a?…."),
        ("sat=https:/me:pw@h/a.parquet?token=1", "sat=https:/***@h/a.parquet?…"),
    ],
)
def test_keys_and_signed_links_are_not_told(said, shown):
    assert one_line(said) == shown
    assert one_line(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "Is x = 3? What is in https://host/a.png? And y=2?",
        "https://host/a?b",
        "gs://bucket/part-????.parquet: no such file",
        "what is a=b?c=d",
        f"commit {WANDB_KEY}, sha1: {WANDB_KEY}",
        f"key {WANDB_KEY}abcdef",
        "the keys are left and right",
        "a sk-learn-like-desk-top, task-1234567890123456, sk-SK, risk-averse",
        "the bearer documents, a Bearer token, Bearer",
        "HF_DATASETS_CACHE and HF_TOKEN",
        "me@host and a@b: 2 of them at http://host/@me",
    ],
)
def test_what_is_no_secret_stays(text):
    assert one_line(text) == text


def test_a_signed_link_across_the_middle_is_not_told():
    line = short_line("x" * 900 + " https://h/a?sig=" + "s3cr3t" * 200)
    assert line.endswith("https://h/a?…")
    assert "s3cr3t" not in line


def test_a_long_hostile_text_is_read_in_a_moment():
    began = time.monotonic()
    for piece in (":/", "sk-", "a@", "://", "bearer ", "?=", "key ", "https://a?"):
        one_line(piece * (200_000 // len(piece)))
    assert time.monotonic() - began < 5


def test_a_traceback_keeps_its_lines_and_no_secret():
    trace = "Traceback:\n  File 'a.py', line 3\n    get('https://h/a?sig=s3')\nError: \x1b[2J hf_abcdefgh12\n"
    shown = "Traceback:\n  File 'a.py', line 3\n    get('https://h/a?…')\nError: \\x1b[2J ***"
    assert its_lines(trace) == shown


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
