"""Questions one after another, typed at a terminal or read from a pipe, and commands that change how they are
asked. Knows lines and settings; what an answer is, and how it looks, is `answers.py`'s.
"""

import shlex
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vtzero.data.images import open_image
from vtzero.data.prompts import TEMPLATES
from vtzero.evaluation.rescore import parse_choices
from vtzero.failures import MISTAKE, described
from vtzero.inference.answers import Answerer, Asking
from vtzero.signals import Signalled, caught
from vtzero.terminal import one_line, visible

PROMPT = "> "


@dataclass(frozen=True)
class Command:
    """What a line such as `/seed 3` does: from the settings and its argument to other settings."""

    argument: str
    help: str
    change: Callable[[Asking, str], Asking]


class Dialogue:
    """The settings as they are now, and every question with its answers so far."""

    def __init__(self, answerer: Answerer, asking: Asking):
        self.asking = asking
        self.answered: list[dict[str, Any]] = []
        self.mistakes = 0
        self._answerer, self._last = answerer, ""

    def ask(self, question: str) -> None:
        """Answer a question; it is what /again asks again."""
        self._last = question
        self.answered.append(self._answerer.answer(question, self.asking))

    def at_terminal(self) -> None:
        """Until /quit or Ctrl-D; a mistake costs one line, Ctrl-C the line or the answers under way."""
        with suppress(ImportError):
            import readline  # noqa: F401  # gives `input` its history and its editing
        self._answerer.load()
        print("A question, or /help. Ctrl-C stops an answer, Ctrl-D leaves.", flush=True)
        while True:
            try:
                line = input(PROMPT)
                if not self._obey(line):
                    return
            except EOFError:
                print()
                return
            except Signalled as signalled:  # Ctrl-C ends the answers under way, SIGTERM the dialogue
                caught()
                if signalled.number == signal.SIGTERM:
                    raise
                print(flush=True)
            except Exception as error:
                self._tell(error, "")

    def from_pipe(self) -> None:
        """Each line of standard input; what is wrong with one is told with its number, and the rest asked.

        Raises ValueError when there is no line.
        """
        self._answerer.load()
        sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
        number = 0
        for number, line in enumerate(sys.stdin, 1):
            try:
                if not self._obey(line):
                    return
            except Exception as error:
                self._tell(error, f"line {number}: ")
        if not number:
            raise ValueError("no question: give one, or write some to standard input, one a line")

    def _obey(self, line: str) -> bool:
        """Do what a line says; False where it says to leave."""
        line = line.strip()
        name, _, argument = line.partition(" ")
        if not line:
            return True
        if name in ("/quit", "/exit"):
            return False
        if not name.startswith("/"):
            self._echo(line)
            self.ask(line)
        elif name == "/help":
            print(help_text(self.asking), flush=True)
        elif name == "/again":
            self._again()
        else:
            self.asking = changed(self.asking, name, argument.strip())
        return True

    def _again(self) -> None:
        if not self._last:
            raise ValueError("/again: nothing was asked yet")
        self.asking = replace(self.asking, seed=self.asking.seed + 1)
        self.ask(self._last)

    def _echo(self, line: str) -> None:
        """A question that nobody typed here stands above its answers all the same."""
        if not sys.stdin.isatty():
            print(visible(line), flush=True)

    def _tell(self, error: Exception, where: str) -> None:
        """A person's mistake in one line; anything else ends the dialogue."""
        code, line = described(error)
        if code != MISTAKE or line is None:
            raise error
        self.mistakes += 1
        print(f"{where}{line}", file=sys.stderr, flush=True)


def changed(asking: Asking, name: str, argument: str) -> Asking:
    """The settings after a command such as `/seed` with its argument.

    Raises ValueError for a command that does not exist, or a value it cannot have.
    """
    if name not in COMMANDS:
        raise ValueError(f"there is no command {name}; /help lists them")
    return COMMANDS[name].change(asking, argument)


def help_text(asking: Asking) -> str:
    """Every command, and the settings as they are."""
    rows = [(f"{name} {command.argument}".rstrip(), command.help) for name, command in COMMANDS.items()]
    rows += [
        ("/again", "the last question once more, with the next seed"),
        ("/help", "this"),
        ("/quit", "leave, as Ctrl-D does"),
    ]
    width = max(len(usage) for usage, _ in rows)
    lines = [f"  {usage:<{width}}  {text}" for usage, text in rows]
    return "\n".join([*lines, f"now: {one_line(_settings(asking))}"])


def _settings(asking: Asking) -> str:
    values = {
        "image": " ".join(map(str, asking.images)) or None,
        "options": ", ".join(asking.options) or None,
        "answer": asking.answer,
        "prompt": asking.prompt_template,
        "n": asking.count,
        "temperature": asking.temperature,
        "seed": asking.seed,
        "reward": ",".join(asking.reward_names) or None,
        "raw": "on" if asking.raw else None,
    }
    return "; ".join(f"{name} {value}" for name, value in values.items() if value is not None)


def _images(asking: Asking, argument: str) -> Asking:
    """One path with spaces in it as it stands, or several as a shell would read them."""
    try:
        names = [argument] if Path(argument).is_file() else shlex.split(argument)
    except ValueError as error:
        raise ValueError(f"/image: {error}") from None
    paths = tuple(Path(name).expanduser() for name in names)
    for path in paths:
        open_image(path)
    return replace(asking, images=paths)


def _number(kind: type[int] | type[float], name: str) -> Callable[[Asking, str], Asking]:
    def change(asking: Asking, argument: str) -> Asking:
        try:
            value = kind(argument)
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise ValueError(f"{name} must be {wanted}, got {argument!r}") from None
        return _with(asking, name, value)

    return change


def _text(name: str) -> Callable[[Asking, str], Asking]:
    return lambda asking, argument: _with(asking, name, argument or None)


def _with(asking: Asking, name: str, value: Any) -> Asking:
    keys: Mapping[str, Any] = {name: value}
    return replace(asking, **keys)


def _template(asking: Asking, argument: str) -> Asking:
    if not argument:
        raise ValueError(f"/prompt: name one of {', '.join(TEMPLATES)}")
    return replace(asking, prompt_template=argument)


def _rewards(asking: Asking, argument: str) -> Asking:
    return replace(asking, rewards=parse_names(argument) if argument else None)


def parse_names(text: str) -> tuple[str, ...]:
    """Names with commas between."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


COMMANDS: Mapping[str, Command] = {
    "/image": Command("FILE …", "the pictures of the next questions; without a file none", _images),
    "/options": Command(
        "A, B", "options: commas between; none", lambda now, text: replace(now, options=_options(text))
    ),
    "/answer": Command("TEXT", "the right answer: each answer is then scored; none", _text("answer")),
    "/reward": Command("NAME,…", "the rewards that score them", _rewards),
    "/prompt": Command("NAME", "the prompt template", _template),
    "/n": Command("N", "how many answers", _number(int, "num_generations")),
    "/temperature": Command("T", "0 is greedy", _number(float, "temperature")),
    "/top-k": Command("K", "0 turns it off", _number(int, "top_k")),
    "/top-p": Command("P", "1 turns it off", _number(float, "top_p")),
    "/min-p": Command("P", "0 turns it off", _number(float, "min_p")),
    "/repetition-penalty": Command("R", "1 turns it off", _number(float, "repetition_penalty")),
    "/seed": Command("N", "the same seed draws the same answers", _number(int, "seed")),
    "/raw": Command("", "tokens one a line, or text again", lambda now, _: replace(now, raw=not now.raw)),
}


def _options(text: str) -> tuple[str, ...]:
    return tuple(parse_choices(text))
