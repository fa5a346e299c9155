"""What the real command prints while it trains: on a terminal, into a pipe, as JSON, and with --quiet."""

import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures.command import options, vtzero
from fixtures.fast_compile import FAST_COMPILE_FLAGS
from fixtures.tiny_folder import make_tiny_folder

from vtzero.training.metrics import read_metrics

CONFIG = Path(__file__).parents[2] / "configs" / "tiny.yaml"
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
SETTINGS = {
    "max_steps": 4,
    "logging_steps": 2,
    "eval_steps": 4,
    "save_steps": 100,
    "prompts_per_step": 2,
    "num_generations": 2,
    "max_completion_length": 6,
    "max_prompt_length": 400,
    "eval_limit": 4,
    "eval_batch_size": 4,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_folder(tmp_path_factory.mktemp("model") / "folder", num_hidden_layers=1)


def arguments(model: Path, out: Path, *flags: str, **changed: Any) -> list[Any]:
    return ["train", CONFIG, *flags, *options(**SETTINGS | {"model": model, "output_dir": out} | changed)]


def test_a_pipe_has_a_line_a_logged_step_and_no_control_characters(model, tmp_path):
    """As `| cat` and a build server have it, whatever forces colours."""
    forced = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "CI": "true"}
    printed, warned = vtzero(*arguments(model, tmp_path), environment=forced)
    lines = printed.splitlines()
    assert all(letter.isprintable() for line in lines for letter in line)
    steps = [line for line in lines if re.match(r"step \d+/4  ", line)]
    assert [line.split("  ")[0] for line in steps] == ["step 2/4", "step 4/4"]
    for said in ("reward ", "length ", "clipped ", "kl ", "tokens/s "):
        assert all(said in line for line in steps)
    assert [line[:7] for line in lines if "held-out accuracy" in line and "done" not in line] == [
        "step 0:",
        "step 4:",
    ]
    assert lines[-3].startswith("done: 4 steps, which took ")
    assert str(tmp_path / "export") in lines[-2]
    assert lines[-1] == f"report: vtzero report {tmp_path}"
    assert warned == ""


def test_json_is_parsed_line_by_line(model, tmp_path):
    printed, _ = vtzero(*arguments(model, tmp_path, "--json", print_completions_steps=4))
    objects = [json.loads(line) for line in printed.splitlines()]
    steps = [one for one in objects[:-1] if "reward" in one]
    assert steps == read_metrics(tmp_path)
    assert [one["step"] for one in objects if "evaluation" in one] == [0, 4]
    assert [one["step"] for one in objects if "completion" in one] == [4]
    assert objects[-1] == json.loads((tmp_path / "summary.json").read_text())
    again, told = vtzero(*arguments(model, tmp_path, "--json", print_completions_steps=4))
    assert [json.loads(line) for line in again.splitlines()] == [objects[-1]]
    assert "has done its 4 steps already" in told


def test_quiet_prints_nothing(model, tmp_path):
    assert vtzero(*arguments(model, tmp_path, "--quiet")) == ("", "")


class Terminal:
    """The command under a pseudo-terminal of 100 columns, and what it has written there."""

    def __init__(self, *command: Any, columns: int = 100, **variables: str):
        self._own, other = os.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        kept = {name: value for name, value in os.environ.items() if name not in ("CI", "COLUMNS", "LINES")}
        needed = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": FAST_COMPILE_FLAGS, "TERM": "xterm-256color"}
        whole = [sys.executable, *map(str, command)]
        ends = {"stdin": other, "stdout": other, "stderr": other}
        self.process = subprocess.Popen(whole, **ends, env=kept | needed | variables, start_new_session=True)
        os.close(other)
        self.written = ""

    def read_until(self, holds: Callable[[str], Any], seconds: float = 240) -> None:
        """Until what is written `holds`, or the process has ended."""
        ends = time.monotonic() + seconds
        while not holds(self.written):
            assert time.monotonic() < ends, self.written[-3000:]
            if not select.select([self._own], [], [], 1)[0]:
                continue
            try:
                self.written += os.read(self._own, 65536).decode(errors="replace")
            except OSError:  # the other end is closed
                return

    def code(self) -> int:
        """Its exit code, once it has ended."""
        self.read_until(lambda _: False)
        return self.process.wait(timeout=60)


def test_a_terminal_has_a_panel_and_keeps_its_cursor_after_sigterm(model, tmp_path):
    asked = arguments(model, tmp_path, max_steps=100_000, lr_scheduler_type="constant", eval_data="null")
    terminal = Terminal("-m", "vtzero.cli", *asked)
    terminal.read_until(lambda written: re.search(r"step [1-9]\d*/100000", written))
    assert "compiling" in terminal.written
    assert terminal.written.count(HIDE) == 1
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.code() == 75
    assert terminal.written.rindex(SHOW) > terminal.written.rindex(HIDE)
    told = terminal.written[terminal.written.rindex(SHOW) :]
    assert "interrupted; the same command goes on after step" in told
    assert read_metrics(tmp_path)


def test_a_narrow_terminal_without_colour_sees_the_run_to_its_end(model, tmp_path):
    asked = arguments(model, tmp_path, print_completions_steps=3, log_completions="false")
    terminal = Terminal("-m", "vtzero.cli", *asked, columns=40, NO_COLOR="1")
    assert terminal.code() == 0
    assert "step 4/4" in terminal.written
    assert terminal.written.count("a completion of") == 1
    assert "step 3, a completion of " in terminal.written
    assert not (tmp_path / "completions").exists()
    codes = {code for found in re.findall(r"\x1b\[([0-9;]*)m", terminal.written) for code in found.split(";")}
    assert codes <= {"", "0", "1", "2", "22"}
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip() for line in terminal.written.splitlines()]
    drawn = [line for line in lines if line.startswith(("│", "╭", "╰"))]
    assert drawn
    assert {len(line) for line in drawn} == {38}
    assert terminal.written.rindex(SHOW) > terminal.written.rindex(HIDE)


@pytest.mark.slow
def test_a_dumb_terminal_has_plain_lines(model, tmp_path):
    terminal = Terminal("-m", "vtzero.cli", *arguments(model, tmp_path, eval_data="null"), TERM="dumb")
    assert terminal.code() == 0
    assert "step 4/4  reward" in terminal.written
    assert "\x1b" not in terminal.written


ENDED = """
import hashlib
from vtzero.training.panel import Panel
from vtzero.training.preemption import StopRequest
panel = Panel(10, 0, "run")
with StopRequest(lambda signals: panel.give_back() if signals > 1 else panel.stopping()) as stop:
    stop.immediate = False
    panel.start()
    panel.notice("listening")
    # C code that does not come back to Python for a minute or so, as a long program of XLA.
    hashlib.pbkdf2_hmac("sha256", b"word", b"salt", 200_000_000)
"""


def test_a_second_signal_gives_the_cursor_back_too():
    terminal = Terminal("-c", ENDED)
    terminal.read_until(lambda written: "listening" in written)
    terminal.process.send_signal(signal.SIGTERM)
    terminal.read_until(lambda written: "a second signal ends it at once" in written)
    assert SHOW not in terminal.written
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.code() == 128 + signal.SIGTERM
    assert terminal.written.rindex(SHOW) > terminal.written.rindex(HIDE)
