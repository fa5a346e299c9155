"""`vtzero sample` as a person uses it: text that moves, a terminal with Ctrl-C and Ctrl-D, a pipe."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest
from fixtures.command import vtzero
from fixtures.fast_compile import FAST_COMPILE_FLAGS
from fixtures.tiny_folder import make_tiny_folder
from PIL import Image

VARIABLES = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": FAST_COMPILE_FLAGS, "TERM": "dumb"}
COMMAND = [sys.executable, "-m", "vtzero.cli", "sample"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_folder(tmp_path_factory.mktemp("model") / "folder")


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    Image.new("RGB", (60, 60), "red").save(path)
    return path


class Terminal:
    """The command at a terminal of its own."""

    def __init__(self, *arguments):
        self._seen, self.shown = 0, ""
        self.pid, self._file = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, [*COMMAND, *map(str, arguments)], os.environ | VARIABLES)

    def type(self, text):
        os.write(self._file, text.encode())

    def until(self, words):
        """Read until the words are shown, after those that were waited for before."""
        end = time.monotonic() + 120
        while words not in self.shown[self._seen :]:
            assert time.monotonic() < end, self.shown
            if select.select([self._file], [], [], 0.1)[0]:
                self.shown += os.read(self._file, 65536).decode(errors="replace")
        self._seen = self.shown.index(words, self._seen) + len(words)

    def end(self):
        """The exit code."""
        while True:
            try:
                if not os.read(self._file, 65536):
                    break
            except OSError:  # how a terminal's end is told
                break
        os.close(self._file)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_at_a_terminal_mistakes_and_ctrl_c_go_back_to_the_prompt_and_ctrl_d_leaves(model, image):
    terminal = Terminal("--model", model, "--image", image, "-n", 32, "--max-completion-length", 4000)
    terminal.until("Ctrl-D leaves.")
    terminal.until("> ")
    terminal.type("How many\x1b[31m <|im_end|> cubes?\n")
    terminal.until("contains the special token <|im_end|>")
    terminal.until("> ")
    terminal.type("How many cubes?\n")
    terminal.until("[1]")
    terminal.type("\x03")
    terminal.until("\n> ")
    assert "mean of 32" not in terminal.shown
    terminal.type("never asked\x03")
    terminal.until("\n> ")
    for line in ("/n 2", "/temperature 0", "/answer 3"):
        terminal.type(f"{line}\n")
        terminal.until("\n> ")
    terminal.type("How many cubes?\n")
    terminal.until("mean of 2")
    terminal.until("2 of 2 say")
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.end() == 0
    assert "[1] never" not in terminal.shown


def test_sigterm_ends_a_dialogue(model):
    terminal = Terminal("--model", model)
    terminal.until("> ")
    os.kill(terminal.pid, signal.SIGTERM)
    terminal.until("interrupted")
    assert terminal.end() == 130


def test_text_moves_while_it_is_drawn(model):
    arguments = ["--model", model, "-n", 1, "--max-completion-length", 1500, "--temperature", 3, "Why?"]
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, env=os.environ | VARIABLES
    ) as process:
        assert process.stdout is not None
        pieces = list(iter(lambda: os.read(process.stdout.fileno(), 65536), b""))
    assert process.returncode == 0
    shown = b"".join(pieces)
    assert len(pieces) > 3
    assert b"\x1b" not in shown
    assert pieces[0].startswith(b"[1]")
    assert b"tokens/s" not in pieces[0]
    assert b"tokens/s" in pieces[-1]


def piped(code, lines, *arguments):
    """The output of the command that is given these lines."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=lines,
        capture_output=True,
        text=True,
        env=os.environ | VARIABLES,
    )
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def test_lines_of_a_pipe_are_asked_as_the_command_itself_would_ask_them(model, image):
    arguments = ["--json", "--model", model, "--image", image, "-n", 2, "--max-completion-length", 8]
    printed, said = piped(0, "Which?\n/seed 5\n/answer red\nHow many cubes?\n", *arguments)
    first, second = json.loads(printed.splitlines()[-1])["questions"]
    assert said == ""
    assert printed.startswith("Which?\n[1]")
    alone, _ = vtzero("sample", *arguments, "--seed", 5, "--answer", "red", "How many cubes?")
    alone = json.loads(alone.splitlines()[-1])
    named = ("question", "prompt", "seed", "mean_rewards", "majority")
    assert [second[name] for name in named] == [alone[name] for name in named]
    assert [one["ids"] for one in second["answers"]] == [one["ids"] for one in alone["answers"]]
    assert (first["seed"], first["answer"], first["mean_rewards"]) == (0, None, {})


def test_a_mistake_in_a_pipe_is_told_with_its_line_and_in_the_exit_code(model):
    arguments = ["--json", "--model", model, "-n", 1, "--max-completion-length", 4]
    printed, said = piped(2, "/temperature warm\nWhy?\n", *arguments)
    assert said == "line 1: temperature must be a number, got 'warm'\n"
    figures = json.loads(printed.splitlines()[-1])
    assert (len(figures["questions"]), figures["mistakes"]) == (1, 1)
    assert "no question" in piped(2, "", *arguments)[1]


def test_the_prompt_alone_is_printed_without_reading_weights(model, image, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in model.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).symlink_to(path)
    asked = ["sample", "--model", folder, "--image", image, "--image", image, "--options", "one, two"]
    printed, _ = vtzero(*asked, "--prompt-only", "--json", "--prompt-template", "instruct_plain", "Which?")
    *prompt, counts, last = printed.splitlines()
    figures = json.loads(last)
    assert "\n".join(prompt) + "\n" == figures["prompt"] + "\n"[: not figures["prompt"].endswith("\n")]
    assert (
        prompt[1].endswith("Choose between the following options: one or two<|im_end|>")
        or "Which?" in printed
    )
    assert figures["image_tokens"] == [4, 4]
    assert counts == f"{figures['prompt_tokens']} tokens, 8 of them of images (4 + 4)"
