"""The files of a model's folder that a processor is made of: tokenizer, image settings, stop ids.

Whatever is wrong with one is an error of one line that names it. No code that lies in a folder is ever run:
tokenizers are transformers' own classes, and chat templates are not rendered.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vtzero.json_files import read_object
from vtzero.models.qwen2_vl.config import Qwen2VLConfig, parse_config
from vtzero.terminal import error_line

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_MOST_PIXELS = 2**30
_RESAMPLES = range(6)  # PIL's numbers


def read_network(folder: Path) -> Qwen2VLConfig:
    """What `folder`/config.json describes."""
    raw = read_object(folder / "config.json")
    try:
        return parse_config(raw)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of the folder, a fast one.

    Raises FileNotFoundError and ValueError naming the folder.
    """
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise FileNotFoundError(f"{folder}: neither tokenizer.json nor vocab.json is there")
    for name in _TOKENIZER_FILES:
        if (folder / name).is_file():
            read_object(folder / name)  # their own readers name no file
    try:
        # Said outright: left open, transformers would ask at the terminal whether to run a folder's code.
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the Rust library raises bare ones
        raise ValueError(_unreadable(folder, error)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # the Rust library's, which is no Exception
            raise
        raise ValueError(_unreadable(folder, error)) from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(
            f"{folder}: its tokenizer is a {type(tokenizer).__name__}; a tokenizer.json is needed"
        )
    return tokenizer


def _unreadable(folder: Path, error: BaseException) -> str:
    return f"{folder}: its tokenizer files cannot be read ({error_line(error)}); fetch them again"


def read_image_processor(
    folder: Path, min_pixels: int | None, max_pixels: int | None
) -> Qwen2VLImageProcessorPil:
    """By `preprocessor_config.json`, or the part of `processor_config.json` that transformers 5 writes."""
    file, settings = _image_settings(folder)
    known = {name: settings[name] for name in _IMAGE_KEYS if settings.get(name) is not None}
    for name, value in known.items():
        allowed, holds = _IMAGE_KEYS[name]
        if not holds(value):
            raise ValueError(f"{file}: {name} is {str(value)[:80]!r}; it must be {allowed}")
    try:
        size = _pixel_limits(settings, min_pixels, max_pixels)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return Qwen2VLImageProcessorPil(**known, size=size)


def _image_settings(folder: Path) -> tuple[Path, dict[str, Any]]:
    moved, file = folder / "processor_config.json", folder / "preprocessor_config.json"
    if moved.is_file() and isinstance(nested := read_object(moved).get("image_processor"), dict):
        return moved, nested
    return file, read_object(file)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1024


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 1e-6 < abs(value) < 1e6


def _are_channels(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(v == 0 or _is_number(v) for v in value)


def _are_deviations(value: Any) -> bool:
    return _are_channels(value) and all(number > 0 for number in value)


_SWITCH = ("true or false", _is_bool)
_SIZE = ("a whole number from 1 to 1024", _is_size)
_IMAGE_KEYS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "do_resize": _SWITCH,
    "resample": ("a whole number from 0 to 5", lambda value: not _is_bool(value) and value in _RESAMPLES),
    "do_rescale": _SWITCH,
    "rescale_factor": ("a number above 0", lambda value: _is_number(value) and value > 0),
    "do_normalize": _SWITCH,
    "image_mean": ("a number for each of three channels", _are_channels),
    "image_std": ("a number above 0 for each of three channels", _are_deviations),
    "do_convert_rgb": _SWITCH,
    "patch_size": _SIZE,
    "temporal_patch_size": _SIZE,
    "merge_size": _SIZE,
}


def _pixel_limits(
    settings: Mapping[str, Any], min_pixels: int | None, max_pixels: int | None
) -> dict[str, int]:
    """Limits by transformers 5's names: the call's, else the hub's keys, else `size`, else the default."""
    size = settings.get("size") or {}
    if not isinstance(size, dict):
        raise ValueError(f"size is {str(size)[:80]!r}; it must be an object")
    given = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    limits = {}
    for name, key in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        choices = (given[name], settings.get(name), size.get(key), size.get(name))
        chosen = next(
            (choice for choice in choices if choice is not None), Qwen2VLImageProcessorPil.size[key]
        )
        limits[key] = _pixels(name, chosen)
    if limits["shortest_edge"] > limits["longest_edge"]:
        raise ValueError(
            f"min_pixels is {limits['shortest_edge']} and max_pixels {limits['longest_edge']}; "
            "min_pixels must be no more than max_pixels"
        )
    return limits


def _pixels(name: str, value: Any) -> int:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 1 <= value <= _MOST_PIXELS:
        raise ValueError(f"{name} is {str(value)[:80]!r}; it must be a number from 1 to {_MOST_PIXELS}")
    return math.floor(value)


def read_stop_ids(folder: Path) -> list[int]:
    """The ids that end a completion by `generation_config.json`; none where it is not there."""
    path = folder / "generation_config.json"
    ids = read_object(path).get("eos_token_id") if path.is_file() else None
    listed: Sequence[Any] = [] if ids is None else ids if isinstance(ids, list) else [ids]
    for number in listed:
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise ValueError(f"{path}: eos_token_id has {str(number)[:80]!r}, which is no token's number")
    return list(listed)
