"""What may be typed after `vtzero`, and what is said to one who mistyped."""

import subprocess
import sys

import pytest

from vtzero import cli
from vtzero.arguments import parse


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["sample", "--tempature", "0.5"], "unknown argument --tempature; did you mean '--temperature'?"),
        (["eval", "--image_folder=here"], "unknown argument --image_folder; did you mean '--image-folder'?"),
        (["scenes", "out", "another"], "unknown argument another\n"),
        (["export", "run", "out", "--zzz"], "unknown argument --zzz\n"),
    ],
)
def test_an_unknown_argument_is_named_with_the_closest_one(typed, said, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(typed)
    assert ended.value.code == 2
    assert f"vtzero {typed[0]}: error: {said}" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["train", "bench", "plan"])
def test_keys_of_a_config_are_passed_on(verb):
    known, rest = parse([verb, "a.yaml", "--json", "--mesh.fsdp", "4"])
    assert (known.verb, known.config, known.json, rest) == (verb, "a.yaml", True, ["--mesh.fsdp", "4"])


def test_each_verb_of_the_help_has_its_work(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    _, _, listed = capsys.readouterr().out.partition("VERB\n")
    verbs = [line.split()[0] for line in listed.splitlines() if line.startswith("    ") and line[4] != " "]
    assert verbs == list(cli._VERBS)


def test_help_does_not_wait_for_jax():
    script = (
        "import sys; from vtzero.cli import main\n"
        "try: main(['sample', '--help'])\n"
        "finally: assert 'jax' not in sys.modules"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
