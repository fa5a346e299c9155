"""Of which steps a run writes, keeps and shows completions."""

from dataclasses import replace

from vtzero.config import RunConfig
from vtzero.training.logged_steps import is_logged, is_printed, is_shown, keeps_completions

CONFIG = RunConfig(max_steps=50, logging_steps=2)
STEPS = range(1, 51)


def test_every_so_many_steps_and_the_last_are_logged():
    odd = replace(CONFIG, max_steps=7, logging_steps=3)
    assert [step for step in range(1, 8) if is_logged(odd, step)] == [3, 6, 7]


def test_nothing_is_printed_unless_asked_for():
    assert not any(is_printed(CONFIG, step) for step in STEPS)
    some = replace(CONFIG, print_completions_steps=20)
    assert [step for step in STEPS if is_printed(some, step)] == [20, 40]


def test_completions_are_kept_for_the_logs_and_for_printing():
    printed = replace(CONFIG, log_completions=False, print_completions_steps=25)
    assert [step for step in STEPS if keeps_completions(printed, step)] == [25, 50]
    assert not any(keeps_completions(replace(printed, print_completions_steps=0), step) for step in STEPS)
    assert [step for step in STEPS if keeps_completions(CONFIG, step)] == list(range(2, 51, 2))


def test_the_first_logged_step_every_tenth_after_it_and_the_last_are_shown():
    shown = [step for step in STEPS if is_logged(CONFIG, step) and is_shown(CONFIG, step)]
    assert shown == [2, 22, 42, 50]
    printed = replace(CONFIG, print_completions_steps=30)
    assert is_shown(printed, 30)
