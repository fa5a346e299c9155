"""Whether a run may begin: its processes agree on the config, and its folder is free."""

import errno
import tempfile
from pathlib import Path

from vtzero.config import ConfigError, RunConfig, load_config
from vtzero.failures import RunFailedError
from vtzero.parallel.messages import tell_all

FREE_TO_CHANGE: tuple[str, ...] = ("output_dir", "logging_steps", "save_steps", "save_total_limit")
FREE_TO_CHANGE += ("eval_steps", "mesh", "gather_for_generation", "gradient_accumulation_steps", "attention")
FREE_TO_CHANGE += ("max_bad_steps", "max_logp_difference", "max_rejected_share", "max_failed_share")
FREE_TO_CHANGE += ("gradient_checkpointing", "gradient_checkpointing_policy", "logprob_chunk")
FREE_TO_CHANGE += ("print_completions_steps", "wandb")
FIXED: tuple[str, ...] = ("method", "model", "seed", "data", "data_split", "data_weights")
"""What the state of a run is of: with another there is nothing to go on with."""


def check_agreement(config: RunConfig) -> None:
    """Raise ConfigError where another process of the job was started with other settings."""
    for number, other in enumerate(tell_all(config)):
        changed = [name for name in RunConfig.__dataclass_fields__ if _differs(name, config, other)]
        if changed:
            raise ConfigError(
                f"process {number} has another {', '.join(changed)}; start all processes with one config"
            )


def check_folder(folder: Path, config: RunConfig, *, allow_changes: bool = False) -> str:
    """A folder is continued with its own settings, those aside that change numbers by rounding at most.

    With `allow_changes` also with others but `FIXED`: what has changed is returned, empty where nothing has.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"output_dir {str(folder)!r}: {there} is no folder; choose another output_dir")
    _check_writable(folder, there)
    if (folder / "export").exists() and not (folder / "config.yaml").exists():
        # The run's own would replace it.
        raise ConfigError(
            f"output_dir {str(folder)!r}: {folder / 'export'} is there already, and no run that made it; "
            "choose another output_dir"
        )
    path = folder / "config.yaml"
    if not path.exists() or not _has_done_anything(folder):
        return ""
    saved = load_config(path)
    changed = [
        name
        for name in RunConfig.__dataclass_fields__
        if not _is_free(name, config) and _differs(name, saved, config)
    ]
    values = ", ".join(f"{name} ({getattr(saved, name)}, not {getattr(config, name)})" for name in changed)
    fixed = ", ".join(name for name in changed if name in FIXED)
    if changed and (fixed or not allow_changes):
        said = f"{folder} holds a run with another {values}"
        if fixed:
            raise ConfigError(f"{said}; no run can go on with another {fixed}: choose another output_dir")
        raise ConfigError(f"{said}; choose another output_dir, or go on nevertheless with --allow_changes")
    return values


def _check_writable(folder: Path, there: Path) -> None:
    """Tried, not asked: permissions say little of network folders, and nothing of one that is read-only."""
    try:
        tempfile.TemporaryDirectory(dir=there, prefix=".vtzero-").cleanup()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunFailedError(f"cannot write in {there} ({error.strerror}); make room") from error
        raise ConfigError(
            f"output_dir {str(folder)!r}: nothing can be written in {there} ({error.strerror}); "
            "choose another output_dir"
        ) from error


def _is_free(name: str, config: RunConfig) -> bool:
    """Whether a setting may differ on resuming; the length of a run may where nothing is scheduled by it."""
    if name == "max_steps":
        scheduled = config.lr_scheduler_type != "constant" and config.lr_schedule_steps is None
        return config.method == "grpo" and not scheduled
    return name in FREE_TO_CHANGE


def _has_done_anything(folder: Path) -> bool:
    """A run that ended before its first step and its first figures binds its folder to nothing."""
    metrics = folder / "metrics.jsonl"
    stepped = metrics.exists() and metrics.stat().st_size > 0
    return stepped or any(folder.glob("checkpoints/*")) or any(folder.glob("eval/*"))


def _differs(name: str, one: RunConfig, other: RunConfig) -> bool:
    return bool(getattr(one, name) != getattr(other, name))
