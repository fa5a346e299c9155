"""Rewards by name and from a person's own file."""

import subprocess
import sys
from pathlib import Path

import pytest

from vtzero.rewards import REWARDS, load_reward
from vtzero.rewards.accuracy import accuracy_paper

OWN_FILE = """
from dataclasses import dataclass

@dataclass
class Rule:
    word: str

LIMIT = 3

def polite(completions, **columns):
    return [float(Rule("please").word in text) for text in completions]
"""


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    file = tmp_path / "own.py"
    file.write_text(OWN_FILE)
    return file


def message(spec: str) -> str:
    with pytest.raises(ValueError, match="reward") as caught:
        load_reward(spec)
    text = str(caught.value)
    assert "\n" not in text
    assert repr(spec) in text
    return text


def test_registered_names() -> None:
    accuracy = {f"accuracy_{name}" for name in ("paper", "strict", "math_verify", "r1_v", "lenient")}
    names = ("paper", "open_r1", "no_dotall", "r1_multimodal_journey", "tags_only")
    assert set(REWARDS) == accuracy | {f"format_{name}" for name in names} | {"length", "soft_overlong"}
    assert load_reward("accuracy_paper") is accuracy_paper


SETTINGS = {"max_completion_length": 5, "soft_punish_cache": 2}


@pytest.mark.parametrize("name", REWARDS)
def test_every_registered_reward_takes_the_same_call(name: str) -> None:
    columns = {"prompts": ["<think>"], "answer": ["left"], "completion_lengths": [4], "scene": ["7"]}
    (reward,) = load_reward(name, SETTINGS)(["a</think><answer>left</answer>"], **columns)
    assert reward == {"length": 0.004, "soft_overlong": -0.5}.get(name, 1.0)


def test_a_function_in_a_file(own_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_reward(f"{own_file}:polite")(["yes please", "no"]) == [1.0, 0.0]
    monkeypatch.chdir(own_file.parent)
    assert load_reward("own.py:polite")(["yes please", "no"]) == [1.0, 0.0]


def test_two_files_of_one_name_do_not_mix(tmp_path: Path) -> None:
    functions = []
    for number, folder in enumerate(("one", "two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.py").write_text(f"def f(completions, **_):\n    return [{number}]\n")
        functions.append(load_reward(f"{tmp_path / folder / 'own.py'}:f"))
    assert [function([""]) for function in functions] == [[0], [1]]


@pytest.mark.parametrize("spec", ["accuracy", "", "length ", "own.py", "own.py:", ":polite", "own.txt:f"])
def test_an_unknown_name_lists_the_known_ones(spec: str) -> None:
    text = message(spec)
    assert all(name in text for name in REWARDS)
    assert "path.py:name" in text


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "there is no file" in message(f"{tmp_path}/absent.py:polite")


def test_a_missing_function_lists_those_in_the_file(own_file: Path) -> None:
    text = message(f"{own_file}:polit")
    assert "no 'polit'" in text
    assert "polite" in text.split("its functions:")[1]


def test_something_that_is_no_function(own_file: Path) -> None:
    assert "'LIMIT' is of type int, not a function" in message(f"{own_file}:LIMIT")


@pytest.mark.parametrize(
    "source", ["def broken(:\n", "import no_such_module_here\n", "raise SystemExit(3)\n"]
)
def test_a_file_that_does_not_run(tmp_path: Path, source: str) -> None:
    (tmp_path / "bad.py").write_text(source)
    assert "failed with" in message(f"{tmp_path}/bad.py:f")
    assert not [name for name in sys.modules if name.startswith("vtzero_reward_bad_")]


def test_rewards_need_no_jax() -> None:
    code = "import sys, vtzero.rewards; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
