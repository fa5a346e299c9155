"""The typed config of a run: YAML files plus dotted overrides.

Every unknown key or bad value is an error that names it.

Names are TRL's `GRPOConfig` where TRL has them. Knows no model, no data and no device.
"""

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml


class ConfigError(ValueError):
    """A user's mistake in a config: one line that names the key and says what to do."""


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each axis; -1 is whatever is left.

    `fsdp` None is as few as leave room in a device's memory where `data` takes the rest, and 1 elsewhere.
    """

    data: int = -1
    fsdp: int | None = None
    tensor: int = 1


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Every setting of a run. What a setting means stands in the README's table."""

    # What is trained, and how
    method: Literal["grpo", "sft"] = "grpo"
    model: str = "tiny"
    output_dir: str = ""
    seed: int = 42
    max_steps: int = 1500
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool = True
    gradient_checkpointing_policy: Literal["full", "dots"] = "full"
    attention: Literal["auto", "xla", "blocked", "cudnn", "splash"] = "auto"
    freeze: tuple[str, ...] = ()
    mesh: MeshConfig = field(default_factory=MeshConfig)
    gather_for_generation: bool | None = None

    # Data and prompts
    data: tuple[str, ...] = ("scenes",)
    data_weights: tuple[float, ...] = ()
    data_split: str = "train"
    data_limit: int | None = None
    question_types: tuple[str, ...] = ()
    max_images: int | None = None
    prompt_template: str = "r1_zero_base"
    max_prompt_length: int = 1024
    min_pixels: int | None = None
    max_pixels: int | None = None

    # The batch of groups
    prompts_per_step: int = 8
    num_generations: int = 8
    gradient_accumulation_steps: int = 1
    num_iterations: int = 1
    packing: bool = False
    completion_length_buckets: tuple[int, ...] = ()

    # Sampling
    max_completion_length: int = 700
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    # Rewards
    reward_funcs: tuple[str, ...] = ("accuracy_paper", "format_paper")
    reward_weights: tuple[float, ...] = ()
    reward_timeout: float = 30.0
    soft_punish_cache: int = 0

    # Supervised fine-tuning
    sft_target: Literal["answer", "tagged", "solution"] = "answer"
    completion_only_loss: bool = True

    # Objective
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = "grpo"
    beta: float = 0.04
    epsilon: float = 0.2
    epsilon_high: float | None = None
    scale_rewards: Literal["group", "batch", "none"] = "group"
    mask_truncated_completions: bool = False
    sync_ref_model: bool = False
    ref_model_sync_steps: int = 512
    ref_model_mixup_alpha: float = 0.6
    logprob_chunk: int = 1024

    # Optimizer
    learning_rate: float = 1e-6
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "linear"
    lr_schedule_steps: int | None = None
    warmup_steps: int = 0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0

    # What ends a run
    max_bad_steps: int = 5
    max_logp_difference: float | None = 0.05
    max_rejected_share: float = 0.5
    max_unscored_share: float = 0.25

    # Evaluation, logs, checkpoints
    eval_data: str | None = "scenes"
    eval_limit: int | None = None
    eval_image_folder: str | None = None
    eval_prompt_template: str | None = None
    eval_max_pixels: int | None = None
    eval_steps: int = 100
    eval_batch_size: int = 64
    logging_steps: int = 1
    log_completions: bool = True
    tensorboard: bool = True
    save_steps: int = 100
    save_total_limit: int | None = 2

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            _check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in _AT_LEAST_ZERO:
            _check(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        _check(
            self.num_generations >= 2 or self.method == "sft",
            "num_generations",
            self.num_generations,
            "at least 2",
        )
        _check(
            self.temperature > 0, "temperature", self.temperature, "above 0: a greedy group has no advantage"
        )
        _check(0 < self.top_p <= 1, "top_p", self.top_p, "in (0, 1]")
        _check(0 <= self.min_p < 1, "min_p", self.min_p, "in [0, 1)")
        _check(self.repetition_penalty > 0, "repetition_penalty", self.repetition_penalty, "above 0")
        _check(self.reward_timeout > 0, "reward_timeout", self.reward_timeout, "above 0 seconds")
        _check(
            self.prompts_per_step % max(self.gradient_accumulation_steps, 1) == 0,
            "gradient_accumulation_steps",
            self.gradient_accumulation_steps,
            f"a divisor of prompts_per_step ({self.prompts_per_step}), or 0 for as few as fit the memory",
        )
        _check(
            len(self.reward_weights) in (0, len(self.reward_funcs)),
            "reward_weights",
            list(self.reward_weights),
            f"empty or as many as reward_funcs ({len(self.reward_funcs)})",
        )
        _check(
            self.lr_schedule_steps is None or self.lr_schedule_steps >= 1,
            "lr_schedule_steps",
            self.lr_schedule_steps,
            "at least 1",
        )
        _check(
            all(1 <= length < self.max_completion_length for length in self.completion_length_buckets),
            "completion_length_buckets",
            list(self.completion_length_buckets),
            f"lengths from 1 to below max_completion_length ({self.max_completion_length})",
        )
        _check(bool(self.data), "data", [], "at least one source")
        _check(
            len(self.data_weights) in (0, len(self.data)) and all(weight > 0 for weight in self.data_weights),
            "data_weights",
            list(self.data_weights),
            f"empty or a number above 0 for each of data ({len(self.data)})",
        )
        _check(
            0 <= self.ref_model_mixup_alpha <= 1,
            "ref_model_mixup_alpha",
            self.ref_model_mixup_alpha,
            "in [0, 1]",
        )
        _check(
            0 <= self.soft_punish_cache <= self.max_completion_length,
            "soft_punish_cache",
            self.soft_punish_cache,
            f"from 0 to max_completion_length ({self.max_completion_length})",
        )
        _check(
            self.max_logp_difference is None or self.max_logp_difference > 0,
            "max_logp_difference",
            self.max_logp_difference,
            "above 0, or null for no bound",
        )
        for name in ("max_rejected_share", "max_unscored_share"):
            _check(0 <= getattr(self, name) <= 1, name, getattr(self, name), "in [0, 1]")
        _check(bool(self.reward_funcs) or self.method == "sft", "reward_funcs", [], "at least one reward")


_AT_LEAST_ONE = (
    "max_steps",
    "max_prompt_length",
    "prompts_per_step",
    "num_generations",
    "num_iterations",
    "ref_model_sync_steps",
    "max_completion_length",
    "max_bad_steps",
    "logprob_chunk",
    "eval_steps",
    "eval_batch_size",
    "logging_steps",
    "save_steps",
)
_AT_LEAST_ZERO = (
    "gradient_accumulation_steps",
    "seed",
    "top_k",
    "beta",
    "learning_rate",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
)


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a YAML file and lay dotted overrides (`{"mesh.fsdp": 2}`) over it.

    `output_dir` defaults to runs/NAME, NAME being the file's name.
    Raises ConfigError naming the file and key.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file")
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values, found a {type(values).__name__}")
    values.setdefault("output_dir", f"runs/{path.stem}")
    for key, value in (overrides or {}).items():
        _set(values, key.split("."), value, key)
    return build_config(values, str(path))


def build_config(values: Mapping[str, Any], where: str = "config") -> RunConfig:
    """A RunConfig from plain values, all keys and types checked."""
    try:
        return _build(RunConfig, values, "")
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def shared_settings(config: RunConfig, kind: Any) -> dict[str, Any]:
    """The values of a config for the fields of a smaller settings dataclass, whose names are the config's."""
    return {item.name: getattr(config, item.name) for item in fields(kind)}


def dump_config(config: RunConfig) -> str:
    """YAML that `load_config` reads back to an equal config."""
    return yaml.safe_dump(_plain(asdict(config)), sort_keys=False)


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """`--key value` and `--key=value` pairs; values are read as YAML (so `null`, `true`, `[a, b]` work)."""
    overrides: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        key = rest.pop(0)
        if not key.startswith("--") or key == "--":
            raise ConfigError(f"expected --key value, found {key!r}")
        key, equals, value = key[2:].partition("=")
        if not equals:
            if not rest:
                raise ConfigError(f"--{key} has no value")
            value = rest.pop(0)
        try:
            overrides[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            overrides[key] = value
    return overrides


def _set(values: dict[str, Any], path: list[str], value: Any, key: str) -> None:
    for name in path[:-1]:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--{key}: {name} is not a section")
    values[path[-1]] = value


def _build(kind: Any, values: Any, prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{prefix.rstrip('.')} is a section of keys, found {values!r}")
    hints = typing.get_type_hints(kind)
    names = [f.name for f in fields(kind)]
    for key in values:
        if key not in names:
            raise ConfigError(f"unknown key {prefix + str(key)!r}{_suggestion(str(key), names)}")
    return kind(**{key: _coerce(hints[key], value, prefix + key) for key, value in values.items()})


def _suggestion(key: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _coerce(kind: Any, value: Any, key: str) -> Any:
    if is_dataclass(kind):
        return _build(kind, value, f"{key}.")
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _coerce(next(a for a in arguments if a is not type(None)), value, key)
    if origin is Literal:
        _check(value in arguments, key, value, f"one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_coerce(arguments[0], item, key) for item in items)
    return _scalar(kind, value, key)


def _scalar(kind: type, value: Any, key: str) -> Any:
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 reads 1e-6 as text
        except ValueError:
            pass
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    article = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
    raise ConfigError(f"{key} is {value!r}; it must be {article[kind.__name__]}")


def _check(holds: bool, key: str, value: Any, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"{key} is {value!r}; it must be {allowed}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
