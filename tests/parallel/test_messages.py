"""What processes tell each other; alone, and in a job of three."""

from pathlib import Path

import pytest
from fixtures.jobs import Job

from vtzero.parallel.messages import ask_first, tell_all, tell_first


def test_three_processes_hear_what_the_others_say(tmp_path):
    Job(3, [], tmp_path, devices=3, program=[str(Path(__file__).with_name("three_processes.py"))]).run()


def test_one_process_hears_itself():
    assert tell_all("said") == tell_first("said", (0,)) == ["said"]
    assert ask_first(lambda: "said") == "said"


def refuses():
    raise ValueError("no")


def test_a_mistake_that_the_first_process_finds_is_raised():
    with pytest.raises(ValueError, match="no"):
        ask_first(refuses)
