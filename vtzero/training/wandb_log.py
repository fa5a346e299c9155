"""A run for Weights & Biases, whose package is the extra `wandb`.

A resumed run goes on under its id, which its folder keeps; W&B leaves out steps that it has seen already.
"""

import importlib
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from vtzero.config import ConfigError, RunConfig
from vtzero.terminal import one_line
from vtzero.training.completions import CompletionRow
from vtzero.whole_files import write_whole

ID_FILE = "wandb_id.txt"
_TABLE = ("step", "prompt", "answer", "completion", "rewards", "advantage")


def check_wandb(config: RunConfig) -> None:
    """Raise ConfigError where `wandb` is asked for and not installed."""
    if config.wandb and find_spec("wandb") is None:
        raise ConfigError("wandb is true, but its package is not installed; pip install 'vtzero[wandb]'")


class WandbLog:
    """A run of W&B, under `WANDB_PROJECT` (else vtzero) and the name of the run's folder."""

    def __init__(self, folder: Path, config: RunConfig):
        """Raises ConfigError where W&B refuses, as without a key."""
        check_wandb(config)
        self._wandb: Any = importlib.import_module("wandb")
        try:
            self._run = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT", "vtzero"),
                name=folder.resolve().name,
                id=_run_id(folder),
                resume="allow",
                dir=folder,
                config=asdict(config),
                # Its own lines would run through the panel, and what is printed is in the terminal already.
                settings=self._wandb.Settings(silent=True, console="off"),
            )
        except self._wandb.Error as error:
            raise ConfigError(
                f"wandb: {one_line(error)}; log in with `wandb login`, or set WANDB_MODE=offline"
            ) from None

    def write(
        self,
        step: int,
        values: Mapping[str, float],
        samples: Mapping[str, np.ndarray] | None = None,
        group: Sequence[CompletionRow] = (),
    ) -> None:
        """Metrics of a step, a histogram of each of `samples`, and a table of completions."""
        content: dict[str, Any] = dict(values)
        for name, numbers in (samples or {}).items():
            if (finite := numbers[np.isfinite(numbers)]).size:
                content[name] = self._wandb.Histogram(finite)
        if group:
            rows = [
                [step, r.prompt, r.answer, r.completion, str(dict(r.rewards)), r.advantage] for r in group
            ]
            content["completions/group"] = self._wandb.Table(columns=list(_TABLE), data=rows)
        self._run.log(content, step=step)

    def finished(self, figures: Mapping[str, Any]) -> None:
        """The figures of a run that is done."""
        self._run.summary.update({name: v for name, v in figures.items() if not isinstance(v, Mapping)})

    def close(self) -> None:
        """Send what was not sent."""
        self._run.finish()


def _run_id(folder: Path) -> str:
    path = folder / ID_FILE
    if not path.exists():
        write_whole(path, f"{secrets.token_hex(4)}\n")
    return path.read_text().strip()
