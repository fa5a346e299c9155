"""The verb: compile a config's step for one slice after another; print what each needs and return it."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from vtzero.bench.shapes import Shapes, config_shapes
from vtzero.config import ConfigError, RunConfig
from vtzero.models.qwen2_vl import costs
from vtzero.models.qwen2_vl.config import PUBLISHED, Qwen2VLConfig
from vtzero.parallel.sharding import readers
from vtzero.planning.chips import GIB, Slice, check_name, larger, open_slice
from vtzero.planning.programs import Plan, Planned
from vtzero.training.micro_batches import possible_parts
from vtzero.training.recipe import model_config

SPARE = 0.05
"""Of a chip's memory, what must be left."""
OF_PEAK, OF_BANDWIDTH, OF_LINKS = 0.5, 0.7, 0.7
"""What of its published limits a chip is taken to reach: assumptions, not measurements."""
PROGRAMS = ("sampling", "scoring", "update")


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """Which slices, a published `size` in the place of the config's model, and which programs.

    Raises ValueError for an unknown name.
    """

    topologies: tuple[str, ...]
    size: str | None = None
    only: tuple[str, ...] = PROGRAMS

    def __post_init__(self) -> None:
        for name in self.topologies:
            check_name(name)
        if self.size is not None and self.size not in PUBLISHED:
            raise ValueError(f"--size is {self.size!r}; the published sizes are {', '.join(PUBLISHED)}")
        if unknown := [name for name in self.only if name not in PROGRAMS]:
            raise ValueError(f"--only names {unknown[0]!r}; it takes {', '.join(PROGRAMS)}")


def plan(config: RunConfig, settings: PlanSettings) -> dict[str, Any]:
    """Compile, print, and return every figure in JSON's types.

    Raises ConfigError for a config without groups, and ValueError as `Plan` does.
    """
    if config.method != "grpo":
        raise ConfigError(f"method is {config.method!r}; plan compiles the steps of grpo")
    model = PUBLISHED[settings.size] if settings.size else model_config(config)
    shapes = config_shapes(config, model)
    name = settings.size or config.model
    slices = [_plan_slice(config, model, shapes, open_slice(top), settings) for top in settings.topologies]
    return {"model": name, "parameters": sum(costs.parameters(model).values()), "slices": slices}


def _plan_slice(
    config: RunConfig, model: Qwen2VLConfig, shapes: Shapes, where: Slice, settings: PlanSettings
) -> dict[str, Any]:
    made = Plan(config, model, shapes, where)
    rows = []
    for planned in made.compile(lambda name: name in settings.only):
        rows.append(program_figures(made, planned))
        print(
            f"{where.name}: {planned.name} compiled in {planned.seconds:.0f} s", file=sys.stderr, flush=True
        )
    mesh = dict(made.mesh.shape)
    figures = {
        "topology": where.name,
        "chips": where.size,
        "mesh": mesh,
        "memory_of_a_chip": where.chip.memory,
        "held": {
            "parameters": made.held.parameters,
            "optimizer": made.held.optimizer,
            "reference": made.held.reference,
        },
        "programs": rows,
        "fits": all(row["fits"] for row in rows),
        "predicted_seconds": sum(row["predicted_seconds"] for row in rows),
    }
    _show(figures)
    if not figures["fits"]:
        figures["changes"] = changes(made)
        print("It does not fit. What would help:", *figures["changes"], sep="\n  - ")
    return figures


def program_figures(made: Plan, planned: Planned) -> dict[str, Any]:
    """A program's memory on one chip, what it exchanges, and the time that is predicted for it."""
    room = made.where.chip.memory
    times = predicted(made, planned)
    return {
        "name": planned.name,
        "compile_seconds": planned.seconds,
        "memory": planned.memory,
        "temporaries": planned.temporaries,
        "fits": not planned.refused and planned.memory <= (1 - SPARE) * room,
        "refused": planned.refused,
        "received_bytes": planned.received,
        "times": times,
        "predicted_seconds": max(times["operations"], times["memory"]) + times["links"],
    }


def predicted(made: Plan, planned: Planned) -> dict[str, float]:
    """Seconds that operations, memory and links would take alone, at the assumed shares of their limits."""
    config, model, lengths, chip = made.config, made.model, made.shapes.lengths, made.where.chip
    size, replicas = 2, readers(made.mesh)
    if planned.name == "sampling":
        flops = costs.prefill(model, lengths) + costs.decode(model, lengths)
        moved = costs.prefill_bytes(model, lengths, size, replicas=replicas)
        moved += costs.decode_bytes(model, lengths, size, replicas=replicas)
    elif planned.name == "scoring":
        flops = costs.score(model, lengths)
        moved = costs.score_bytes(model, lengths, size, replicas=replicas)
    else:
        parts, copies = config.gradient_accumulation_steps or 1, made.mesh.shape["data"]
        layers = config.gradient_checkpointing
        flops = costs.update(model, lengths, config.freeze)
        flops += costs.recomputed(model, lengths, config.freeze, layers=layers)
        moved = costs.update_bytes(
            model, lengths, size, config.freeze, parts, replicas=replicas, copies=copies
        )
    return {
        "operations": flops / (made.mesh.size * OF_PEAK * chip.limits.flops),
        "memory": moved / (made.mesh.size * OF_BANDWIDTH * chip.limits.bandwidth),
        "links": planned.received / (OF_LINKS * chip.links),
    }


def changes(made: Plan) -> list[str]:
    """What would make room, the changes that leave every number as it is first; none of them was tried."""
    config, mesh = made.config, dict(made.mesh.shape)
    found = []
    if mesh["data"] > 1:
        found.append(
            f"mesh.fsdp {mesh['fsdp'] * mesh['data']} and mesh.data 1: parameters are then shared out"
        )
    if not config.gradient_checkpointing or config.gradient_checkpointing_policy != "full":
        found.append("gradient_checkpointing true with the policy full: only the inputs of layers are kept")
    most = max(possible_parts(config.prompts_per_step, readers(made.mesh)))
    if most > max(config.gradient_accumulation_steps, 1):
        found.append(f"gradient_accumulation_steps {most}: fewer samples at a time")
    found += [f"a larger slice: {name}" for name in larger(made.where.name)[:1]]
    if config.beta > 0:
        found.append(f"beta 0: without a reference model, {made.held.reference / GIB:.1f} GiB a chip less")
    return found


def _show(figures: dict[str, Any]) -> None:
    mesh = ", ".join(f"{axis} {size}" for axis, size in figures["mesh"].items())
    held = ", ".join(f"{name} {_gib(size)}" for name, size in figures["held"].items())
    room = figures["memory_of_a_chip"]
    table = Table(
        title=f"{figures['topology']}: {mesh}; held on a chip: {held}", box=None, title_justify="left"
    )
    for column in ("program", "a chip needs", "of", "fits", "received", "predicted", "compiled in"):
        table.add_column(column, justify="left" if column == "program" else "right")
    for row in figures["programs"]:
        table.add_row(
            row["name"],
            f"more ({row['refused'][:60]})" if row["refused"] else _gib(row["memory"]),
            _gib(room),
            "yes" if row["fits"] else "no",
            _gib(row["received_bytes"]),
            f"{row['predicted_seconds']:.2f} s",
            f"{row['compile_seconds']:.0f} s",
        )
    console = Console()
    (console if console.is_terminal else Console(width=150)).print(table)
    print(
        f"Predicted: the greater of operations at {OF_PEAK:.0%} of the published peak and bytes at "
        f"{OF_BANDWIDTH:.0%} of the bandwidth, and what is received at {OF_LINKS:.0%} of the links with "
        f"nothing hidden. Fits: {SPARE:.0%} of the memory to spare."
    )


def _gib(size: float) -> str:
    return f"{size / GIB:,.2f} GiB"


def parse_topologies(values: Sequence[str]) -> tuple[str, ...]:
    """Names from repeated flags; raises ValueError when there is none."""
    if not values:
        raise ValueError("name a slice with --topology, such as v5e:4x4")
    return tuple(values)
