"""What a decoded token costs as the answer grows, against a cache that holds just what must be read."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import jax

from vtzero.bench.programs import Programs
from vtzero.models.qwen2_vl import costs
from vtzero.parallel.sharding import readers
from vtzero.training.ceilings import Limits

LENGTHS = (32, 64, 128, 256, 640)
"""Just after these the run's own cache has grown, and has the most slots that are not in use yet."""
_WINDOW = 16
_TURNS = 4


@dataclass(frozen=True)
class Growth:
    """Seconds a token of the 16 that follow after `length`, over the whole batch.

    `seconds` in the run's loop, whose answers may grow to the longest length; `fixed` in one whose cache has
    the longest length from the start; `exact` in one whose cache ends with these tokens; `floor` is what
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
    """Time the tokens after each length; runs inside `jax.set_mesh(programs.mesh)`."""
    room = max(programs.shapes.completion, max(lengths) + _WINDOW)
    grows, fixed = _Loop(programs, room), _Loop(programs, room, grows=False)
    rows = []
    for length in sorted(lengths):
        exact = _Loop(programs, length + _WINDOW, grows=False)
        own, full, alone = _after(length, (grows, fixed, exact), repeats)
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


def _after(length: int, loops: Sequence[_Loop], repeats: int) -> list[float]:
    """Seconds a token of those after `length`, in each loop.

    In turns, so that a machine that slows down slows all alike, and the least of each, since the rest is
    noise, of which a short window has much.
    """
    for loop in loops:
        loop.time(1)
    ends = length, length + _WINDOW
    times = [[[loop.time(end) for end in ends] for loop in loops] for _ in range(_TURNS * repeats)]
    least = [[min(times) for times in zip(*of_loop, strict=True)] for of_loop in zip(*times, strict=True)]
    return [(long - short) / _WINDOW for short, long in least]


def _floor(programs: Programs, limits: Limits, length: int) -> float:
    shapes, devices = programs.shapes, programs.mesh.size
    sizes = (shapes.batch, shapes.group, shapes.prompt, length)
    flops = costs.decode_token(programs.model, *sizes)
    size, replicas = programs.dtype.itemsize, readers(programs.mesh)
    moved = costs.decode_token_bytes(programs.model, *sizes, size, replicas=replicas)
    return max(flops / (limits.flops * devices), moved / (limits.bandwidth * devices))
