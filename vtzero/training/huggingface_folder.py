"""What lies in a Hugging Face folder of Qwen2-VL: its config and its tensors, checked against each other.

Reads headers, not weights. Everything that can be wrong with a folder is an error of one line that names the
file or the tensor.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from vtzero.data.processor_files import read_network
from vtzero.json_files import read_object
from vtzero.models.qwen2_vl.config import Qwen2VLConfig
from vtzero.models.qwen2_vl.weights import EMBEDDING_NAME, OUTPUT_NAME, hub_name, tensor_shapes
from vtzero.training.tensor_files import StoredTensor, read_header, read_slice

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_ROWS_COMPARED = 4096
_NAME = re.compile(r"[\w-][\w.-]{0,200}\.safetensors", re.ASCII)
"""Of a file in the folder itself: an index comes with the weights, and may name nothing beside them."""


def read_config(folder: str | Path) -> Qwen2VLConfig:
    """The network described by `folder`/config.json.

    Raises FileNotFoundError when the folder or the file is missing, ValueError when it is not a Qwen2-VL.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; name one that holds a Qwen2-VL from Hugging Face")
    return read_network(folder)


def checkpoint_tensors(folder: Path, config: Qwen2VLConfig) -> dict[str, StoredTensor]:
    """The folder's tensors by the name they are stored under, checked to be exactly those of the network.

    Names may be the hub's or transformers 5's. A tied network may repeat the embeddings as `lm_head.weight`.
    Raises FileNotFoundError when there are no weights, and ValueError when they are pickled or damaged, when
    a tensor is missing, unknown, stored twice or misshapen, and when a tied head differs from the embeddings.
    """
    stored = _stored_tensors(folder)
    by_hub_name = _by_hub_name(folder, stored)
    expected = tensor_shapes(config)
    if config.tie_word_embeddings and OUTPUT_NAME in by_hub_name:
        expected[OUTPUT_NAME] = expected[EMBEDDING_NAME]
    _check_all_present(folder, expected, by_hub_name)
    for known, name in by_hub_name.items():
        _check_shape(folder, name, stored[name].shape, expected.get(known))
    if config.tie_word_embeddings and OUTPUT_NAME in by_hub_name:
        _check_tied(folder, stored[by_hub_name[EMBEDDING_NAME]], stored[OUTPUT_NAME])
    return stored


def _by_hub_name(folder: Path, stored: Iterable[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for name in stored:
        known = hub_name(name)
        if known in names:
            raise ValueError(
                f"{folder}: tensor {known!r} is stored twice, as {names[known]!r} and as {name!r}"
            )
        names[known] = name
    return names


def _check_all_present(folder: Path, expected: Iterable[str], present: Mapping[str, str]) -> None:
    missing = [name for name in expected if name not in present]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise ValueError(f"{folder}: tensor {missing[0]!r} is missing{more}")


def _check_shape(folder: Path, name: str, shape: tuple[int, ...], expected: tuple[int, ...] | None) -> None:
    if expected is None:
        raise ValueError(f"{folder}: tensor {name!r} is no parameter of the network in config.json")
    if shape != expected:
        raise ValueError(f"{folder}: tensor {name!r} has shape {shape}, but config.json means {expected}")


def _check_tied(folder: Path, embedding: StoredTensor, output: StoredTensor) -> None:
    rows, width = embedding.shape
    for start in range(0, rows, _ROWS_COMPARED):
        count = min(_ROWS_COMPARED, rows - start)
        pair = np.empty((2, count, width), np.float32)
        for tensor, out in zip((embedding, output), pair, strict=True):
            read_slice(tensor, (slice(start, start + count), slice(None)), out)
        if not np.array_equal(*pair):
            raise ValueError(
                f"{folder}: tensor {OUTPUT_NAME!r} differs from the embeddings, but config.json ties the two"
            )


def _stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor by its stored name: from the single file if there is one, as in transformers."""
    if (folder / WEIGHTS).is_file():
        return read_header(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return _indexed_tensors(folder)
    pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
    if pickled:
        raise ValueError(
            f"{folder}: {pickled[0]} is a pickle, which can run code and is not read; save it as safetensors"
        )
    raise FileNotFoundError(
        f"{folder}: holds neither {WEIGHTS} nor {INDEX}; fetch the whole folder of the model"
    )


def _indexed_tensors(folder: Path) -> dict[str, StoredTensor]:
    weight_map = read_object(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{folder / INDEX}: the key 'weight_map' is missing, or no object")
    for file in weight_map.values():
        _check_shard(folder, file)
    stored: dict[str, StoredTensor] = {}
    for file in dict.fromkeys(weight_map.values()):
        for name, tensor in read_header(folder / file).items():
            if weight_map.get(name) != file:
                raise ValueError(
                    f"{folder / file}: holds tensor {name!r}, which the index does not place there"
                )
            stored[name] = tensor
    for name, file in weight_map.items():
        if name not in stored:
            raise ValueError(f"{folder / file}: tensor {name!r} is missing, though the index places it there")
    return stored


def _check_shard(folder: Path, file: object) -> None:
    if not isinstance(file, str) or not _NAME.fullmatch(file):
        raise ValueError(f"{folder / INDEX}: {file!r} is not the name of a file in the folder")
    if not (folder / file).is_file():
        raise ValueError(f"{folder / INDEX}: the file {file!r} that it names is missing; fetch it again")
