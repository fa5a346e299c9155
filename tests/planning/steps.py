"""A small step of the tiny model on four chips that are not here, whose memory a test may choose."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from vtzero.bench.shapes import config_shapes
from vtzero.config import load_config
from vtzero.planning.apart import Job
from vtzero.planning.chips import open_slice
from vtzero.planning.programs import Plan, Planned
from vtzero.training.recipe import model_config

CONFIG = Path(__file__).parents[2] / "configs" / "tiny.yaml"
SMALL = {"prompts_per_step": 8, "num_generations": 2, "max_completion_length": 16}


def step(topology: str = "v5e:2x2", memory: int | None = None, **values: Any) -> Plan:
    """The step; `values` override the config, and `memory` what the chip has."""
    config = load_config(
        CONFIG, SMALL | {name.replace("mesh_", "mesh."): value for name, value in values.items()}
    )
    model, where = model_config(config), open_slice(topology)
    if memory is not None:
        where = replace(where, chip=replace(where.chip, memory=memory))
    return Plan(config, model, config_shapes(config, model), where)


class Ledger:
    """In the compiler's place: programs whose temporaries are as given, and a list of what was asked for.

    An update needs `update` bytes in one part and its share of that in several; the others need `others`.
    """

    def __init__(self, update: int, others: int = 0):
        self.update, self.others = update, others
        self.jobs: list[Job] = []

    def __call__(self, job: Job) -> Planned:
        self.jobs.append(job)
        plan = Plan(job.config, job.model, job.shapes, open_slice(job.topology))
        parts = job.config.gradient_accumulation_steps
        temporaries = self.update // parts if job.program == "update" else self.others
        return Planned(job.program, seconds=1.0, held=plan.held.total, temporaries=temporaries)

    @property
    def updates(self) -> list[tuple[tuple[int, int, int], int]]:
        """(data, fsdp, tensor) and the micro-batches of each update, in their order."""
        configs = [job.config for job in self.jobs if job.program == "update"]
        return [((c.mesh.data, c.mesh.fsdp, c.mesh.tensor), c.gradient_accumulation_steps) for c in configs]
