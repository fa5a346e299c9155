"""Hugging Face folders of Qwen2-VL in and out: config.json and safetensors <-> parameters on devices.

Needs neither torch nor the hub. Knows files and shardings; knows nothing of runs and checkpoints of runs.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array

from vtzero.models.attention import Kernel
from vtzero.models.layers import Remat
from vtzero.models.qwen2_vl.config import Qwen2VLConfig
from vtzero.models.qwen2_vl.weights import (
    EMBEDDING_NAME,
    OUTPUT_NAME,
    ParameterPath,
    abstract_model,
    hub_name,
    parameter_names,
    parameter_shapes,
    tensor_shapes,
)
from vtzero.parallel.processes import is_first, on_host, wait_for_all
from vtzero.training.huggingface_folder import INDEX, WEIGHTS, checkpoint_tensors, read_config
from vtzero.training.tensor_files import StoredTensor, read_slice, write_tensors

__all__ = ["hub_config", "load_model", "read_config", "save_model"]

Shape = tuple[int, ...]
ParameterKey = tuple[str, ...]
Leaves = Mapping[ParameterKey, Array]
Sharding = jax.sharding.Sharding
Shardings = Callable[[ParameterKey], Sharding | None] | Mapping[str, Any]

# transformers' default (save_pretrained of version 5).
MAX_SHARD_SIZE = 50 * 10**9
COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)
"""Files beside the weights that an export copies from its source."""


def load_model(
    folder: str | Path,
    *,
    dtype: Any = jnp.float32,
    parameter_dtype: DTypeLike | None = None,
    sharding: Shardings | None = None,
    remat: Remat = "none",
    attention: Kernel = "auto",
) -> tuple[nnx.GraphDef, nnx.State]:
    """Read a Hugging Face folder: the split `Qwen2VL` that computes in `dtype`, its parameters on devices.

    Parameters keep the dtype they are stored in unless `parameter_dtype` says otherwise. `sharding` gives
    each parameter's sharding by its path, as a function or as a tree like the parameters (None is the default
    device). Each device reads an equal part of every tensor, whole rows of it, and the devices exchange what
    they read: together, all processes read the folder once. One parameter at a time is assembled on the
    host; a CPU device takes that memory over, so that the peak is the size of the parameters.

    Raises FileNotFoundError and ValueError, in one line that names the file or the tensor, when the folder's
    weights are absent, pickled, damaged, misshapen, too few or too many (see `checkpoint_tensors`).
    """
    config = read_config(folder)
    shapes = parameter_shapes(config)
    layers = _layers_by_parameter(checkpoint_tensors(Path(folder), config), config)
    # The largest first: what an exchange needs for a moment then fits in the room of those still to come.
    order = sorted(shapes, key=lambda path: -math.prod(shapes[path]))
    placed = {
        path: _load_parameter(layers[path], shapes[path], parameter_dtype, _sharding_at(sharding, path))
        for path in order
    }
    graphdef, state = abstract_model(config, dtype=dtype, remat=remat, attention=attention)
    nnx.replace_by_pure_dict(state, unflatten_dict(placed))
    return graphdef, state


def _layers_by_parameter(
    stored: Mapping[str, StoredTensor], config: Qwen2VLConfig
) -> dict[ParameterKey, list[StoredTensor]]:
    """The stored layers of each parameter, in order; one where it is not stacked."""
    by_hub_name = {hub_name(name): tensor for name, tensor in stored.items()}
    layers: dict[ParameterKey, list[StoredTensor]] = {}
    for name, place in parameter_names(config).items():
        layers.setdefault(place.path, []).append(by_hub_name[name])
    return layers


def _load_parameter(
    layers: list[StoredTensor], shape: Shape, dtype: DTypeLike | None, sharding: Sharding | None
) -> Array:
    # Layers of different dtypes meet in one that holds them all exactly.
    kind = np.dtype(dtype or jnp.result_type(*(tensor.dtype for tensor in layers)))
    # Devices that own the same slice share one reading of it.
    read = cache(partial(_read, layers, shape, kind))

    def owned(index: tuple[slice, ...] | None) -> np.ndarray:
        spans = zip(index or (slice(None),) * len(shape), shape, strict=True)
        return read(tuple(span.indices(size)[:2] for span, size in spans))

    if sharding is None:
        # Transfers are asynchronous: without waiting, the host copies of all parameters would pile up.
        return jax.block_until_ready(jax.device_put(owned(None)))
    by_rows = _by_rows(sharding, shape, len(shape) - len(layers[0].shape))
    array = jax.block_until_ready(jax.make_array_from_callback(shape, by_rows, owned))
    return array if by_rows == sharding else jax.block_until_ready(_moved(sharding)(array))


def _by_rows(sharding: Sharding, shape: Shape, axis: int) -> Sharding:
    """Equal parts of the rows of each layer for the devices of `sharding`, where they divide.

    A row of a file is read whole. Where devices own columns, each would read every row, and where they own
    the same slice, as replicas do, so would each process.
    """
    if not isinstance(sharding, NamedSharding) or shape[axis] % sharding.mesh.size:
        return sharding
    return NamedSharding(sharding.mesh, PartitionSpec(*(None,) * axis, sharding.mesh.axis_names))


@cache
def _moved(sharding: Sharding) -> Any:
    return jax.jit(lambda array: array, out_shardings=sharding)


def _read(
    layers: list[StoredTensor], shape: Shape, dtype: np.dtype, spans: tuple[tuple[int, int], ...]
) -> np.ndarray:
    """The given part of a parameter; a stacked one is read layer by layer into its place."""
    index = tuple(slice(*span) for span in spans)
    out = _aligned_empty(tuple(stop - start for start, stop in spans), dtype)
    if len(shape) == len(layers[0].shape):
        read_slice(layers[0], index, out)
        return out
    for tensor, row in zip(layers[index[0]], out, strict=True):
        read_slice(tensor, index[1:], row)
    return out


def _aligned_empty(shape: Shape, dtype: np.dtype) -> np.ndarray:
    """Room that begins at a multiple of 64 bytes: a CPU device then takes it over instead of copying it."""
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size].view(dtype).reshape(shape)


def _sharding_at(sharding: Shardings | None, path: ParameterKey) -> Sharding | None:
    if sharding is None:
        return None
    if callable(sharding):
        return sharding(path)
    node: Any = nnx.to_pure_dict(sharding) if isinstance(sharding, nnx.State) else sharding
    for key in path:
        node = node[key]
    return node


@dataclass(frozen=True)
class _Planned:
    """One tensor of an export: from which parameter, and as what it is written."""

    place: ParameterPath
    dtype: np.dtype
    shape: Shape

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def save_model(
    source: str | Path | None,
    params: Mapping[str, Any],
    config: Qwen2VLConfig,
    out_folder: str | Path,
    *,
    max_shard_size: int = MAX_SHARD_SIZE,
) -> None:
    """Write parameters (an `nnx.State` or its pure dictionary) as a folder that transformers loads.

    With a `source` folder, tensors keep its names and dtypes and, where it has an index, its assignment to
    files; its config, tokenizer and processor files are copied byte for byte. Without one, names are the
    hub's, dtypes are the parameters' own, and config.json is written in the hub's flat form. Files that no
    source assigns are filled up to `max_shard_size` bytes. The folder appears whole, by a rename, or not at
    all; one tensor at a time is brought to the host. Parameters that span several processes are written by
    the first; each must call this.

    Raises FileExistsError when `out_folder` holds files already, and ValueError when the parameters, the
    config and the source do not belong together.
    """
    out = Path(out_folder)
    if is_first() and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out}: exists and is not empty; choose another folder or remove it")
    origin = None if source is None else Path(source)
    if origin is not None and read_config(origin) != config:
        raise ValueError(f"{origin}: its config.json describes another network than the parameters'")
    leaves = _checked_leaves(params, config)
    plan = _plan_new(leaves, config) if origin is None else _plan_like(origin, config)
    shards, index = _assign(origin, plan, max_shard_size)
    if not is_first():
        _write_weights(None, shards, plan, leaves)
        wait_for_all("saved")
        return
    partial_folder = out.parent / f".{out.name}.partial"
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir(parents=True)
    try:
        _write_companions(origin, config, partial_folder)
        _write_weights(partial_folder, shards, plan, leaves)
        if index is not None:
            (partial_folder / INDEX).write_bytes(index)
        partial_folder.rename(out)
    except BaseException:
        shutil.rmtree(partial_folder, ignore_errors=True)
        raise
    if _is_spread(leaves):
        wait_for_all("saved")


def _checked_leaves(params: Mapping[str, Any], config: Qwen2VLConfig) -> Leaves:
    """The parameters by path, checked to be all of the network's."""
    leaves = flatten_dict(nnx.to_pure_dict(params) if isinstance(params, nnx.State) else dict(params))
    shapes = parameter_shapes(config)
    for path in sorted(leaves.keys() ^ shapes.keys()):
        trouble = "missing" if path in shapes else "not one of the network's"
        raise ValueError(f"parameter {'.'.join(path)!r} is {trouble}")
    for path, leaf in leaves.items():
        if leaf.shape != shapes[path]:
            raise ValueError(f"parameter {'.'.join(path)!r} has shape {leaf.shape}, not {shapes[path]}")
    return leaves


def _is_spread(leaves: Leaves) -> bool:
    return any(isinstance(leaf, jax.Array) and not leaf.is_fully_addressable for leaf in leaves.values())


def _plan_like(source: Path, config: Qwen2VLConfig) -> dict[str, _Planned]:
    places = parameter_names(config)
    # A tied model whose source repeats the embeddings as its head gets the same repetition.
    places.setdefault(OUTPUT_NAME, places[EMBEDDING_NAME])
    return {
        name: _Planned(places[hub_name(name)], tensor.dtype, tensor.shape)
        for name, tensor in checkpoint_tensors(source, config).items()
    }


def _plan_new(leaves: Leaves, config: Qwen2VLConfig) -> dict[str, _Planned]:
    shapes = tensor_shapes(config)
    return {
        name: _Planned(place, np.dtype(leaves[place.path].dtype), shapes[name])
        for name, place in parameter_names(config).items()
    }


def _assign(
    source: Path | None, plan: Mapping[str, _Planned], max_shard_size: int
) -> tuple[dict[str, list[str]], bytes | None]:
    """Which tensors go in which file, and the bytes of the index where there is one."""
    if source is not None and not (source / WEIGHTS).is_file():
        raw = (source / INDEX).read_bytes()
        return _by_file(json.loads(raw)["weight_map"].items()), raw
    groups = _fill(plan, max_shard_size)
    if len(groups) == 1:
        return {WEIGHTS: groups[0]}, None
    names = [f"model-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1)]
    shards = dict(zip(names, groups, strict=True))
    return shards, _index(shards, plan)


def _by_file(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    files: dict[str, list[str]] = {}
    for name, file in pairs:
        files.setdefault(file, []).append(name)
    return files


def _fill(plan: Mapping[str, _Planned], limit: int) -> list[list[str]]:
    """Tensors in order, a new file whenever the next would pass the limit; a larger one stands alone."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, tensor in plan.items():
        if groups[-1] and size + tensor.nbytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += tensor.nbytes
    return groups


def _index(shards: Mapping[str, list[str]], plan: Mapping[str, _Planned]) -> bytes:
    metadata = {
        "total_parameters": sum(math.prod(tensor.shape) for tensor in plan.values()),
        "total_size": sum(tensor.nbytes for tensor in plan.values()),
    }
    weight_map = {name: file for file, names in shards.items() for name in names}
    content = {"metadata": metadata, "weight_map": weight_map}
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def _write_companions(source: Path | None, config: Qwen2VLConfig, folder: Path) -> None:
    if source is None:
        text = json.dumps(hub_config(config), indent=2, sort_keys=True) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
        return
    for name in COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _write_weights(
    folder: Path | None, shards: Mapping[str, list[str]], plan: Mapping[str, _Planned], leaves: Leaves
) -> None:
    """Without a folder nothing stays: each process has to help in bringing a tensor together."""
    for file, names in shards.items():
        layout = {name: (plan[name].dtype, plan[name].shape) for name in names}
        path = Path(os.devnull) if folder is None else folder / file
        write_tensors(path, layout, lambda name: _on_host(leaves, plan[name].place))


def _on_host(leaves: Leaves, place: ParameterPath) -> np.ndarray:
    leaf = leaves[place.path]
    # A slice, even of everything: an array that is read whole keeps its host copy for as long as it lives.
    if place.layer is None:
        return np.asarray(on_host(jax.lax.slice_in_dim(leaf, 0, leaf.shape[0])))
    return np.asarray(on_host(jax.lax.dynamic_index_in_dim(leaf, place.layer, keepdims=False)))


def hub_config(config: Qwen2VLConfig) -> dict[str, Any]:
    """`config.json` of this network in the hub's flat form; `parse_config` reads it back equal."""
    text, vision = dict(vars(config.text)), dict(vars(config.vision))
    section = list(text.pop("mrope_section"))
    vision["rope_parameters"] = {"rope_type": "axial", "rope_theta": vision.pop("rope_theta")}
    top = {name: value for name, value in vars(config).items() if name not in ("text", "vision")}
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "hidden_act": "silu",
        "rope_scaling": {"type": "mrope", "mrope_section": section},
        "vision_config": vision,
        **text,
        **top,
    }
