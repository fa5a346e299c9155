"""What a run writes step by step, from its first process. Knows reports and files, and no model."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vtzero.config import RunConfig
from vtzero.data.example import Rejected
from vtzero.training.completions import write_completions
from vtzero.training.logged_steps import is_shown
from vtzero.training.method import StepReport
from vtzero.training.metrics import MetricsLog, RejectedLog
from vtzero.training.tensorboard import hyperparameters
from vtzero.training.wandb_log import WandbLog

EVALUATED = ("accuracy", "accuracy_lenient", "mean_length", "clipped_ratio")


class RunLogs:
    """The open logs of a run: metrics, TensorBoard, completions, what was set aside, and W&B if asked for."""

    def __init__(self, config: RunConfig, folder: Path, start: int):
        """What was logged after step `start` is dropped.

        Raises ConfigError where W&B is asked for and cannot be begun.
        """
        self._config, self._folder = config, folder
        self._metrics = MetricsLog(folder, tensorboard=config.tensorboard, resume_step=start)
        self._rejected = RejectedLog(folder, resume_step=start)
        self._wandb = WandbLog(folder, config) if config.wandb else None

    def write(self, report: StepReport, metrics: Mapping[str, float]) -> None:
        """A logged step, with `metrics` in the place of the report's own."""
        step, config = report.index, self._config
        self._metrics.write(step, metrics)
        group = report.completions[: config.num_generations] if is_shown(config, step) else ()
        if self._metrics.tensorboard is not None:
            self._metrics.tensorboard.show(step, report.samples, group)
        if self._wandb is not None:
            self._wandb.write(step, metrics)
            self._wandb.show(step, report.samples, group)
        if config.log_completions and report.completions:
            write_completions(self._folder, step, report.completions)

    def set_aside(self, report: StepReport) -> None:
        """Samples, rewards and updates that a step did without."""
        self.reject(report.index, report.rejected)
        for failed in report.failures:
            details = {"completion": failed.completion}
            self._rejected.write(report.index, failed.id, "reward", failed.reason, **details)
        reason = "loss {loss:g}, grad_norm {grad_norm:g}".format(**report.metrics)
        for learned in report.skipped:
            said = {"completions": list(learned.completions)} if learned.completions else {}
            self._rejected.write(report.index, learned.id, "update", reason, **said)

    def reject(self, step: int, samples: Iterable[Rejected]) -> None:
        """Samples that a step did without."""
        for sample in samples:
            self._rejected.write(step, sample.id, "sample", sample.reason)

    def evaluated(self, step: int, measured: Mapping[str, Any]) -> None:
        """An evaluation, as `eval/NAME` in TensorBoard and W&B; its files are written already."""
        values = {f"eval/{name}": measured[name] for name in EVALUATED if measured.get(name) is not None}
        if self._metrics.tensorboard is not None:
            self._metrics.tensorboard.write(step, values)
        if self._wandb is not None:
            self._wandb.write(step, values)

    def finished(self, figures: Mapping[str, Any]) -> None:
        """The run is done: its settings beside its results."""
        if self._metrics.tensorboard is not None:
            self._metrics.tensorboard.finished(self._config.max_steps, hyperparameters(self._config))
        if self._wandb is not None:
            self._wandb.finished(figures)

    def close(self) -> None:
        """Close the files."""
        self._metrics.close()
        self._rejected.close()
        if self._wandb is not None:
            self._wandb.close()
