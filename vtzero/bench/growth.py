"""What a decoded token costs as the answer grows, against a cache that holds just what must be read."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import jax

from vtzero.bench.programs import Programs
from vtzero.models.qwen2_vl import costs
from vtzero.parallel.sharding import readers
from vtzero.training.ceilings import Limits

LENGTHS = (32, 128, 320, 640)
_SHORTEST = 16


@dataclass(frozen=True)
class Growth:
    """Seconds a token of the last quarter (but 16 at least) before `length`, over the whole batch.

    `seconds` in the run's loop, whose answers may grow to the longest length; `fixed` in one whose cache has
    the longest length from the start; `exact` in one whose cache has just `length` slots; `floor` is what
    operations and bytes allow.
    """

    length: int
    seconds: float
    fixed: float
    exact: float
    floor: float

    @property
    def overhead(self) -> float:
        """How much longer than what must be read: 0.2 is a fifth."""
        return self.seconds / self.exact - 1


def measure_growth(programs: Programs, limits: Limits, lengths: Sequence[int], repeats: int) -> list[Growth]:
    """Time tokens around each length; runs inside `jax.set_mesh(programs.mesh)`."""
    longest = max(lengths)
    grows, fixed = _Loop(programs, longest), _Loop(programs, longest, grows=False)
    rows = []
    for length in sorted(lengths):
        exact = fixed if length == longest else _Loop(programs, length, grows=False)
        own, full, alone = _around(length, (grows, fixed, exact), repeats)
        rows.append(Growth(length, own, full, alone, _floor(programs, limits, length)))
    return rows


class _Loop:
    """The sampler with room for some tokens."""

    def __init__(self, programs: Programs, room: int, *, grows: bool = True):
        self._phases = programs.phases_up_to(room, grows=grows)
        self._state, self._prompts = programs.state, programs.seen

    def time(self, tokens: int) -> float:
        start = perf_counter()
        jax.block_until_ready(self._phases.draw(self._state, self._prompts, 1, tokens))
        return perf_counter() - start


def _around(length: int, loops: Sequence[_Loop], repeats: int) -> list[float]:
    """Seconds a token of the last quarter before `length`, in each loop.

    In turns, so that a machine that slows down slows all alike, and the least of each, since the rest is
    noise; of a short window the noise is a greater part, and the turns are more.
    """
    start = max(length - max(length // 4, _SHORTEST), 1)
    repeats *= max(8 * _SHORTEST // (length - start), 2)
    for loop in loops:
        loop.time(1)
    times = [[(loop.time(start), loop.time(length)) for loop in loops] for _ in range(repeats)]
    ends = [[min(times) for times in zip(*of_loop, strict=True)] for of_loop in zip(*times, strict=True)]
    return [(long - short) / (length - start) for short, long in ends]


def _floor(programs: Programs, limits: Limits, length: int) -> float:
    shapes, devices = programs.shapes, programs.mesh.size
    sizes = (shapes.batch, shapes.group, shapes.prompt, length)
    flops = costs.decode_token(programs.model, *sizes)
    size, replicas = programs.dtype.itemsize, readers(programs.mesh)
    moved = costs.decode_token_bytes(programs.model, *sizes, size, replicas=replicas)
    return max(flops / (limits.flops * devices), moved / (limits.bandwidth * devices))
