"""What a compiled program sends between devices, read from its text.

The compiler counts the body of a loop once; here it counts as often as it runs. Text in, numbers out.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
# A line inside may start with a brace too: the metadata of a kernel has line breaks.
_END = re.compile(r"^\}(, execution_thread=\S+)?$")
_COLLECTIVE = re.compile(
    r" = (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_BITS = re.compile(r"(?:b?f|c|[su])(\d+)")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|branch_computations|true_computation|false_computation)=(\{[^}]*\}|%?[\w.\-]+)"
)
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_CONSTANT = re.compile(r"%?([\w.\-]+) = [su]32\[\]\S* constant\((\d+)\)")
_BELOW = re.compile(r"ROOT .* compare\(%?[\w.\-]+, %?([\w.\-]+)\), direction=LT")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_CHAIN = re.compile(r'chain_id="(\d+)"')
_LISTED_GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]*)\}|\[\d+,(\d+)\])")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
_DEVICES = re.compile(r"(?:num_partitions|replica_count)=(\d+)")


@dataclass(frozen=True)
class Exchange:
    """One collective: the bytes that each device receives by it, and how often it runs.

    Where the compiler spreads it over several fusions, to hide it, they share its `chain`.
    """

    kind: str
    shape: str
    group: int
    received: float
    times: int
    chain: str = ""

    @property
    def total(self) -> float:
        return self.received * self.times


def exchanges(program: str, *, trips: int = 1) -> list[Exchange]:
    """Every collective of a compiled program's text, the largest in all first.

    A loop runs as often as its condition says (a counter from 0, below a constant), else `trips` times; of
    the branches of a condition, the one that exchanges most is taken.

    Raises ValueError for an array of unknown size.
    """
    computations = dict(_computations(program.splitlines()))
    entry = next(name for name, (is_entry, _) in computations.items() if is_entry)
    devices = math.prod(int(count) for count in _DEVICES.findall(program.partition("\n")[0]))

    @cache
    def inside(name: str) -> tuple[Exchange, ...]:
        """Those of one run of a computation."""
        found: list[Exchange] = []
        for line in computations[name][1]:
            if exchange := _exchange(line, name, devices):
                found.append(exchange)
                continue
            called = [inside(other) for other in _called(line) if other in computations]
            if " conditional(" in line:
                called = [max(called, key=_total, default=())]
            times = _times(line, computations, trips)
            here = (one for other in called for one in other)
            # A part of a chain is one until the chain is whole, which it is where no fusion is around it.
            in_fusion = " fusion(" in line
            found += [
                replace(one, times=one.times * times, chain=one.chain if in_fusion else "") for one in here
            ]
        return _whole(found)

    return sorted(inside(entry), key=lambda one: -one.total)


def _whole(found: Sequence[Exchange]) -> tuple[Exchange, ...]:
    """Each chain once. A channel is no sign of one: copies of an unrolled loop's body share theirs."""
    parts = {one.chain or number: one for number, one in enumerate(found)}
    return tuple(parts.values())


def _total(found: Sequence[Exchange]) -> float:
    return sum(one.total for one in found)


def _computations(lines: list[str]) -> Iterator[tuple[str, tuple[bool, tuple[str, ...]]]]:
    name, is_entry = "", False
    body: list[str] = []
    for line in lines:
        if match := _COMPUTATION.match(line):
            is_entry, name, body = bool(match[1]), match[2], []
        elif name and _END.match(line):
            yield name, (is_entry, tuple(body))
            name = ""
        else:
            body.append(line)


def _called(line: str) -> list[str]:
    if " async-update(" in line or " async-done(" in line:  # its start has called it
        return []
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


def _exchange(line: str, computation: str, devices: int) -> Exchange | None:
    match = _COLLECTIVE.search(line)
    if match is None:
        return None
    result, kind = match[1], match[2]
    # What starts an exchange returns (operands, results, ...), but for a sum, which returns its results.
    if match[3] and kind != "all-reduce":
        result = _elements(result)[1]
    size, group = sum(_size(*array) for array in _ARRAY.findall(result)), _group(line, devices)
    if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
        kind, size = "reduce-scatter", size / group  # a fusion that sums and keeps the device's own part
    received = {
        "all-gather": size * (group - 1) / group,
        "all-reduce": 2 * size * (group - 1) / group,
        "reduce-scatter": size * (group - 1),
        "all-to-all": size * (group - 1) / group,
        "collective-permute": size,
    }[kind]
    channel, chain = _CHANNEL.search(line), _CHAIN.search(line)
    name = f"{channel[1] if channel else ''}/{chain[1]}" if chain else ""
    return Exchange(kind, result.split("{")[0], group, received, 1, name)


def _elements(result: str) -> list[str]:
    """The outermost parts of a tuple's type."""
    parts, depth = [""], 0
    for letter in result.removeprefix("("):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _group(line: str, devices: int) -> int:
    """How many devices exchange with each other; all of them where the line does not say."""
    if mesh := _MESH_GROUPS.search(line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        # 'a':(2)4 is the part of axis a that has 4 devices.
        named = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part or sizes[axis]) for axis, part in named)
    match = _LISTED_GROUPS.search(line)
    if match is None:
        return devices
    return int(match[2]) if match[2] else match[1].count(",") + 1


def _size(dtype: str, axes: str) -> float:
    """Bytes of an array; those of less than a byte a number are packed."""
    return _bits(dtype) * math.prod(int(axis) for axis in axes.split(",") if axis) / 8


def _bits(dtype: str) -> int:
    if dtype in ("pred", "token"):
        return 8 if dtype == "pred" else 0
    match = _BITS.match(dtype)
    if match is None:
        raise ValueError(f"a collective exchanges arrays of {dtype!r}, whose size plan does not know")
    return int(match[1])
