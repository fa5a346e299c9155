"""Names for the rewards that ship with the package, and loading of a person's own from a file.

It knows where functions are, not how they are weighted.
"""

import functools
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from vtzero.rewards.accuracy import (
    accuracy_lenient,
    accuracy_math_verify,
    accuracy_paper,
    accuracy_r1_v,
    accuracy_strict,
)
from vtzero.rewards.format import (
    format_open_r1,
    format_paper,
    format_r1_multimodal_journey,
    format_tags_only,
)
from vtzero.rewards.length import length_reward, soft_overlong
from vtzero.rewards.own import OwnReward
from vtzero.terminal import error_line

RewardFunction = Callable[..., Sequence[float | Exception | None]]
"""(completions, **columns) -> for each completion a score, None for no score, or why there is none."""

REWARDS: Mapping[str, RewardFunction] = MappingProxyType(
    {
        "accuracy_paper": accuracy_paper,
        "accuracy_strict": accuracy_strict,
        "accuracy_math_verify": accuracy_math_verify,
        "accuracy_r1_v": accuracy_r1_v,
        "accuracy_lenient": accuracy_lenient,
        "format_paper": format_paper,
        "format_open_r1": format_open_r1,
        "format_no_dotall": format_open_r1,
        "format_r1_multimodal_journey": format_r1_multimodal_journey,
        "format_tags_only": format_tags_only,
        "length": length_reward,
        "soft_overlong": soft_overlong,
    }
)
_WAY_OUT = f"use one of {', '.join(REWARDS)}, or path.py:name for a function of your own"


def load_reward(
    spec: str, settings: Mapping[str, Any] | None = None, *, time_limit: float = 30.0
) -> RewardFunction:
    """The reward function that a specification names.

    Args:
        spec: a registered name, or `path.py:name` for a function in a person's own file (relative to the
            working directory; `~` is expanded). The file is executed in a process of its own (`own.py`),
            where a call may take `time_limit` seconds.
        settings: what a registered function may want beside its columns, such as `max_completion_length`;
            each is given those settings that it names.

    Raises:
        ValueError: there is no such name, file or function, or the file cannot be executed.
    """
    if spec in REWARDS:
        return _with_settings(REWARDS[spec], settings or {})
    path, colon, name = spec.rpartition(":")
    if not (colon and path.endswith(".py") and name):
        raise ValueError(f"reward {spec!r}: no such name; {_WAY_OUT}")
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"reward {spec!r}: there is no file {str(file)!r}; correct the path, or {_WAY_OUT}")
    return OwnReward(file.resolve(), name, spec, time_limit)


def own_function(file: Path, name: str, spec: str) -> RewardFunction:
    """The function in a person's own file, which is executed here.

    Raises ValueError as `load_reward` does.
    """
    return _function(_execute(file, spec), name, spec)


def _with_settings(function: RewardFunction, settings: Mapping[str, Any]) -> RewardFunction:
    named = inspect.signature(function).parameters.keys() & settings.keys()
    return functools.partial(function, **{name: settings[name] for name in named}) if named else function


def _execute(file: Path, spec: str) -> ModuleType:
    digest = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]
    module_spec = importlib.util.spec_from_file_location(f"vtzero_reward_{file.stem}_{digest}", file)
    if module_spec is None or module_spec.loader is None:
        raise ValueError(f"reward {spec!r}: Python has no loader for {str(file)!r}; name a .py file")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module.__name__] = module  # dataclasses and pickle look a function's module up there
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise ValueError(
            f"reward {spec!r}: running {str(file)!r} failed with {error_line(error)}; correct the file"
        ) from error
    return module


def _function(module: ModuleType, name: str, spec: str) -> RewardFunction:
    function: Any = getattr(module, name, None)
    if callable(function):
        return function
    problem = (
        f"{name!r} is of type {type(function).__name__}, not a function"
        if hasattr(module, name)
        else f"no {name!r}"
    )
    offered = ", ".join(_own_functions(module)) or "none"
    raise ValueError(f"reward {spec!r}: {problem} in that file (its functions: {offered}); or {_WAY_OUT}")


def _own_functions(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
