"""The phases of a step, each compiled, timed and laid beside its work."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from time import perf_counter
from typing import Any

import jax

from vtzero.bench.programs import Programs
from vtzero.models.qwen2_vl import costs
from vtzero.parallel.sharding import readers

PHASES = ("vision", "prefill", "decode", "score", "update", "step")


@dataclass(frozen=True)
class Phase:
    """What a phase took and what it had to do, over all devices.

    `tokens` are those it read or drew (of vision: patches), `completions` those it dealt with; `memory` is
    what its program needs on one device, in bytes (arguments, results and temporaries by the compiler's
    count), and `compile_seconds` the time until it could run.
    """

    name: str
    seconds: float
    compile_seconds: float
    flops: float
    bytes: float
    tokens: int
    completions: int
    memory: int | None


@dataclass(frozen=True)
class Compiled:
    """A compiled program, the seconds that took, and the compiler's count of its memory and operations."""

    run: Callable[..., Any]
    seconds: float
    memory: int | None
    flops: float


def compiled(function: Callable[..., Any], *arguments: Any) -> Compiled:
    """Compile `function`, jitted here, for these arguments."""
    return compile_traced(lambda: jax.jit(function).lower(*arguments).compile)


def compile_traced(trace: Callable[[], Callable[[], Any]]) -> Compiled:
    """Trace and compile, as `Phases.programs` gives it."""
    start = perf_counter()
    program = trace()()
    seconds = perf_counter() - start
    flops = float((program.cost_analysis() or {}).get("flops", 0.0))
    return Compiled(program, seconds, _memory(program.memory_analysis()), flops)


def _memory(analysis: Any) -> int | None:
    if analysis is None:
        return None
    held = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return int(held + analysis.temp_size_in_bytes)


def median_time(run: Callable[[], Any], repeats: int) -> float:
    """Median seconds of `run` to its last array, after one call that counts for nothing."""
    return times_in_turns([run], repeats)[0]


def times_in_turns(runs: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Median seconds of each of `runs`, which take turns: a machine that slows down slows all alike."""
    for run in runs:
        jax.block_until_ready(run())
    turns = [[_timed(run) for run in runs] for _ in range(repeats)]
    return [median(times) for times in zip(*turns, strict=True)]


def _timed(run: Callable[[], Any]) -> float:
    start = perf_counter()
    jax.block_until_ready(run())
    return perf_counter() - start


def measure_phases(programs: Programs, only: Collection[str], repeats: int) -> Iterator[Phase]:
    """Time the phases named in `only`, in the order of `PHASES`.

    Runs inside `jax.set_mesh(programs.mesh)`. Decoding is a whole rollout less its prefill, since no program
    of a run decodes alone.
    """
    timer = _Timer(programs, repeats)
    if "vision" in only and programs.shapes.grids:
        yield timer.vision()
    if {"prefill", "decode"} & set(only):
        prefill = timer.prefill()
        if "prefill" in only:
            yield prefill
        if "decode" in only:
            yield timer.decode(prefill.seconds)
    if {"score", "update", "step"} & set(only):
        yield from timer.trained(only)


class _Timer:
    """Times programs; the sampler, which several phases need, is compiled once."""

    def __init__(self, programs: Programs, repeats: int):
        self._programs, self._repeats = programs, repeats

    @cached_property
    def _sample(self) -> Compiled:
        return self._compiled("sampling")

    def _compiled(self, phase: str) -> Compiled:
        return compile_traced(self._programs.traced(phase))

    def vision(self) -> Phase:
        """Of a run that encodes its images once a step its own program, else one made for the bench."""
        programs = self._programs
        if programs.phases.seen is None:
            arguments = (programs.weights, programs.prompts)
            look = compiled(programs.look, *arguments)
            return self._timed("vision", lambda: look.run(*arguments), look)
        see = self._compiled("vision")
        return self._timed("vision", lambda: programs.phases.see(programs.state, programs.prompts), see)

    def prefill(self) -> Phase:
        arguments = (self._programs.weights, self._programs.seen)
        program = compiled(self._programs.prefill, *arguments)
        return self._timed("prefill", lambda: program.run(*arguments), program)

    def decode(self, prefill_seconds: float) -> Phase:
        programs = self._programs
        whole = self._timed("decode", lambda: programs.draw(programs.seen), self._sample)
        return replace(whole, seconds=max(whole.seconds - prefill_seconds, 0.0))

    def trained(self, only: Collection[str]) -> Iterator[Phase]:
        """Scoring, the update and the whole step; the first two work on one rollout."""
        programs, sample, score = self._programs, self._sample, self._compiled("scoring")
        programs.begin_updates()
        rollout, tokens = programs.rollout(programs.seen, programs.draw(programs.seen))
        if "score" in only:
            yield self._timed("score", lambda: programs.score(rollout), score)
        if not {"update", "step"} & set(only):
            return
        update = self._compiled("update")
        if "update" in only:
            yield self._timed("update", lambda: programs.learn(rollout, tokens), update)
        if "step" in only:
            yield self._timed("step", programs.step, update, sample, score)

    def _timed(self, name: str, run: Callable[[], Any], *used: Compiled) -> Phase:
        return _phase(self._programs, name, median_time(run, self._repeats), used)


def _phase(programs: Programs, name: str, seconds: float, used: Sequence[Compiled]) -> Phase:
    shapes = programs.shapes
    completions = shapes.batch * shapes.group
    drawn, read = completions * shapes.completion, shapes.batch * shapes.prompt
    tokens = {"vision": shapes.batch * shapes.patches, "prefill": read, "decode": drawn}
    memories = [program.memory for program in used if program.memory is not None]
    flops, moved = work(programs, name)
    return Phase(
        name=name,
        seconds=seconds,
        compile_seconds=sum(program.seconds for program in used),
        flops=flops,
        bytes=moved,
        tokens=tokens.get(name, read + drawn),
        completions=completions,
        memory=max(memories, default=None),
    )


def work(programs: Programs, name: str) -> tuple[int, int]:
    """Operations and bytes of a phase; those of the step are the sums of its parts.

    What is made of the images once a step is the phase `vision`, and no other has it in it.
    """
    config, model, seen = programs.config, programs.model, programs.phases.seen
    lengths = replace(programs.shapes.lengths, seen=seen)
    size, freeze, replicas = programs.dtype.itemsize, config.freeze, readers(programs.mesh)
    if name == "vision":
        far = seen or "features"
        moved = costs.see_bytes(model, lengths.images, size, far, replicas=replicas)
        return costs.see(model, lengths.images, far), moved
    if name == "prefill":
        return costs.prefill(model, lengths), costs.prefill_bytes(model, lengths, size, replicas=replicas)
    if name == "decode":
        return costs.decode(model, lengths), costs.decode_bytes(model, lengths, size, replicas=replicas)
    if name == "score":
        return costs.score(model, lengths), costs.score_bytes(model, lengths, size, replicas=replicas)
    if name == "update":
        micro_batches = programs.phases.micro_batches or 1
        copies = programs.mesh.shape["data"]
        moved = costs.update_bytes(
            model, lengths, size, freeze, micro_batches, replicas=replicas, copies=copies
        )
        return costs.update(model, lengths, freeze), moved
    times = {"prefill": 1, "decode": 1, "score": programs.scorings, "update": config.num_iterations}
    times |= {"vision": 1} if seen else {}
    parts = [(count, work(programs, part)) for part, count in times.items()]
    return sum(count * flops for count, (flops, _) in parts), sum(
        count * moved for count, (_, moved) in parts
    )
