"""What a page shows of runs, in JSON's types: the one description that page and figures are drawn from."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vtzero import __version__
from vtzero.reports.run_folder import RunRecord, differing

MOST_STEPS = 2000


def payload(runs: Sequence[RunRecord], completions: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """The runs in their order, each with the description of its completions, if it has any."""
    differ = differing(runs)
    described = [_run(run, own, differ) for run, own in zip(runs, completions, strict=True)]
    return {"version": __version__, "runs": described}


def _run(run: RunRecord, completions: dict[str, Any] | None, differ: list[str]) -> dict[str, Any]:
    return {
        "name": run.name,
        "label": run.label,
        "method": run.recipe.get("method"),
        "status": "finished" if run.finished else "not finished",
        "last_step": run.last_step,
        "max_steps": run.recipe.get("max_steps"),
        "warnings": [*run.warnings, *_left_out(run)],
        "metrics": thinned(run.metrics),
        "evaluations": run.evaluations,
        "recipe": run.recipe,
        "recipe_differs": differ,
        "environment": run.environment,
        "summary": run.summary,
        "time_by_phase": run.time_by_phase(),
        "rejected": {kind: run.rejected.get(kind, 0) for kind in ("sample", "reward", "update")},
        "completions": completions,
    }


def _left_out(run: RunRecord) -> list[str]:
    logged = len(run.metrics.get("step", ()))
    return [f"of {logged:,} logged steps {MOST_STEPS:,} are drawn, evenly"] if logged > MOST_STEPS else []


def thinned(metrics: Mapping[str, Sequence[float | None]]) -> dict[str, list[float | None]]:
    """At most `MOST_STEPS` steps of them, evenly: no screen has more columns."""
    logged = len(metrics.get("step", ()))
    kept = sorted({round(at) for at in np.linspace(0, logged - 1, min(logged, MOST_STEPS))})
    return {name: [short(values[at]) for at in kept] for name, values in metrics.items()}


def short(value: float | None) -> float | None:
    """Six digits, of which no curve shows more; None for what is no number in JSON."""
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.6g}")
