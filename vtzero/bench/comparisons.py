"""One change at a time: a config key, its values and the phases they should change. Data, then a runner."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax

from vtzero.bench.phases import Phase
from vtzero.config import RunConfig
from vtzero.terminal import short_line

Measure = Callable[[RunConfig, Collection[str]], Mapping[str, Phase]]
"""Times the named phases of a config."""


@dataclass(frozen=True)
class Comparison:
    """`key` of the config is set to each of `values`; the baseline is the config as it stands.

    `given` are keys without which this one changes nothing; they are set in the baseline too.
    """

    name: str
    key: str
    values: tuple[Any, ...]
    phases: tuple[str, ...]
    given: tuple[tuple[str, Any], ...] = ()


COMPARISONS = (
    Comparison(
        "attention", "attention", ("xla", "blocked", "cudnn", "splash"), ("prefill", "score", "update")
    ),
    Comparison("head", "logprob_chunk", (256, 1024, 4096), ("score", "update")),
    Comparison("remat", "gradient_checkpointing", (False, True), ("update",)),
    Comparison(
        "remat_policy",
        "gradient_checkpointing_policy",
        ("full", "dots"),
        ("update",),
        given=(("gradient_checkpointing", True),),
    ),
    Comparison("micro_batches", "gradient_accumulation_steps", (1, 2, 4), ("update",)),
    Comparison("freeze", "freeze", ((), ("vision",), ("vision", "merger")), ("update", "step")),
    Comparison("dtype", "dtype", ("float32", "bfloat16"), ("prefill", "decode", "score", "update")),
)
"""Those by a key of the config; `grouped` and `growth` have files of their own."""


@dataclass(frozen=True)
class Difference:
    """One phase with one key changed; `failed` says why it could not be measured."""

    comparison: str
    key: str
    baseline_value: Any
    value: Any
    phase: str
    baseline_seconds: float | None = None
    seconds: float | None = None
    baseline_memory: int | None = None
    memory: int | None = None
    failed: str = ""

    @property
    def ratio(self) -> float | None:
        """Time after the change over time before."""
        if self.baseline_seconds is None or self.seconds is None:
            return None
        return self.seconds / self.baseline_seconds


def known_comparisons() -> tuple[Comparison, ...]:
    """Those whose key this version's config has."""
    return tuple(c for c in COMPARISONS if c.key in RunConfig.__dataclass_fields__)


def compare(names: Collection[str], config: RunConfig, measure: Measure) -> Iterator[Difference]:
    """Run the comparisons named; a baseline is measured once for all that start from it."""
    chosen = [comparison for comparison in known_comparisons() if comparison.name in names]
    for given in dict.fromkeys(comparison.given for comparison in chosen):
        alike = [comparison for comparison in chosen if comparison.given == given]
        yield from _compare(alike, replace(config, **dict(given)), measure)


def _compare(chosen: Sequence[Comparison], config: RunConfig, measure: Measure) -> Iterator[Difference]:
    baseline = measure(config, sorted({phase for comparison in chosen for phase in comparison.phases}))
    for comparison in chosen:
        for value in comparison.values:
            if value != getattr(config, comparison.key):
                yield from _changed(comparison, value, config, baseline, measure)


def _changed(
    comparison: Comparison, value: Any, config: RunConfig, baseline: Mapping[str, Phase], measure: Measure
) -> list[Difference]:
    before = [
        Difference(
            comparison=comparison.name,
            key=comparison.key,
            baseline_value=getattr(config, comparison.key),
            value=value,
            phase=phase,
            baseline_seconds=baseline[phase].seconds,
            baseline_memory=baseline[phase].memory,
        )
        for phase in comparison.phases
    ]
    try:
        after = measure(replace(config, **{comparison.key: value}), comparison.phases)
    except (ValueError, NotImplementedError, jax.errors.JaxRuntimeError) as error:
        # A kernel of another platform, a split that does not divide, too little memory: a row that says so.
        return [replace(row, failed=short_line(error)) for row in before]
    return [replace(row, seconds=after[row.phase].seconds, memory=after[row.phase].memory) for row in before]
