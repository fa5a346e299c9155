"""What a compiled program sends between devices, read from its text.

The compiler counts the body of a loop once; here it counts as often as it runs. Text in, numbers out.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_COLLECTIVE = re.compile(
    r" = (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_CONSTANT = re.compile(r"%?([\w.\-]+) = s32\[\]\S* constant\((\d+)\)")
_BELOW = re.compile(r"ROOT .* compare\(%?[\w.\-]+, %?([\w.\-]+)\), direction=LT")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_GROUPS = re.compile(r"replica_groups=(\{\{[\d,]*\}|\[\d+,(\d+)\])")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}
_BYTES |= {"f64": 8, "s64": 8, "u64": 8}


@dataclass(frozen=True)
class Exchange:
    """One collective: the bytes that each device receives by it, and how often it runs."""

    kind: str
    shape: str
    group: int
    received: float
    times: int
    channel: str = ""

    @property
    def total(self) -> float:
        return self.received * self.times


def exchanges(program: str, *, trips: int = 1) -> list[Exchange]:
    """Every collective of a compiled program's text, the largest in all first.

    A loop runs as often as its condition says (a counter from 0, below a constant), else `trips` times. A
    collective that the compiler spreads over several fusions, to hide it, is one: they share its channel.
    """
    computations = dict(_computations(program.splitlines()))
    entry = next(name for name, (is_entry, _) in computations.items() if is_entry)

    @cache
    def inside(name: str) -> tuple[Exchange, ...]:
        found: dict[str, Exchange] = {}
        for number, line in enumerate(computations.get(name, (False, ()))[1]):
            if exchange := _exchange(line):
                found.setdefault(exchange.channel or f"{name} {number}", exchange)
                continue
            times = _times(line, computations, trips)
            for called in _called(line):
                for one in inside(called):
                    key = one.channel or f"{name} {number} {len(found)}"
                    found.setdefault(key, replace(one, times=one.times * times))
        return tuple(found.values())

    return sorted(inside(entry), key=lambda one: -one.total)


def _computations(lines: list[str]) -> Iterator[tuple[str, tuple[bool, tuple[str, ...]]]]:
    name, is_entry = "", False
    body: list[str] = []
    for line in lines:
        if match := _COMPUTATION.match(line):
            is_entry, name, body = bool(match[1]), match[2], []
        elif line.startswith("}") and name:
            yield name, (is_entry, tuple(body))
            name = ""
        else:
            body.append(line)


def _called(line: str) -> list[str]:
    return [name for group in _CALLED.findall(line) for name in re.findall(r"[\w.\-]+", group)]


def _times(line: str, computations: Mapping[str, tuple[bool, tuple[str, ...]]], trips: int) -> int:
    """How often what a line calls runs."""
    if " while(" not in line:
        return 1
    condition = _CONDITION.search(line)
    lines = computations[condition[1]][1] if condition else ()
    constants = {found[1]: found[2] for text in lines if (found := _CONSTANT.search(text))}
    bounds = [constants.get(found[1]) for text in lines if (found := _BELOW.search(text))]
    return int(bounds[0]) if bounds and bounds[0] is not None else trips


def _exchange(line: str) -> Exchange | None:
    match = _COLLECTIVE.search(line)
    if match is None:
        return None
    result, kind, start = match[1], match[2], match[3]
    sizes = [_size(*array) for array in _ARRAY.findall(result)]
    group = _group(line)
    # What starts an exchange returns its operands beside its results.
    if start and kind in ("all-gather", "collective-permute"):
        size = max(sizes)
    elif start and kind == "all-reduce" and result.startswith("(") and len(sizes) % 2 == 0:
        size = sum(sizes) // 2 if "((" in result else sum(sizes)
    else:
        size = sum(sizes)
    others = group - 1
    received = {
        "all-gather": size * others / group,
        "all-reduce": 2 * size * others / group,
        "reduce-scatter": size * others,
        "all-to-all": size * others / group,
        "collective-permute": size,
    }[kind]
    channel = _CHANNEL.search(line)
    return Exchange(kind, result.split("{")[0], group, received, 1, channel[1] if channel else "")


def _group(line: str) -> int:
    """How many devices exchange with each other; 2 where the line names pairs."""
    if mesh := _MESH_GROUPS.search(line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
    match = _GROUPS.search(line)
    if match is None:
        return 2
    return int(match[2]) if match[2] else match[1].count(",") + 1


def _size(dtype: str, axes: str) -> int:
    count = 1
    for axis in filter(None, axes.split(",")):
        count *= int(axis)
    return count * _BYTES.get(dtype, 0)
