"""What a page shows of runs, in JSON's types: the one description that page and figures are drawn from."""

import math
from collections.abc import Sequence
from typing import Any

from vtzero import __version__
from vtzero.reports.run_folder import RunRecord, differing


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
        "warnings": run.warnings,
        "metrics": {name: [short(value) for value in values] for name, values in run.metrics.items()},
        "evaluations": run.evaluations,
        "recipe": run.recipe,
        "recipe_differs": differ,
        "environment": run.environment,
        "summary": run.summary,
        "time_by_phase": run.time_by_phase(),
        "rejected": {kind: run.rejected.get(kind, 0) for kind in ("sample", "reward", "update")},
        "completions": completions,
    }


def short(value: float | None) -> float | None:
    """Six digits, of which no curve shows more; None for what is no number in JSON."""
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.6g}")
