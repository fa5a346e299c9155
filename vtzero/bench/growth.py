"""What a decoded token costs as the answer grows, against a cache that holds just what must be read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import jax

from vtzero.bench.phases import compiled
from vtzero.bench.programs import Programs
from vtzero.models.qwen2_vl import costs
from vtzero.training.ceilings import Limits

LENGTHS = (32, 128, 320, 640)


@dataclass(frozen=True)
class Growth:
    """Seconds a token of the last quarter before `length`, over the whole batch.

    `seconds` in the loop whose answers may grow to the longest length; `exact` in one whose cache has just
    `length` slots; `floor` is what operations and bytes allow.
    """

    length: int
    seconds: float
    exact: float
    floor: float

    @property
    def overhead(self) -> float:
        """How much longer than what must be read: 0.2 is a fifth."""
        return self.seconds / self.exact - 1


def measure_growth(programs: Programs, limits: Limits, lengths: Sequence[int], repeats: int) -> list[Growth]:
    """Time tokens around each length; runs inside `jax.set_mesh(programs.mesh)`."""
    longest = _Loop(programs, max(lengths))
    rows = []
    for length in sorted(lengths):
        exact = _Loop(programs, length)
        seconds, alone = longest.around(length, repeats), exact.around(length, repeats)
        rows.append(Growth(length, seconds, alone, _floor(programs, limits, length)))
    return rows


class _Loop:
    """The sampler's loop with room for some tokens, compiled."""

    def __init__(self, programs: Programs, room: int):
        self._arguments = (programs.weights, programs.prompts, programs.keys)
        self._run: Callable[..., Any] = compiled(programs.sample_until(room), *self._arguments, room).run

    def around(self, length: int, repeats: int) -> float:
        """Seconds a token of the last quarter before `length`: the least of each, since the rest is noise."""
        start = length - max(length // 4, 1)
        self._time(length)
        times = [(self._time(start), self._time(length)) for _ in range(repeats)]
        return (min(long for _, long in times) - min(short for short, _ in times)) / (length - start)

    def _time(self, tokens: int) -> float:
        start = perf_counter()
        jax.block_until_ready(self._run(*self._arguments, tokens))
        return perf_counter() - start


def _floor(programs: Programs, limits: Limits, length: int) -> float:
    shapes, devices = programs.shapes, programs.mesh.size
    sizes = (shapes.batch, shapes.group, shapes.prompt, length)
    flops = costs.decode_token(programs.model, *sizes)
    moved = costs.decode_token_bytes(programs.model, *sizes, programs.dtype.itemsize)
    return max(flops / (limits.flops * devices), moved / (limits.bandwidth * devices))
