"""The loop of a run: resume, evaluate, step, log, save, export, in the run folder of the README.

Knows no algorithm: a `Method` does the steps. All files of a run are written from here.
"""

import json
import shutil
import sys
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from vtzero.config import ConfigError, RunConfig, dump_config, shared_settings
from vtzero.data.pipeline import RejectedRowsError
from vtzero.failures import RunFailedError, full_disk
from vtzero.parallel.messages import tell_all
from vtzero.parallel.processes import is_first, wait_for_all
from vtzero.terminal import one_line, visible
from vtzero.training.agreement import check_agreement, check_folder
from vtzero.training.checkpoints import Checkpoints
from vtzero.training.compilation import COMPILATIONS, compile_all
from vtzero.training.environment import environment
from vtzero.training.folder_lock import FolderLock
from vtzero.training.grpo import GRPO
from vtzero.training.held_out import HeldOut
from vtzero.training.huggingface import save_model
from vtzero.training.logged_steps import is_logged, is_printed
from vtzero.training.logs import RunLogs
from vtzero.training.method import Method, StepReport
from vtzero.training.micro_batches import bytes_on_a_device, device_memory
from vtzero.training.preemption import Stopped, StopRequest
from vtzero.training.progress import open_progress
from vtzero.training.setup import Setup, reference_parameters, set_up
from vtzero.training.sft import SFT
from vtzero.training.state import TrainState
from vtzero.training.usage import memory_metrics
from vtzero.training.wandb_log import check_wandb
from vtzero.training.watch import Watch, WatchSettings
from vtzero.whole_files import write_whole


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop, and the same command goes on with it."""


def train(
    config: RunConfig, *, quiet: bool = False, as_json: bool = False, allow_changes: bool = False
) -> dict[str, Any]:
    """Run a config to its end, from the last checkpoint if its folder has one; returns `summary.json`.

    `quiet` prints nothing but warnings, `as_json` an object a logged step. `allow_changes` goes on with a
    folder of another config: what was its own is kept as `config.until-STEP.yaml`.

    With several processes each calls this, with one config and one folder that all of them see; the first
    writes its files. Raises Interrupted after SIGTERM or SIGINT, once the last finished step is saved.
    """
    folder = Path(config.output_dir)
    check_agreement(config)
    check_folder(folder, config, allow_changes=allow_changes)
    check_wandb(config)
    lock = FolderLock(folder)
    try:
        lock.acquire()
        # Once more: while it waited, another start may have begun a run here.
        changed = check_folder(folder, config, allow_changes=allow_changes)
        with _Run(config, folder, quiet=quiet or not is_first(), as_json=as_json) as run:
            # Only now: a start that fails for a mistake in the config must not bind the folder to it.
            if is_first():
                if changed:
                    run.keep_config(changed)
                write_whole(folder / "config.yaml", dump_config(config))
                write_whole(folder / "environment.json", json.dumps(environment(), indent=2) + "\n")
            return run.to_the_end()
    except KeyboardInterrupt:
        raise Interrupted(_goes_on(config, folder)) from None
    except Exception as error:
        if (full := full_disk(error)) is None:
            raise
        raise RunFailedError(f"cannot write ({full}); make room; {_goes_on(config, folder)}") from error
    finally:
        lock.release()


def _goes_on(config: RunConfig, folder: Path) -> str:
    """What the same command would do after an interruption."""
    latest = _checkpoints(config, folder).latest_step()
    if latest is None:
        return "no step was saved yet; the same command starts afresh"
    return f"the same command goes on after step {latest}"


def _checkpoints(config: RunConfig, folder: Path) -> Checkpoints:
    return Checkpoints(folder / "checkpoints", keep=config.save_total_limit)


@dataclass
class _Totals:
    """What `summary.json` adds up over a run and its resumptions."""

    seconds: float = 0.0
    tokens: float = 0.0
    phases: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, metrics: dict[str, float]) -> None:
        self.seconds += metrics["timing_s/step"]
        self.tokens += metrics.get("num_tokens", 0.0)
        for name, value in metrics.items():
            if name.startswith("timing_s/") and name != "timing_s/step":
                self.phases[name.removeprefix("timing_s/")] += value


class _Run:
    """The open files and compiled functions of one run."""

    def __init__(self, config: RunConfig, folder: Path, *, quiet: bool, as_json: bool):
        self._config, self._folder = config, folder
        self._setup, self._state = set_up(config, folder)
        self._method = _method(config, self._setup, folder)
        self._checkpoints = _checkpoints(config, folder)
        self._start, self._totals = 0, _Totals()
        self._watch = Watch(WatchSettings(**shared_settings(config, WatchSettings)))
        self._stop = StopRequest(self._heard)
        self._compiled: dict[int, dict[str, float]] = {}
        self._resume()
        self._logs = RunLogs(config, folder, self._start) if is_first() else None
        self._evaluation = None if config.eval_data is None else HeldOut(self._setup, folder)
        shown = {"quiet": quiet, "as_json": as_json}
        self._progress = open_progress(config.max_steps, self._start, str(folder), **shown)
        self._method.tell = self._progress.phase

    def __enter__(self) -> "_Run":
        self._stop.__enter__()
        try:
            self._progress.start()
        except BaseException as error:  # a signal; the terminal is to be given back
            self.__exit__(type(error))
            raise
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        with ExitStack() as closing:  # in the reverse of this order, each whatever the others do
            closing.callback(self._stop.__exit__)
            closing.callback(self._checkpoints.close, alone=error is not None)
            if self._logs is not None:
                closing.callback(self._logs.close)
            closing.callback(self._method.close)
            closing.callback(self._progress.close)

    def to_the_end(self) -> dict[str, Any]:
        if self._start:
            last = self._start == self._config.max_steps
            where = (
                f"has done its {self._start} steps already" if last else f"goes on after step {self._start}"
            )
            self._progress.notice(f"{visible(self._folder)} {where}")
        self._tell_mesh()
        with jax.set_mesh(self._setup.mesh):
            self._compile()
            self._stop.immediate = False
            # Of a run that was stopped while it evaluated, the rest of that.
            if self._start == 0 or self._evaluates(self._start):
                self._evaluate(self._start)
            for index in range(self._start + 1, self._config.max_steps + 1):
                self._step(index)
            self._stop.immediate = True
            if self._stop.agreed():
                self._stop_after(self._config.max_steps)  # the next start exports it
        self._progress.phase("saving")
        self._checkpoints.wait()
        self._export()
        figures = self._summarise()
        self._progress.finished(figures, self._folder)
        return figures

    def keep_config(self, changed: str) -> None:
        """Say what has changed since the steps that are done, and keep what they were done with."""
        kept = self._folder / f"config.until-{self._start}.yaml"
        print(f"warning: goes on with another {one_line(changed)}; {kept.name} has what was", file=sys.stderr)
        if not kept.exists():  # else no step was done with what was changed last
            write_whole(kept, (self._folder / "config.yaml").read_text())

    def _heard(self, signals: int) -> None:
        """After a second signal the process ends, wherever it is."""
        if signals > 1:
            self._progress.give_back()
        else:
            self._progress.stopping()

    def _tell_mesh(self) -> None:
        mesh = self._setup.mesh
        if mesh.size > 1:
            sizes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
            held, memory = bytes_on_a_device(self._state) / 2**30, device_memory() / 2**30
            told = f"mesh: {sizes}; the state takes {held:.1f} of a device's {memory:.1f} GiB"
            self._progress.notice(told)

    def _compile(self) -> None:
        """Make every program of the steps before the first, so that no step waits for one."""
        if self._start < self._config.max_steps:
            programs = dict(self._method.declare(self._state))
            if self._evaluation is not None:
                programs["evaluation"] = self._evaluation.declare(self._state)
            self._progress.phase("compiling")
            compile_all(programs, self._progress.compiled)

    def _resume(self) -> None:
        latest, aside = self._checkpoints.recover()
        if is_first():
            for one in aside:
                print(
                    f"checkpoint {one.step} is not used: {visible(one.reason)} (now {one.name})",
                    file=sys.stderr,
                )
        self._saved = latest or 0
        self._data = self._method.data_state()
        if latest is None:
            return
        self._state = self._checkpoints.restore(latest, self._state)
        extra = self._checkpoints.read_extra(latest)
        self._method.restore_data(extra["data"])
        self._data = self._method.data_state()
        if latest > self._config.max_steps:
            done = f"the run in {self._folder} has done {latest} already"
            raise ConfigError(f"max_steps is {self._config.max_steps}, but {done}; choose another output_dir")
        self._start = latest
        self._watch.restore(extra["watch"])
        self._totals = _Totals(extra["seconds"], extra["tokens"], defaultdict(float, extra["phases"]))

    def _step(self, index: int) -> None:
        config = self._config
        try:
            self._state, report = self._method.step(self._state, index, self._stop)
        except Stopped:
            self._stop_after(index - 1)
        except Exception as error:
            # The step before has done its work. Among several processes its report asks all of them, and the
            # others may not have failed: they would wait, and so would this one.
            if jax.process_count() == 1:
                self._record(self._method.finish())
            if isinstance(error, RejectedRowsError) and self._logs is not None:
                self._logs.reject(index, error.rejected)
            raise
        self._data = self._method.data_state()
        self._compiled[index] = COMPILATIONS.metrics()
        self._record(report)
        evaluates = self._evaluates(index)
        saves = index % config.save_steps == 0 or index == config.max_steps
        if evaluates or saves:
            self._record(self._method.finish())  # looked at before the state is saved or used
        if evaluates:
            self._evaluate(index)
        if saves:
            self._save(index)

    def _evaluates(self, index: int) -> bool:
        config = self._config
        return self._evaluation is not None and (index % config.eval_steps == 0 or index == config.max_steps)

    def _stop_after(self, index: int) -> None:
        """Save step `index`, the last that was finished, and stop."""
        self._record(self._method.finish())
        if index > self._saved:
            self._save(index)
        self._checkpoints.wait()
        raise KeyboardInterrupt

    def _record(self, report: StepReport | None) -> None:
        """Write down a step that is done; the devices are at work on the next one."""
        if report is None:
            return
        index, config = report.index, self._config
        report.metrics.update(self._compiled.pop(index))
        self._totals.add(report.metrics)
        report.metrics["num_tokens"] = self._totals.tokens
        metrics = report.metrics | memory_metrics()
        if self._logs is not None:
            if is_logged(config, index):
                self._logs.write(report, metrics)
            self._logs.set_aside(report)
        self._progress.step(index, metrics, logged=is_logged(config, index))
        if is_printed(config, index):
            self._progress.completions(index, report.completions)
        self._look(report)

    def _look(self, report: StepReport) -> None:
        """Warn of a step that did no good; BrokenRunError ends the run."""
        prompts = self._config.prompts_per_step
        drawn = {"samples": prompts, "completions": prompts * self._config.num_generations}
        if report.index == 1:
            _check_scored(report, drawn["completions"])
        for warning in self._watch.look(report.index, report.metrics, **drawn):
            if is_first():
                print(f"warning: {visible(warning)}", file=sys.stderr)

    def _evaluate(self, index: int) -> None:
        if self._evaluation is None:
            return
        if not self._evaluation.done(index):
            self._progress.phase("eval")
            waits = partial(self._await_answers, index)
            measured = self._evaluation(self._state, index, self._progress.evaluating, waits)
            self._progress.evaluated(index, measured)
        if self._logs is not None:
            self._logs.evaluated(index, self._evaluation.measured(index))

    def _await_answers(self, index: int, answers: Any) -> None:
        if not self._stop.arrived(answers):  # what was answered is kept, and is not asked again
            self._stop_after(index)

    def _save(self, index: int) -> None:
        extra = {
            "step": index,
            "data": dict(self._data),
            "seconds": self._totals.seconds,
            "tokens": self._totals.tokens,
            "phases": dict(self._totals.phases),
            "watch": self._watch.state(),
        }
        self._progress.phase("saving")
        # The first process still writes its logs. Waiting for it here can be interrupted, in Orbax it cannot.
        tell_all(index)
        self._checkpoints.save(index, self._state, extra)
        self._saved = index

    def _export(self) -> None:
        self._progress.phase("export")
        export(self._setup, self._state, self._folder / "export")

    def _summarise(self) -> dict[str, Any]:
        totals = self._totals
        figures: dict[str, Any] = {
            "steps": self._config.max_steps,
            "mesh": dict(self._setup.mesh.shape),
            "seconds": round(totals.seconds, 3),
            "time_by_phase": {name: round(value, 3) for name, value in totals.phases.items()},
            "tokens_per_second": round(totals.tokens / totals.seconds, 1) if totals.seconds else 0.0,
        }
        if self._evaluation is not None:
            figures = self._evaluation.before_and_after(self._config.max_steps) | figures
        if is_first():
            write_whole(self._folder / "summary.json", json.dumps(figures, indent=2) + "\n")
        if self._logs is not None:
            self._logs.finished(figures)
        return figures


def _check_scored(report: StepReport, completions: int) -> None:
    """A reward that fails for everything from the start is a mistake in it; later the run's bounds judge."""
    if report.failures and report.metrics.get("unscored_completions") == completions:
        raise ConfigError(
            f"step {report.index}: no completion has a score ({report.failures[0].reason}); "
            "rejected.jsonl has every reason"
        )


def _method(config: RunConfig, setup: Setup, folder: Path) -> Method:
    if config.method == "sft":
        return SFT(setup)
    stays = config.beta > 0 and not config.sync_ref_model
    return GRPO(setup, reference_parameters(setup, folder) if stays else None)


def export(setup: Setup, state: TrainState, out: Path) -> None:
    """Write the state's parameters as a Hugging Face folder, replacing an older export of the same run."""
    params = nnx.state(setup.parts.merge(state.trainable, state.frozen), nnx.Param)
    if out.exists() and is_first():
        shutil.rmtree(out)
    wait_for_all("export")
    save_model(setup.folder, params, setup.processor.config, out)
