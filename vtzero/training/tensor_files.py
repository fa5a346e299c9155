"""safetensors files, read a slice and written a tensor at a time, so that host memory stays low.

The safetensors package maps whole files into memory on reading and needs every tensor at once on writing;
its format is a JSON header and raw bytes. Knows nothing of models.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from vtzero.json_files import parse_object

_DTYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(jnp.bfloat16), "F16": np.dtype(np.float16)}
_EXPONENTS: dict[np.dtype, np.uint32 | np.uint16] = {
    _DTYPES["F32"]: np.uint32(0x7F800000),
    _DTYPES["BF16"]: np.uint16(0x7F80),
    _DTYPES["F16"]: np.uint16(0x7C00),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_CHUNK_BYTES = 16 * 2**20
_LONGEST_HEADER = 100 * 10**6  # the safetensors package reads no more

Shape = tuple[int, ...]
Index = tuple[slice, ...]


@dataclass(frozen=True)
class StoredTensor:
    """Where the bytes of one tensor are, and what they are."""

    file: Path
    name: str
    offset: int
    dtype: np.dtype
    shape: Shape

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors in a safetensors file, in the order of their bytes; no tensor is read.

    Raises ValueError when the file is cut short or is not a safetensors file, and for a tensor that is not
    float32, bfloat16 or float16.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise ValueError(f"{file}: cut short or not a safetensors file ({size} bytes); fetch it again")
        header = _parse_header(file, stream.read(length))
    header.pop("__metadata__", None)
    start = 8 + length
    tensors = sorted(
        (_stored_tensor(file, start, name, entry) for name, entry in header.items()),
        key=lambda tensor: (tensor.offset, tensor.nbytes),
    )
    _check_cover(file, tensors, start, size)
    return {tensor.name: tensor for tensor in tensors}


def _check_cover(file: Path, tensors: Sequence[StoredTensor], start: int, size: int) -> None:
    """The bytes of a file are its tensors, one after the other: no byte is in two, and none is left over."""
    end = start
    for tensor in tensors:
        if tensor.offset != end:
            raise ValueError(
                f"{file}: tensor {tensor.name!r} begins at byte {tensor.offset}, where {end} is the next; "
                "fetch it again"
            )
        end += tensor.nbytes
    if end != size:
        raise ValueError(f"{file}: its header promises {end} bytes, but it has {size}; fetch it again")


def _parse_header(file: Path, raw: bytes) -> dict[str, Any]:
    try:
        return parse_object(raw)
    except ValueError as error:
        raise ValueError(f"{file}: not a safetensors file (its header: {error}); fetch it again") from None


def _stored_tensor(file: Path, start: int, name: str, entry: Any) -> StoredTensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        sound = isinstance(dtype, str) and all(
            type(number) is int and number >= 0 for number in (*shape, begin, end)
        )
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise ValueError(
            f"{file}: not a safetensors file (its header is malformed at {name!r}); fetch it again"
        ) from None
    if dtype not in _DTYPES:
        supported = ", ".join(_DTYPES)
        raise ValueError(f"{file}: tensor {name!r} is {dtype[:20]}, but only {supported} can be read")
    tensor = StoredTensor(file, name, start + begin, _DTYPES[dtype], tuple(shape))
    if tensor.nbytes != end - begin:
        raise ValueError(
            f"{file}: tensor {name!r} has {end - begin} bytes, but its shape needs {tensor.nbytes}"
        )
    return tensor


def read_slice(tensor: StoredTensor, index: Index, out: np.ndarray) -> None:
    """Copy `tensor[index]` into `out`, cast to its dtype; `index` has one slice of step 1 for each axis.

    Rows are read in pieces of 16 MiB: no second copy of a tensor is ever held.

    Raises ValueError where a number among them is NaN or infinite, or the file has become shorter.
    """
    rows, *rest = index
    start, stop, _ = rows.indices(tensor.shape[0])
    row_count = math.prod(tensor.shape[1:])
    step = max(1, _CHUNK_BYTES // max(1, row_count * tensor.dtype.itemsize))
    for first in range(start, stop, step):
        count = min(step, stop - first)
        offset = tensor.offset + first * row_count * tensor.dtype.itemsize
        piece = np.fromfile(tensor.file, tensor.dtype, count * row_count, offset=offset)
        _check_finite(tensor, piece)
        whole_rows = piece.reshape(count, *tensor.shape[1:])
        out[first - start : first - start + count] = whole_rows[(slice(None), *rest)]


def _check_finite(tensor: StoredTensor, numbers: np.ndarray) -> None:
    """By the bits of the exponent: 1.4 ms for 16 MiB of bfloat16, where numpy's isfinite takes 66."""
    mask = _EXPONENTS[tensor.dtype]
    if numbers.size and (numbers.view(mask.dtype) & mask).max() == mask:
        raise ValueError(f"{tensor.file}: tensor {tensor.name!r} holds NaN or infinity; no model can use it")


def write_tensors(
    file: Path, layout: Mapping[str, tuple[np.dtype, Shape]], value: Callable[[str], np.ndarray]
) -> None:
    """Write a safetensors file of the given dtypes and shapes, asking `value` for one tensor at a time.

    Tensors stand in the order of the safetensors package (dtype, then name), which keeps them aligned.
    """
    order = list(_DTYPES.values())
    names = sorted(layout, key=lambda name: (order.index(layout[name][0]), name))
    with file.open("wb") as stream:
        stream.write(_header({name: layout[name] for name in names}))
        for name in names:
            dtype, shape = layout[name]
            # A view of bytes: bfloat16 has no buffer format of its own.
            array = np.ascontiguousarray(value(name).astype(dtype, copy=False)).reshape(shape)
            stream.write(array.view(np.uint8).data)


def _header(layout: Mapping[str, tuple[np.dtype, Shape]]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape) in layout.items():
        end = offset + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    raw = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw
