"""The typed config of a run: YAML files plus dotted overrides.

Every unknown key or bad value is an error that names it.

Names are TRL's `GRPOConfig` where TRL has them. Knows no model, no data and no device.
"""

import difflib
import types
import typing
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from vtzero import plain_yaml
from vtzero.ranges import Range, at_least, out_of_range, shown


class ConfigError(ValueError):
    """A user's mistake in a config: one line that names the key and says what to do."""


# The upper ends are far beyond use: they keep a slip of the finger from becoming a request for memory, or a
# number that float32 or int32 cannot hold.
_MOST = 1e30
_MOST_TOKENS = 2**31
Steps = Annotated[int, at_least(1, 10_000_000)]
Count = Annotated[int, at_least(1, 2**20)]
Pixels = Annotated[int, at_least(1, 2**30)]
MoreOrLess = Annotated[float, Range(-_MOST, _MOST, "a finite number")]
NotNegative = Annotated[float, at_least(0, _MOST)]
Share = Annotated[float, Range(0, 1, "in [0, 1]")]
# The nearest float32 below 1 is 0.99999994; 1 itself would divide by zero.
Decay = Annotated[float, Range(0, 0.9999999, "in [0, 1)")]
Devices = Annotated[int, Range(-1, 2**20, "-1 for the rest, or at least 1", without=(0,))]
_LONGEST_NAME, _LONGEST_TEXT = 255, 4096
"""Bytes: what a file may be called, and a path."""


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each axis; -1 is whatever is left.

    `fsdp` None is as few as leave room in a device's memory where `data` takes the rest, and 1 elsewhere.
    """

    data: Devices = -1
    fsdp: Devices | None = None
    tensor: Devices = 1

    def __post_init__(self) -> None:
        _check_ranges(self, "mesh.")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Every setting of a run. What a setting means stands in the README's table."""

    # What is trained, and how
    method: Literal["grpo", "sft"] = "grpo"
    model: str = "tiny"
    output_dir: str = ""
    seed: Annotated[int, at_least(0, 2**32 - 1)] = 42
    max_steps: Steps = 1500
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool = True
    gradient_checkpointing_policy: Literal["full", "dots"] = "full"
    attention: Literal["auto", "xla", "blocked", "cudnn", "splash"] = "auto"
    freeze: tuple[str, ...] = ()
    mesh: MeshConfig = field(default_factory=MeshConfig)
    gather_for_generation: bool | None = None

    # Data and prompts
    data: tuple[str, ...] = ("scenes",)
    data_weights: tuple[Annotated[float, Range(1e-6, 1e6, "above 0 (1e-6 to 1e6)")], ...] = ()
    data_split: str = "train"
    data_limit: Annotated[int, at_least(1, 2**40)] | None = None
    image_folders: tuple[str, ...] = ()
    question_types: tuple[str, ...] = ()
    max_images: Annotated[int, at_least(0, 1000)] | None = None
    prompt_template: str = "r1_zero_base"
    max_prompt_length: Count = 1024
    min_pixels: Pixels | None = None
    max_pixels: Pixels | None = None

    # The batch of groups
    prompts_per_step: Count = 8
    num_generations: Count = 8
    gradient_accumulation_steps: Annotated[int, at_least(0, 2**20)] = 1
    num_iterations: Annotated[int, at_least(1, 1000)] = 1
    packing: bool = False
    completion_length_buckets: tuple[Count, ...] = ()

    # Sampling
    max_completion_length: Count = 700
    temperature: Annotated[
        float, Range(1e-3, 1e3, "above 0 (0.001 to 1,000): a greedy group has no advantage")
    ] = 1.0
    top_k: Annotated[int, at_least(0, 2**31 - 1)] = 0
    top_p: Annotated[float, Range(1e-6, 1, "in (0, 1]")] = 1.0
    min_p: Annotated[float, Range(0, 0.999999, "in [0, 1)")] = 0.0
    repetition_penalty: Annotated[float, Range(1e-3, 1e3, "above 0 (0.001 to 1,000)")] = 1.0

    # Rewards
    reward_funcs: tuple[str, ...] = ("accuracy_paper", "format_paper")
    reward_weights: tuple[MoreOrLess, ...] = ()
    reward_timeout: Annotated[float, Range(1e-3, 86_400, "above 0 seconds, and at most a day (86,400)")] = (
        30.0
    )
    soft_punish_cache: Annotated[int, at_least(0, 2**20)] = 0

    # Supervised fine-tuning
    sft_target: Literal["answer", "tagged", "solution"] = "answer"
    completion_only_loss: bool = True

    # Objective
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = "grpo"
    beta: NotNegative = 0.04
    epsilon: NotNegative = 0.2
    epsilon_high: NotNegative | None = None
    scale_rewards: Literal["group", "batch", "none"] = "group"
    mask_truncated_completions: bool = False
    sync_ref_model: bool = False
    ref_model_sync_steps: Steps = 512
    ref_model_mixup_alpha: Share = 0.6
    logprob_chunk: Count = 1024

    # Optimizer
    learning_rate: NotNegative = 1e-6
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "linear"
    lr_schedule_steps: Steps | None = None
    warmup_steps: Annotated[int, at_least(0, 10_000_000)] = 0
    adam_beta1: Decay = 0.9
    adam_beta2: Decay = 0.999
    adam_epsilon: Annotated[float, Range(1e-30, 1, "from 1e-30 to 1")] = 1e-8
    weight_decay: NotNegative = 0.0
    max_grad_norm: NotNegative = 1.0

    # What ends a run
    max_bad_steps: Steps = 5
    max_logp_difference: Annotated[float, Range(1e-9, _MOST, "above 0, or null for no bound")] | None = 0.05
    max_rejected_share: Share = 0.5
    max_failed_share: Share = 0.25

    # Evaluation, logs, checkpoints
    eval_data: str | None = "scenes"
    eval_limit: Annotated[int, at_least(1, 2**40)] | None = None
    eval_image_folder: str | None = None
    eval_prompt_template: str | None = None
    eval_max_pixels: Pixels | None = None
    eval_steps: Steps = 100
    eval_batch_size: Count = 64
    logging_steps: Steps = 1
    log_completions: bool = True
    print_completions_steps: Annotated[int, at_least(0, 10_000_000)] = 0
    tensorboard: bool = True
    wandb: bool = False
    save_steps: Steps = 100
    save_total_limit: Count | None = 2

    def __post_init__(self) -> None:
        _check_ranges(self)
        self._check_data()
        self._check_batch()
        self._check_lengths()
        self._check_rewards()

    def _check_data(self) -> None:
        _check(bool(self.data), "data", [], "at least one source")
        _check(
            len(self.data_weights) in (0, len(self.data)),
            "data_weights",
            self.data_weights,
            f"empty or a number above 0 for each of data ({len(self.data)})",
        )
        for name in ("max_pixels", "eval_max_pixels"):
            most = getattr(self, name)
            _check(
                self.min_pixels is None or most is None or self.min_pixels <= most,
                name,
                most,
                f"at least min_pixels ({self.min_pixels})",
            )

    def _check_batch(self) -> None:
        _check(
            self.num_generations >= 2 or self.method == "sft",
            "num_generations",
            self.num_generations,
            "at least 2",
        )
        _check(
            self.prompts_per_step % max(self.gradient_accumulation_steps, 1) == 0,
            "gradient_accumulation_steps",
            self.gradient_accumulation_steps,
            f"a divisor of prompts_per_step ({self.prompts_per_step}), or 0 for as few as fit the memory",
        )
        most = get_args(Steps)[1].most
        _check(
            self.max_steps * self.num_iterations <= most,
            "max_steps * num_iterations",
            self.max_steps * self.num_iterations,
            f"at most {most:,}",
        )

    def _check_lengths(self) -> None:
        group = self.num_generations if self.method == "grpo" else 1
        completions = group * self.max_completion_length
        for name, rows, length in (
            ("prompts_per_step", self.prompts_per_step, self.max_prompt_length + completions),
            ("eval_batch_size", self.eval_batch_size, self.max_prompt_length + self.max_completion_length),
        ):
            _check(
                rows * length < _MOST_TOKENS,
                name,
                rows,
                f"lower, or the lengths: a batch of {rows * length:,} tokens is more than {_MOST_TOKENS:,}",
            )
        buckets = (*self.completion_length_buckets, self.max_completion_length)
        _check(
            all(one < other for one, other in pairwise(buckets)),
            "completion_length_buckets",
            self.completion_length_buckets,
            f"ascending lengths from 1 to below max_completion_length ({self.max_completion_length})",
        )
        _check(
            self.soft_punish_cache <= self.max_completion_length,
            "soft_punish_cache",
            self.soft_punish_cache,
            f"from 0 to max_completion_length ({self.max_completion_length})",
        )

    def _check_rewards(self) -> None:
        _check(bool(self.reward_funcs) or self.method == "sft", "reward_funcs", [], "at least one reward")
        _check(
            len(set(self.reward_funcs)) == len(self.reward_funcs),
            "reward_funcs",
            self.reward_funcs,
            "each reward once: its metrics have its name",
        )
        _check(
            len(self.reward_weights) in (0, len(self.reward_funcs)),
            "reward_weights",
            self.reward_weights,
            f"empty or as many as reward_funcs ({len(self.reward_funcs)})",
        )


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a YAML file and lay dotted overrides (`{"mesh.fsdp": 2}`) over it.

    `output_dir` defaults to runs/NAME, NAME being the file's name.
    Raises ConfigError naming the file and key.
    """
    path = Path(path)
    values = _read(path)
    values.setdefault("output_dir", f"runs/{path.stem}")
    for key, value in (overrides or {}).items():
        _set(values, key.split("."), value, key)
    config = build_config(values, str(path))
    if not config.output_dir:
        raise ConfigError(f"{path}: output_dir is ''; it must be the path of a folder")
    return config


def _read(path: Path) -> dict[Any, Any]:
    """The keys and values of a file."""
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder, not a config file")
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file; it comes first, and then --key value pairs")
    try:
        # A little more than is ever read, of a file that may be no config at all.
        with path.open("rb") as file:
            values = plain_yaml.read(file.read(4 * plain_yaml.MOST_CHARACTERS + 1).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except plain_yaml.PlainYamlError as error:
        raise ConfigError(f"{path}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    if values is None:
        raise ConfigError(f"{path}: is empty; write at least one key and its value")
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values, found a {type(values).__name__}")
    return values


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
    return plain_yaml.write(_plain(asdict(config)))


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """`--key value` and `--key=value` pairs; values are read as YAML (so `null`, `true`, `[a, b]` work)."""
    overrides: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        key = rest.pop(0)
        if not key.startswith("--") or key == "--":
            raise ConfigError(f"expected --key value, found {key!r}")
        key, equals, value = key[2:].partition("=")
        if not equals and rest and not rest[0].startswith("--"):
            value = rest.pop(0)
        if not value.strip():
            raise ConfigError(f"--{key} has no value; write null where none is meant")
        try:
            overrides[key] = plain_yaml.read(value)
        except plain_yaml.PlainYamlError:
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
        raise ConfigError(f"{prefix.rstrip('.')} is a section of keys, found {shown(values)}")
    hints = typing.get_type_hints(kind)
    names = [f.name for f in fields(kind)]
    for key in values:
        if key not in names:
            raise ConfigError(f"unknown key {shown(prefix + str(key))}{suggestion(str(key), names)}")
    return kind(**{key: _coerce(hints[key], value, prefix + key) for key, value in values.items()})


def suggestion(key: str, names: Sequence[str]) -> str:
    """The end of a message on an unknown `key`: the name that comes closest, or nothing."""
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
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    allowed = int | float if kind is float else kind
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        _check(False, key, value, words[kind])
    if kind is str:
        _check_text(key, value)
    try:
        return float(value) if kind is float else value
    except OverflowError:
        raise ConfigError(f"{key} is {shown(value)}; it must be {words[kind]} of ordinary size") from None


def _check_text(key: str, text: str) -> None:
    """Most texts are paths or become parts of one; all are shown."""
    whole = all(unicodedata.category(letter) not in ("Cc", "Cs") for letter in text)
    _check(whole, key, text, "text in one line, without control characters")
    names = text.encode().split(b"/")
    fits = len(text.encode()) <= _LONGEST_TEXT and max(map(len, names)) <= _LONGEST_NAME
    _check(fits, key, text, f"at most {_LONGEST_TEXT} bytes long, and {_LONGEST_NAME} between slashes")


def _check_ranges(settings: Any, prefix: str = "") -> None:
    for name, value, words in out_of_range(settings):
        _check(False, prefix + name, value, words)


def _check(holds: bool, key: str, value: Any, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"{key} is {shown(value)}; it must be {allowed}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
