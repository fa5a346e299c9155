"""YAML with nothing in it that can surprise: texts, numbers, true, false, null, lists and keys.

Tags, aliases, keys that are there twice, YAML 1.1's octal and base-60 numbers and dates are no part of it.
Knows no config.
"""

import re
from typing import Any

import yaml

from vtzero.terminal import one_line

MOST_CHARACTERS = 2**18
MOST_LEVELS = 8

_PREFIX = "tag:yaml.org,2002:"
_RESOLVERS = (
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    (
        "bool",
        r"true|True|TRUE|false|False|FALSE|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF",
        tuple("tTfFyYnNoO"),
    ),
    ("int", r"[-+]?(0|[1-9][0-9_]*)", tuple("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        tuple("-+.0123456789"),
    ),
)


class PlainYamlError(ValueError):
    """What is wrong with a text, in one line, and where."""


def read(text: str) -> Any:
    """The value of a text.

    Raises PlainYamlError for what is not YAML, not plain, too long or nested too deep.
    """
    if len(text) > MOST_CHARACTERS:
        raise PlainYamlError(f"longer than {MOST_CHARACTERS} characters")
    try:
        return yaml.load(text, _Loader)
    except PlainYamlError:
        raise
    except yaml.YAMLError as error:
        raise PlainYamlError(f"not YAML: {_said(error)}") from None
    except ValueError as error:  # a number of more digits than Python reads
        raise PlainYamlError(one_line(error)) from None


def write(value: Any) -> str:
    """A text that `read` reads back equal; keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


def _said(error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return one_line(error)
    return f"line {mark.line + 1}: {one_line(problem)}"


class _Loader(yaml.SafeLoader):
    """Refuses while it reads: nothing of what an alias or a tag would make is ever made."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def __init__(self, stream: str):
        super().__init__(stream)
        self._level = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            self._refuse(event, f"*{event.anchor} is an alias; write its value out")
        if (tag := getattr(event, "tag", None)) is not None:
            self._refuse(event, f"{tag!r} is a tag; only plain values are read")
        if self._level > MOST_LEVELS:
            self._refuse(event, f"nested deeper than {MOST_LEVELS} levels")
        self._level += 1
        node = super().compose_node(parent, index)
        self._level -= 1
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        return node

    def _refuse(self, event: Any, problem: str) -> None:
        raise PlainYamlError(f"line {event.start_mark.line + 1}: {problem}")


def _check_keys(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise PlainYamlError(f"line {key.start_mark.line + 1}: a key is a list or a section")
        if key.value in seen:
            raise PlainYamlError(f"line {key.start_mark.line + 1}: the key {key.value[:80]!r} is there twice")
        seen.add(key.value)


class _Dumper(yaml.SafeDumper):
    """Puts quotes around every text that this module, or YAML 1.1, would read as something else."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: list(known) for first, known in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


for _name, _pattern, _first in _RESOLVERS:
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(_PREFIX + _name, re.compile(f"(?:{_pattern})$"), list(_first))
