"""Choices that are no single key of a config, each against its plain form: short answers, filters."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vtzero.bench.comparisons import Difference
from vtzero.bench.phases import Compiled, compile_traced, compiled, median_time
from vtzero.bench.programs import Programs
from vtzero.config import ConfigError
from vtzero.sampling.decode import Completions
from vtzero.sampling.threshold import first_of_nucleus, kth_greatest
from vtzero.terminal import short_line
from vtzero.training.phases import program_name

SHARES = (0.5, 0.25)
"""Of the greatest length: what the answers of the comparison `short` have."""
TOP_K, TOP_P = 50, 0.9
_GRID: dict[str, Any] = {"packing": False, "completion_length_buckets": ()}


def compare_short(programs: Programs, repeats: int) -> Iterator[Difference]:
    """Scoring and update of short answers: on the whole grid, on a cut one, and packed.

    Runs inside `jax.set_mesh(programs.mesh)`; leaves the programs with another config.
    """
    longest = programs.shapes.completion
    programs.begin_updates()
    for length in sorted({max(round(share * longest), 1) for share in SHARES} - {longest}, reverse=True):
        drawn = programs.made_up_completions(length)
        programs.change(**_GRID)
        baseline = _short_times(programs, repeats, drawn)
        forms: dict[str, dict[str, Any]] = {
            "cut": {"completion_length_buckets": (length,)},
            "packed": {"packing": True},
        }
        for name, keys in forms.items():
            rows = [
                Difference(
                    comparison="short",
                    key=f"answers of {length}",
                    baseline_value="grid",
                    value=name,
                    phase=phase,
                    baseline_seconds=seconds,
                    baseline_memory=memory,
                )
                for phase, (seconds, memory) in baseline.items()
            ]
            yield from _changed(programs, repeats, drawn, rows, keys)


def _changed(
    programs: Programs, repeats: int, drawn: Completions, rows: list[Difference], keys: dict[str, Any]
) -> list[Difference]:
    """The rows with their times under these keys; none where no layout is worth its compilation."""
    try:
        programs.change(**_GRID | keys)
        layout = programs.layout(drawn)
        times = {} if layout is None else _short_times(programs, repeats, drawn)
    except (ConfigError, jax.errors.JaxRuntimeError) as error:
        return [replace(row, failed=short_line(error)) for row in rows]
    if layout is None:
        return []
    return [
        replace(row, value=f"{row.value}, {layout}", seconds=times[row.phase][0], memory=times[row.phase][1])
        for row in rows
    ]


def _short_times(programs: Programs, repeats: int, drawn: Completions) -> dict[str, tuple[float, int | None]]:
    """Seconds and bytes of scoring and of an update."""
    layout = programs.layout(drawn)
    score, update = (
        compile_traced(programs.traced(program_name(phase, layout))) for phase in ("scoring", "update")
    )
    rollout, tokens = programs.rollout(programs.seen, drawn)
    return {
        "score": (median_time(lambda: programs.score(rollout), repeats), score.memory),
        "update": (median_time(lambda: programs.learn(rollout, tokens), repeats), update.memory),
    }


def compare_filters(rows: int, vocab: int, repeats: int) -> list[Difference]:
    """The sampler's thresholds by search against those by a sort, for one token of `rows` completions."""
    logits = 3 * jax.random.normal(jax.random.key(0), (rows, vocab))
    k, p = min(TOP_K, vocab - 1), TOP_P
    searched = {
        f"top_k {k}": partial(kth_greatest, k=jnp.full((rows, 1), k)),
        f"top_p {p}": partial(first_of_nucleus, top_p=jnp.full((rows, 1), p)),
    }
    sorted_ = {f"top_k {k}": partial(kth_by_sorting, k=k), f"top_p {p}": partial(nucleus_by_sorting, p=p)}
    differences = []
    for name, search in searched.items():
        plain, fast = (_timed(function, logits, repeats) for function in (sorted_[name], search))
        differences.append(
            Difference(
                comparison="filters",
                key=name,
                baseline_value="sort",
                value="search",
                phase="a token",
                baseline_seconds=plain[0],
                seconds=fast[0],
                baseline_memory=plain[1].memory,
                memory=fast[1].memory,
            )
        )
    return differences


def kth_by_sorting(logits: Float[Array, "rows vocab"], k: int) -> Float[Array, "rows 1"]:
    """The k-th greatest logit of each row."""
    return jnp.sort(logits, axis=-1)[:, -k][:, None]


def nucleus_by_sorting(logits: Float[Array, "rows vocab"], p: float) -> Float[Array, "rows 1"]:
    """The least logit that top-p keeps: with those below it, it has more than the mass 1 - p."""
    ascending = jnp.sort(logits, axis=-1)
    mass = jnp.cumsum(jax.nn.softmax(ascending, axis=-1), axis=-1)
    first = jnp.argmax(mass > 1 - p, axis=-1)
    return jnp.take_along_axis(ascending, first[:, None], axis=-1)


def _timed(function: Callable[[Array], Any], logits: Array, repeats: int) -> tuple[float, Compiled]:
    program = compiled(function, logits)
    return median_time(lambda: program.run(logits), repeats), program
