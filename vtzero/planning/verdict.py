"""Whether a step fits a slice: its programs compiled one by one, and every figure of it.

Knows plans and how to have a program compiled; searches nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vtzero.planning.apart import Job
from vtzero.planning.prediction import predicted, work
from vtzero.planning.programs import Plan, Planned
from vtzero.training.micro_batches import USABLE

SPARE = 0.05
"""Of a chip's memory, what must be left."""

Compile = Callable[[Job], Planned]
"""Compiles a program, here or in a process of its own."""


@dataclass(frozen=True)
class Verdict:
    """A step with those of its programs that were compiled.

    `chosen`: the number of micro-batches was left to memory, and is the fewest of which training would say
    that they fit.
    """

    plan: Plan
    compiled: tuple[Planned, ...]
    chosen: bool = False

    @property
    def misfits(self) -> list[Planned]:
        """The programs that do not fit."""
        return [one for one in self.compiled if not _fits(self.plan, one, chosen=self.chosen)]

    @property
    def fits(self) -> bool:
        return not self.misfits

    @property
    def seconds(self) -> float | None:
        """Predicted for all compiled programs, as often as a step runs them; None where one was refused."""
        times = [(predicted(self.plan, one), self.plan.runs(one.name)) for one in self.compiled]
        return sum(one.total * runs for one, runs in times if one) if all(one for one, _ in times) else None

    @property
    def received(self) -> float | None:
        """Bytes that a chip receives in a step; None where the compiler refused a program."""
        if any(one.refused for one in self.compiled):
            return None
        return sum(one.received * self.plan.runs(one.name) for one in self.compiled)

    @property
    def memory(self) -> int | None:
        """What the greediest program needs of a chip; None where the compiler refused one."""
        return None if any(one.refused for one in self.compiled) else max(one.memory for one in self.compiled)

    def figures(self) -> dict[str, Any]:
        """Everything, in JSON's types."""
        plan, held = self.plan, self.plan.held
        return {
            "topology": plan.where.name,
            "chips": plan.where.size,
            "mesh": plan.axes,
            "micro_batches": plan.config.gradient_accumulation_steps,
            "micro_batches_chosen": self.chosen,
            "flags": flags(plan),
            "memory_of_a_chip": plan.where.chip.memory,
            "held": {
                "parameters": held.parameters,
                "optimizer": held.optimizer,
                "reference": held.reference,
            },
            "cache": plan.cache,
            "programs": [self.row(one) for one in self.compiled],
            "fits": self.fits,
            "predicted_seconds": self.seconds,
            "received_bytes": self.received,
            **dict(zip(("flops", "moved_bytes"), self._work(), strict=True)),
        }

    def _work(self) -> tuple[float, float]:
        """Operations, and bytes through memory, of a step on all chips."""
        flops = moved = 0.0
        for one in self.compiled:
            runs, (own_flops, own_moved) = self.plan.runs(one.name), work(self.plan, one.name)
            flops, moved = flops + runs * own_flops, moved + runs * own_moved
        return flops, moved

    def row(self, one: Planned) -> dict[str, Any]:
        """The figures of one program."""
        times, (flops, moved) = predicted(self.plan, one), work(self.plan, one.name)
        return {
            "name": one.name,
            "runs": self.plan.runs(one.name),
            "flops": flops,
            "moved_bytes": moved,
            "compile_seconds": one.seconds,
            "host_memory": one.host_memory or None,
            "memory": None if one.refused else one.memory,
            "temporaries": None if one.refused else one.temporaries,
            "fits": _fits(self.plan, one, chosen=self.chosen),
            "refused": one.refused,
            "received_bytes": None if one.refused else one.received,
            "times": None if times is None else vars(times),
            "predicted_seconds": None if times is None else times.total,
        }


def judge(plan: Plan, names: Sequence[str], compile: Compile, *, hurry: bool = False) -> Verdict:
    """Compile the programs of these names; in a `hurry`, the update first, and none after one too large.

    Where the config leaves the number of micro-batches to memory, it is the fewest that fit as training
    reckons, which keeps a tenth of a chip free; where none does, the most there can be.
    """
    chosen = plan.config.gradient_accumulation_steps == 0
    found: list[Planned] = []
    for name in sorted(names, key=PRIORITY.index) if hurry else names:
        if name == "update" and chosen:
            plan, one = _fewest(plan, compile)
        else:
            one = compile(_job(plan, name))
        found.append(one)
        if hurry and not _fits(plan, one, chosen=chosen):
            break
    if chosen and not plan.config.gradient_accumulation_steps:
        plan = plan.cut(1)
    return Verdict(plan, tuple(sorted(found, key=lambda one: names.index(one.name))), chosen)


PRIORITY = ("update", "sampling", "scoring", "vision")
"""What is least likely to fit comes first."""


def least_memory(plan: Plan) -> int:
    """Bytes of a chip without which no update can be made, whatever else it needs."""
    return plan.held.total + plan.held.gradient


def hopeless(plan: Plan, names: Sequence[str]) -> bool:
    """Whether it cannot fit, as is known without compiling anything."""
    least = least_memory(plan) if "update" in names else plan.held.total
    return least > (1 - SPARE) * plan.where.chip.memory


def flags(plan: Plan) -> str:
    """The command-line flags of a plan's mesh, micro-batches, gathering and rematerialisation."""
    config = plan.config
    values: dict[str, int | str] = {f"mesh.{axis}": size for axis, size in plan.axes.items()}
    values |= {"gather_for_generation": str(config.gather_for_generation).lower()}
    values |= {"gradient_accumulation_steps": config.gradient_accumulation_steps}
    if config.gradient_checkpointing:
        values |= {"gradient_checkpointing": "true"}
        values |= {"gradient_checkpointing_policy": config.gradient_checkpointing_policy}
    else:
        values |= {"gradient_checkpointing": "false"}
    return " ".join(f"--{name} {value}" for name, value in values.items())


def _fewest(plan: Plan, compile: Compile) -> tuple[Plan, Planned]:
    for parts in plan.possible_parts:
        cut = plan.cut(parts)
        planned = compile(_job(cut, "update"))
        if _fits(cut, planned, chosen=True):
            break
    return cut, planned


def _job(plan: Plan, name: str) -> Job:
    return Job(plan.config, plan.model, plan.shapes, plan.where.name, name)


def _fits(plan: Plan, planned: Planned, *, chosen: bool) -> bool:
    share = USABLE if chosen and planned.name == "update" else 1 - SPARE
    return not planned.refused and planned.memory <= share * plan.where.chip.memory
