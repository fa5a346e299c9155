"""The verb: compile a config's step for one slice after another; print what each needs and return it."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vtzero.bench.shapes import Shapes, config_shapes
from vtzero.config import ConfigError, RunConfig
from vtzero.models.qwen2_vl import costs
from vtzero.models.qwen2_vl.config import PUBLISHED, Qwen2VLConfig
from vtzero.planning.apart import Job, compile_apart
from vtzero.planning.changes import changes
from vtzero.planning.chips import GIB, Slice, check_name, open_slice
from vtzero.planning.programs import PROGRAMS, Plan, Planned, step_programs
from vtzero.planning.search import candidates, search
from vtzero.planning.table import show_assumptions, show_changes, show_search, show_step
from vtzero.planning.verdict import Compile, Verdict, judge
from vtzero.training.recipe import model_config


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """Which slices, a published `size` in the place of the config's model, and which programs.

    `search` looks for the mesh and micro-batches of each slice instead of taking the config's, until `best`
    of them fit; `changes` looks for what would fit where the config's do not. `compile_at_most` bounds how
    many candidates are compiled, for each slice.

    Raises ValueError for an unknown name, or a number below 1.
    """

    topologies: tuple[str, ...]
    size: str | None = None
    only: tuple[str, ...] = PROGRAMS
    search: bool = False
    best: int = 1
    changes: bool = True
    compile_at_most: int = 6

    def __post_init__(self) -> None:
        if not self.topologies:
            raise ValueError("name a slice with --topology, such as v5e:4x4")
        for name in self.topologies:
            check_name(name)
        if self.size is not None and self.size not in PUBLISHED:
            raise ValueError(f"--size is {self.size!r}; the published sizes are {', '.join(PUBLISHED)}")
        if unknown := [name for name in self.only if name not in PROGRAMS]:
            raise ValueError(f"--only names {unknown[0]!r}; it takes {', '.join(PROGRAMS)}")
        for flag, number in (("--best", self.best), ("--compile-at-most", self.compile_at_most)):
            if number < 1:
                raise ValueError(f"{flag} is {number}; it must be at least 1")


def plan(config: RunConfig, settings: PlanSettings, compile: Compile = compile_apart) -> dict[str, Any]:
    """Compile, print, and return every figure in JSON's types; each program in a process of its own.

    Raises ConfigError for a config without groups, and ValueError as `Plan` does.
    """
    if config.method != "grpo":
        raise ConfigError(f"method is {config.method!r}; plan compiles the steps of grpo")
    model = PUBLISHED[settings.size] if settings.size else model_config(config)
    shapes = config_shapes(config, model)
    names = [name for name in step_programs(config) if name in settings.only]
    if not names:
        raise ConfigError(f"--only names {', '.join(settings.only)}, which is no part of this config's step")
    work = _Work(config, model, shapes, settings, names, _told(compile))
    one = work.search if settings.search else work.step
    slices = [one(open_slice(name)) for name in settings.topologies]
    show_assumptions()
    return {
        "model": settings.size or config.model,
        "parameters": sum(costs.parameters(model).values()),
        "slices": slices,
    }


@dataclass(frozen=True)
class _Work:
    """What is the same for every slice."""

    config: RunConfig
    model: Qwen2VLConfig
    shapes: Shapes
    settings: PlanSettings
    names: Sequence[str]
    compile: Compile

    def step(self, where: Slice) -> dict[str, Any]:
        """The config's own mesh on a slice; what would fit, where it does not."""
        try:
            made = Plan(self.config, self.model, self.shapes, where)
        except ConfigError as error:
            raise ConfigError(f"{where.name}: {error}, or look for a mesh with --search") from error
        verdict = judge(made, self.names, self.compile)
        figures = verdict.figures()
        show_step(figures)
        if not verdict.fits and self.settings.changes:
            figures |= self._changes(verdict)
        return figures

    def search(self, where: Slice) -> dict[str, Any]:
        """The best mesh and micro-batches of a slice."""
        settings = self.settings
        found = candidates(self.config, self.model, self.shapes, where, self.names)
        if not found:
            raise ConfigError(
                f"no mesh of {where.name}'s {where.size} chips divides prompts_per_step "
                f"({self.config.prompts_per_step}) and the model's heads; change prompts_per_step"
            )
        found = search(
            found, self.names, self.compile, wanted=settings.best, at_most=settings.compile_at_most
        )
        rows = [one.figures() for one in found]
        compiled = sum(one.verdict is not None for one in found)
        show_search(where.name, rows, compiled)
        figures: dict[str, Any] = {"topology": where.name, "searched": rows, "compiled": compiled}
        best = found[0].verdict
        if best is None or not best.fits:
            print(f"Nothing was found to fit {where.name}; --compile-at-most tries more than {compiled}.")
            return figures | {"fits": False}
        figures |= best.figures()
        show_step(figures)
        print(f"The best of them: {figures['flags']}")
        return figures

    def _changes(self, before: Verdict) -> dict[str, Any]:
        at_most = self.settings.compile_at_most
        tried = changes(before, self.names, self.compile, at_most=at_most)
        rows = [one.figures() for one in tried]
        show_changes(rows, self._hint(before))
        what_fits = next((row for row in rows if row["state"] == "fits"), None)
        if what_fits is not None:
            show_step(what_fits)
        return {"changes": rows, "what_fits": what_fits}

    def _hint(self, before: Verdict) -> str:
        reference = before.plan.held.reference
        freed = (
            f"beta 0 changes the objective, and frees the {reference / GIB:.1f} GiB of the reference model."
        )
        return freed if reference else ""


def _told(compile: Compile) -> Compile:
    """Compile and say so, for the next takes minutes."""

    def tell(job: Job) -> Planned:
        planned = compile(job)
        parts = job.config.gradient_accumulation_steps
        what = f"{job.program} (micro-batches {parts})" if job.program == "update" else job.program
        told = f"{job.topology}: {what} compiled in {planned.seconds:.0f} s"
        print(f"{told}{', refused' if planned.refused else ''}", file=sys.stderr, flush=True)
        return planned

    return tell
