"""Choices that are no single key of a config, each against its plain form: short answers, filters."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vtzero.bench.comparisons import Difference
from vtzero.bench.phases import Compiled, compiled, median_time
from vtzero.bench.programs import Programs
from vtzero.grpo.packing import Cut, Layout, arrange, choose_layout, layouts
from vtzero.sampling.threshold import first_of_nucleus, kth_greatest

SHARES = (0.5, 0.25)
"""Of the greatest length: what the answers of the comparison `short` have."""
TOP_K, TOP_P = 50, 0.9


def compare_short(programs: Programs, repeats: int) -> Iterator[Difference]:
    """Scoring and update of short answers: on the whole grid, on a cut one, and packed.

    Runs inside `jax.set_mesh(programs.mesh)`; the programs' weights are used up.
    """
    timed = partial(_short_times, programs, repeats)
    shapes = programs.shapes
    for length in sorted({max(round(share * shapes.completion), 1) for share in SHARES}, reverse=True):
        lengths = np.full((shapes.batch, shapes.group), length)
        allowed: dict[str, Sequence[Layout | Cut]] = {
            "cut": [Cut(shapes.group, length)],
            "packed": layouts(shapes.group, shapes.completion),
        }
        baseline = timed(length, None)
        for name, layouts_of in allowed.items():
            layout = choose_layout(lengths, layouts_of)
            if layout is None:
                continue
            changed = timed(length, arrange(lengths, shapes.completion, layout))
            for phase, (seconds, memory) in changed.items():
                yield Difference(
                    comparison="short",
                    key=f"answers of {length}",
                    baseline_value="grid",
                    value=f"{name}, {layout}",
                    phase=phase,
                    baseline_seconds=baseline[phase][0],
                    seconds=seconds,
                    baseline_memory=baseline[phase][1],
                    memory=memory,
                )


def _short_times(
    programs: Programs, repeats: int, length: int, packing: Any
) -> dict[str, tuple[float, int | None]]:
    """Seconds and bytes of scoring and of an update whose answers all have `length` tokens."""
    rollout = programs.made_up_rollout(length, packing)
    state = programs.state()
    weights = (state.trainable, state.frozen)
    score = compiled(programs.score, weights, rollout)
    times = {"score": (median_time(lambda: score.run(weights, rollout), repeats), score.memory)}
    rollout = programs.with_logps(rollout, [score.run(weights, rollout)] * programs.scorings)
    tokens = rollout.mask.sum()
    update = compiled(programs.update(), state, rollout, tokens)

    def learn() -> Any:
        state, metrics = update.run(programs.state(), rollout, tokens)
        programs.keep(state)
        return metrics

    return times | {"update": (median_time(learn, repeats), update.memory)}


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
