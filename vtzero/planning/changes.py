"""What to change where a step does not fit: compiled in order until one does.

Changes that keep every number as it is come first, each on top of those before it: parameters shared out over
all of `data`, no whole copy of the weights in a rollout, layers recomputed, more micro-batches, more of
`tensor`. Then come larger slices.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vtzero.config import MeshConfig, RunConfig
from vtzero.planning.chips import larger, open_slice
from vtzero.planning.programs import Plan
from vtzero.planning.search import candidates, meshes, shown_too_large
from vtzero.planning.verdict import Compile, Verdict, flags, hopeless, judge


@dataclass(frozen=True)
class Change:
    """A changed plan and its verdict; None where it is known without compiling that it needs too much."""

    plan: Plan
    verdict: Verdict | None

    def figures(self) -> dict[str, Any]:
        """In JSON's types."""
        named = {"topology": self.plan.where.name, "flags": flags(self.plan)}
        if self.verdict is None:
            return named | {"state": "needs too much"}
        state = "fits" if self.verdict.fits else "does not fit"
        return named | {"state": state} | self.verdict.figures()


def changes(before: Verdict, names: Sequence[str], compile: Compile, *, at_most: int = 6) -> list[Change]:
    """Changes up to and with the first that fits, or until `at_most` have been compiled."""
    tried: list[Change] = []
    compiled = 0
    seen = {_key(before.plan)}
    for changed in _changed(before, names):
        if _key(changed) in seen:
            continue
        seen.add(_key(changed))
        if hopeless(changed, names) or shown_too_large(changed, [before, *(one.verdict for one in tried)]):
            tried.append(Change(changed, None))
            continue
        if compiled == at_most:
            break
        compiled += 1
        verdict = judge(changed, names, compile, hurry=True)
        tried.append(Change(changed, verdict))
        if verdict.fits:
            break
    return tried


def _key(plan: Plan) -> tuple[str, str]:
    return plan.where.name, flags(plan)


def _changed(before: Verdict, names: Sequence[str]) -> Iterator[Plan]:
    """Plans that need less of a chip, the nearest to the config's own first."""
    plan = before.plan
    config = plan.asked
    for config in _same_numbers(plan, {one.name for one in before.misfits}):
        yield Plan(config, plan.model, plan.shapes, plan.where)
    # A larger slice may have room for a copy of the weights again.
    config = replace(config, gather_for_generation=plan.asked.gather_for_generation)
    for name in larger(plan.where.name):
        found = candidates(config, plan.model, plan.shapes, open_slice(name), names)
        # Of each slice the mesh that is estimated to be the fastest, and the one that leaves most room.
        able = [one.plan for one in found if one.state == "not compiled"]
        if able:
            yield able[0]
            yield min(able, key=_room_taken)


def _room_taken(plan: Plan) -> tuple[int, int]:
    return plan.held.total, -plan.config.gradient_accumulation_steps


def _same_numbers(plan: Plan, misfits: Collection[str]) -> Iterator[RunConfig]:
    """Another mesh, and what helps the programs that do not fit."""
    config, (data, fsdp, tensor) = plan.asked, plan.axes.values()
    config = replace(config, mesh=MeshConfig(data=1, fsdp=data * fsdp, tensor=tensor))
    yield config
    if "sampling" in misfits:
        config = replace(config, gather_for_generation=False)
        yield config
    if "update" in misfits:
        config = replace(config, gradient_checkpointing=True, gradient_checkpointing_policy="full")
        yield config
        for parts in plan.possible_parts:
            if parts > config.gradient_accumulation_steps:
                config = replace(config, gradient_accumulation_steps=parts)
                yield config
    for mesh in meshes(config, plan.model, plan.mesh.size):
        if mesh.tensor > tensor and mesh.data == 1:
            moved = Plan(replace(config, mesh=mesh), plan.model, plan.shapes, plan.where)
            config = moved.cut(max(moved.possible_parts)).asked if "update" in misfits else moved.asked
            yield config
