"""What a decoded token costs as the answer grows, against a cache that holds just what must be read."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import jax

from vtzero.bench.programs import Programs
from vtzero.models.qwen2_vl import costs
from vtzero.parallel.sharding import readers
from vtzero.sampling.decode import growing_lengths
from vtzero.training.ceilings import Limits

LENGTHS = (32, 64, 128, 192, 256, 320, 384, 448, 512, 640)
"""Just after these the run's own cache has grown, and has the most slots that are not in use yet."""
_TOKENS = 16
_TURNS = 8


@dataclass(frozen=True)
class Growth:
    """Seconds a token of the 16 that follow after `length`, over the whole batch.

    `seconds` with the cache that a run has there, whose answers may grow to the longest length; `fixed` with
    one of that longest length; `exact` with one that ends with these tokens; `floor` is what operations and
    bytes allow.
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
    longest = max(programs.shapes.completion, max(lengths) + _TOKENS)
    depth = programs.model.text.num_hidden_layers
    rows = []
    for length in sorted(lengths):
        end = length + _TOKENS
        own = next(slots for slots in growing_lengths(longest, depth) if slots >= end)
        caches = {slots: _Tokens(programs, slots) for slots in {own, longest, end}}
        seconds = _in_turns(caches, length, repeats)
        floor = _floor(programs, limits, length)
        rows.append(Growth(length, seconds[own], seconds[longest], seconds[end], floor))
    return rows


class _Tokens:
    """Tokens drawn from the middle of an answer, with a cache of so many slots."""

    def __init__(self, programs: Programs, slots: int):
        self._draw = programs.tokens_from(slots)
        self._arguments = programs.weights, programs.seen

    def time(self, first: int, count: int) -> float:
        start = perf_counter()
        jax.block_until_ready(self._draw(*self._arguments, first, count))
        return perf_counter() - start


def _in_turns(caches: dict[int, _Tokens], length: int, repeats: int) -> dict[int, float]:
    """Seconds a token with each cache, what comes before the first token left out.

    In turns, so that a machine that slows down slows all alike, and the least of each: the rest is noise.
    """
    counts = 0, _TOKENS
    for tokens in caches.values():
        tokens.time(length, _TOKENS)
    times = [
        [[tokens.time(length, count) for count in counts] for tokens in caches.values()]
        for _ in range(_TURNS * repeats)
    ]
    least = [[min(times) for times in zip(*of_cache, strict=True)] for of_cache in zip(*times, strict=True)]
    return {slots: (long - short) / _TOKENS for slots, (short, long) in zip(caches, least, strict=True)}


def _floor(programs: Programs, limits: Limits, length: int) -> float:
    shapes, devices = programs.shapes, programs.mesh.size
    sizes = (shapes.batch, shapes.group, shapes.prompt, length)
    flops = costs.decode_token(programs.model, *sizes)
    size, replicas = programs.dtype.itemsize, readers(programs.mesh)
    moved = costs.decode_token_bytes(programs.model, *sizes, size, replicas=replicas)
    return max(flops / (limits.flops * devices), moved / (limits.bandwidth * devices))
