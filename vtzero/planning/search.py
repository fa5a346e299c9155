"""Meshes and micro-batches of a slice: which could fit, which would be fastest, which do fit.

What cannot fit is set aside by the bytes that it must hold; the rest is put in the order of an estimate, and
compiled in that order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vtzero.bench.shapes import Shapes
from vtzero.config import MeshConfig, RunConfig
from vtzero.models.qwen2_vl.config import Qwen2VLConfig
from vtzero.planning.chips import Slice
from vtzero.planning.prediction import estimated
from vtzero.planning.programs import Plan
from vtzero.planning.verdict import SPARE, Compile, Verdict, hopeless, judge, least_memory
from vtzero.training.setup import tensor_sizes


@dataclass(frozen=True)
class Candidate:
    """A mesh with a number of micro-batches, the seconds that a step is estimated to take, its verdict."""

    plan: Plan
    seconds: float
    state: str = "not compiled"
    verdict: Verdict | None = None

    def figures(self) -> dict[str, Any]:
        """In JSON's types."""
        return {
            "mesh": self.plan.axes,
            "micro_batches": self.plan.config.gradient_accumulation_steps,
            "least_memory": least_memory(self.plan),
            "estimated_seconds": self.seconds,
            "state": self.state,
            "memory": self.verdict.memory if self.verdict else None,
            "predicted_seconds": self.verdict.seconds if self.verdict else None,
        }


def candidates(
    config: RunConfig, model: Qwen2VLConfig, shapes: Shapes, where: Slice, names: Sequence[str]
) -> list[Candidate]:
    """Every mesh that divides devices, heads and batch, with every number of micro-batches.

    Those that could fit come first, by their estimated time.
    """
    found = []
    for mesh in meshes(config, model, where.size):
        plan = Plan(replace(config, mesh=mesh, gradient_accumulation_steps=1), model, shapes, where)
        state = "holds too much" if hopeless(plan, names) else "not compiled"
        for parts in plan.possible_parts:
            cut = plan.cut(parts)
            seconds = sum(cut.runs(name) * estimated(cut, name).total for name in names)
            found.append(Candidate(cut, seconds, state))
    return sorted(found, key=lambda one: (one.state != "not compiled", one.seconds))


def meshes(config: RunConfig, model: Qwen2VLConfig, devices: int) -> Iterator[MeshConfig]:
    """Those that divide the devices, the heads and the batch."""
    for tensor in (size for size in tensor_sizes(model) if devices % size == 0):
        shards = devices // tensor
        if config.prompts_per_step % shards == 0:
            for fsdp in (size for size in range(1, shards + 1) if shards % size == 0):
                yield MeshConfig(data=shards // fsdp, fsdp=fsdp, tensor=tensor)


def search(
    found: Sequence[Candidate], names: Sequence[str], compile: Compile, *, wanted: int = 1, at_most: int = 6
) -> list[Candidate]:
    """Compile candidates in their order until `wanted` fit, or `at_most` have been compiled.

    Those that fit come first, by their predicted time. A candidate is passed over when it must need too much,
    as one of its mesh with more micro-batches has shown.
    """
    judged = list(found)
    for number, one in enumerate(judged):
        states = [other.state for other in judged]
        if states.count("fits") >= wanted or sum(other.verdict is not None for other in judged) >= at_most:
            break
        if one.state != "not compiled":
            continue
        if shown_too_large(one.plan, [other.verdict for other in judged]):
            judged[number] = replace(one, state="needs too much")
            continue
        verdict = judge(one.plan, names, compile, hurry=True)
        judged[number] = replace(one, verdict=verdict, state="fits" if verdict.fits else "does not fit")
    return sorted(judged, key=_place)


_ORDER = ("fits", "does not fit", "not compiled", "needs too much", "holds too much")


def _place(one: Candidate) -> tuple[int, float]:
    seconds = one.verdict.seconds if one.verdict else None
    return _ORDER.index(one.state), one.seconds if seconds is None else seconds


def shown_too_large(plan: Plan, verdicts: Sequence[Verdict | None]) -> bool:
    """Whether a verdict on it in another number of micro-batches shows that it cannot fit."""
    parts = plan.config.gradient_accumulation_steps
    others = (other for other in verdicts if other is not None and _is_cut_of(other.plan, plan))
    return any(_excludes(other, parts) for other in others)


def _is_cut_of(one: Plan, other: Plan) -> bool:
    parts = other.config.gradient_accumulation_steps
    own = replace(one.config, mesh=other.config.mesh, gradient_accumulation_steps=parts)
    return one.where.name == other.where.name and one.axes == other.axes and own == other.config


def _excludes(verdict: Verdict, parts: int) -> bool:
    """Whether what did not fit cannot fit in so many parts either.

    Temporaries shrink at most in proportion to the number of micro-batches, and never grow with it.
    """
    theirs, room = verdict.plan.config.gradient_accumulation_steps, verdict.plan.where.chip.memory
    for planned in verdict.misfits:
        temporaries = planned.temporaries * min(1.0, theirs / parts)
        if planned.name != "update" or (planned.refused and parts <= theirs):
            return True
        if not planned.refused and planned.held + planned.arguments + temporaries > (1 - SPARE) * room:
            return True
    return False
