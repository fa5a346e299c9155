"""A run for Weights & Biases, whose package is the extra `wandb`. Knows figures and text on the host.

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
_TABLE = ["prompt", "answer", "completion", "reward", "advantage"]


def check_wandb(config: RunConfig) -> None:
    """Raise ConfigError where `wandb` is asked for and not installed."""
    if config.wandb and find_spec("wandb") is None:
        raise ConfigError("wandb is true, but its package is not installed; pip install 'vtzero[wandb]'")


class WandbLog:
    """A run of W&B, under `WANDB_PROJECT` (else vtzero) and the name of the run's folder."""

    def __init__(self, folder: Path, config: RunConfig):
        """Raises ConfigError where W&B refuses, as without a key."""
        self._wandb: Any = importlib.import_module("wandb")
        self._failed = True
        try:
            self._run = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT", "vtzero"),
                name=folder.resolve().name,
                id=_run_id(folder),
                resume="allow",
                dir=folder,
                config=asdict(config),
                settings=self._wandb.Settings(silent=True, console="off"),  # its lines would break the panel
            )
        except self._wandb.Error as error:
            said = f"wandb: {one_line(error)} (WANDB_MODE=offline needs no account)"
            raise ConfigError(said) from None

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Figures of a step."""
        self._run.log(dict(values), step=step)

    def show(self, step: int, samples: Mapping[str, np.ndarray], group: Sequence[CompletionRow]) -> None:
        """A histogram of each of `samples`, and a table of completions."""
        finite = {name: numbers[np.isfinite(numbers)] for name, numbers in samples.items()}
        self.write(step, {name: self._wandb.Histogram(some) for name, some in finite.items() if some.size})
        if group:
            rows = [[r.prompt, r.answer, r.completion, r.reward, r.advantage] for r in group]
            self.write(step, {"completions/group": self._wandb.Table(columns=_TABLE, data=rows)})

    def finished(self, figures: Mapping[str, Any]) -> None:
        """The figures of a run that is done."""
        self._failed = False
        self._run.summary.update(dict(figures))

    def close(self) -> None:
        """Send what was not sent; a run that is not done is marked as failed until it goes on."""
        self._run.finish(exit_code=int(self._failed))


def _run_id(folder: Path) -> str:
    path = folder / ID_FILE
    if not path.exists():
        write_whole(path, f"{secrets.token_hex(4)}\n")
    return path.read_text().strip()
