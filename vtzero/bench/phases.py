"""The phases of a step, each compiled, timed and laid beside its work."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from time import perf_counter
from typing import Any

import jax

from vtzero.bench.programs import Programs
from vtzero.grpo.step import Rollout
from vtzero.models.qwen2_vl import costs
from vtzero.models.qwen2_vl.inputs import Prompts
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
    """Compile `function` (jitted here, unless it is already) for these arguments."""
    jitted: Any = function if hasattr(function, "lower") else jax.jit(function)
    start = perf_counter()
    program = jitted.lower(*arguments).compile()
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
    """Time the phases named in `only`, in the order of `PHASES`; the programs' weights are used up.

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
    def _see(self) -> Compiled:
        return compiled(self._programs.see, self._programs.weights, self._programs.prompts)

    @cached_property
    def _prompts(self) -> Prompts:
        """What every phase after the first reads."""
        programs = self._programs
        return self._see.run(programs.weights, programs.prompts) if programs.sees_once else programs.prompts

    @cached_property
    def _sample(self) -> Compiled:
        programs = self._programs
        return compiled(programs.sample, programs.weights, self._prompts, programs.keys)

    def vision(self) -> Phase:
        programs = self._programs
        return self._timed("vision", lambda: self._see.run(programs.weights, programs.prompts), self._see)

    def prefill(self) -> Phase:
        arguments = (self._programs.weights, self._prompts)
        program = compiled(self._programs.prefill, *arguments)
        return self._timed("prefill", lambda: program.run(*arguments), program)

    def decode(self, prefill_seconds: float) -> Phase:
        arguments = (self._programs.weights, self._prompts, self._programs.keys)
        whole = self._timed("decode", lambda: self._sample.run(*arguments), self._sample)
        return replace(whole, seconds=max(whole.seconds - prefill_seconds, 0.0))

    def trained(self, only: Collection[str]) -> Iterator[Phase]:
        """Scoring, the update and the whole step, which work on one rollout."""
        programs = self._programs
        prepare = jax.jit(programs.rollout)
        drawn = self._sample.run(programs.weights, self._prompts, programs.keys)
        rollout = prepare(self._prompts, drawn)
        score = compiled(programs.score, programs.weights, rollout)
        if "score" in only:
            yield self._timed("score", lambda: score.run(programs.weights, rollout), score)
        if not {"update", "step"} & set(only):
            return
        logps = score.run(programs.weights, rollout)
        rollout = programs.with_logps(rollout, [logps] * programs.scorings)
        reference = programs.new_reference()
        state, tokens = programs.new_state(), rollout.mask.sum()
        update = compiled(programs.update(), state, rollout, tokens)

        def learn(rollout: Rollout = rollout) -> Any:
            nonlocal state
            state, metrics = update.run(state, rollout, tokens)
            return metrics

        def step() -> Any:
            weights = (state.trainable, state.frozen)
            prompts = self._see.run(weights, programs.prompts) if programs.sees_once else programs.prompts
            scored = prepare(prompts, self._sample.run(weights, prompts, programs.keys))
            scorers = programs.scored_with(state.trainable, reference)
            logps = [score.run((trainable, state.frozen), scored) for trainable in scorers]
            scored = programs.with_logps(scored, logps)
            return [learn(scored) for _ in range(programs.config.num_iterations)]

        if "update" in only:
            yield self._timed("update", learn, update)
        if "step" in only:
            yield self._timed("step", step, update, self._sample, score)

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

    Where the images are encoded once a step, that is the phase `vision`, and no other has it in it.
    """
    config, model, lengths = programs.config, programs.model, programs.shapes.lengths
    if programs.sees_once and name != "vision":
        lengths = replace(lengths, images=())
    size, freeze, replicas = programs.dtype.itemsize, config.freeze, readers(programs.mesh)
    if name == "vision":
        counts = costs.parameters(model)
        patches = sum(lengths.images) * model.vision.patch_dim
        flops = costs.encode(model.vision, lengths.images).total
        return flops, (replicas * (counts["vision"] + counts["merger"]) + patches) * size
    if name == "prefill":
        return costs.prefill(model, lengths), costs.prefill_bytes(model, lengths, size, replicas=replicas)
    if name == "decode":
        return costs.decode(model, lengths), costs.decode_bytes(model, lengths, size, replicas=replicas)
    if name == "score":
        return costs.score(model, lengths), costs.score_bytes(model, lengths, size, replicas=replicas)
    if name == "update":
        micro_batches = config.gradient_accumulation_steps or 1
        copies = programs.mesh.shape["data"]
        moved = costs.update_bytes(
            model, lengths, size, freeze, micro_batches, replicas=replicas, copies=copies
        )
        return costs.update(model, lengths, freeze), moved
    times = {"prefill": 1, "decode": 1, "score": programs.scorings, "update": config.num_iterations}
    times |= {"vision": 1} if programs.sees_once else {}
    parts = [(count, work(programs, part)) for part, count in times.items()]
    return sum(count * flops for count, (flops, _) in parts), sum(
        count * moved for count, (_, moved) in parts
    )
