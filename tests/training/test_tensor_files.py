"""safetensors files against the safetensors package."""

import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from vtzero.training.tensor_files import read_header, read_slice, write_tensors


def random_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"b.weight": (7, 5, 3), "a.weight": (4, 6), "z": (3,), "é": (1, 9)}
    dtypes = [jnp.bfloat16, np.float32, np.float16, np.float32]
    return {
        name: rng.normal(size=shape).astype(dtype)
        for (name, shape), dtype in zip(shapes.items(), dtypes, strict=True)
    }


@pytest.fixture
def stored(tmp_path) -> Path:
    save_file(random_tensors(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path / "model.safetensors"


def read_whole(file: Path, name: str) -> np.ndarray:
    tensor = read_header(file)[name]
    out = np.empty(tensor.shape, tensor.dtype)
    read_slice(tensor, (slice(None),) * len(tensor.shape), out)
    return out


def test_header_and_tensors_are_those_of_the_package(stored):
    tensors = random_tensors()
    header = read_header(stored)
    assert header.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (header[name].shape, header[name].dtype) == (tensor.shape, tensor.dtype)
        assert header[name].nbytes == tensor.nbytes
        np.testing.assert_array_equal(read_whole(stored, name), tensor)


def test_tensors_come_in_the_order_of_their_bytes(stored):
    offsets = [tensor.offset for tensor in read_header(stored).values()]
    assert offsets == sorted(offsets)


def test_written_file_is_byte_for_byte_the_packages(stored, tmp_path):
    tensors = random_tensors()
    layout = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    write_tensors(tmp_path / "ours", layout, lambda name: tensors[name])
    assert (tmp_path / "ours").read_bytes() == stored.read_bytes()


@pytest.mark.parametrize("seed", range(5))
def test_any_slice_in_any_dtype(tmp_path, seed, monkeypatch):
    monkeypatch.setattr("vtzero.training.tensor_files._CHUNK_BYTES", 200)
    rng = np.random.default_rng(seed)
    whole = rng.normal(size=rng.integers(1, 12, 3)).astype(np.float32)
    save_file({"x": whole}, tmp_path / "file")
    edges = [sorted(rng.integers(0, size + 1, 2)) for size in whole.shape]
    index = tuple(slice(int(first), int(last)) for first, last in edges)
    for dtype in (np.float32, jnp.bfloat16):
        out = np.empty(whole[index].shape, dtype)
        read_slice(read_header(tmp_path / "file")["x"], index, out)
        np.testing.assert_array_equal(out, whole[index].astype(dtype))


def test_only_the_rows_asked_for_are_read(tmp_path, monkeypatch):
    save_file({"x": np.arange(1000, dtype=np.float32).reshape(100, 10)}, tmp_path / "file")
    counts = []
    fromfile = np.fromfile
    monkeypatch.setattr(
        np,
        "fromfile",
        lambda file, dtype, count, **at: counts.append(count) or fromfile(file, dtype, count, **at),
    )
    out = np.empty((3, 10), np.float32)
    read_slice(read_header(tmp_path / "file")["x"], (slice(40, 43), slice(None)), out)
    np.testing.assert_array_equal(out, np.arange(400, 430).reshape(3, 10))
    assert sum(counts) == 30


def cut(raw: bytes) -> bytes:
    return raw[:-1]


def cut_inside_header(raw: bytes) -> bytes:
    return raw[:20]


def cut_inside_length(raw: bytes) -> bytes:
    return raw[:5]


def lengthened(raw: bytes) -> bytes:
    return raw + b"\0"


def with_header(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "promises"),
        (lengthened, "promises"),
        (cut_inside_header, "cut short"),
        (cut_inside_length, "cut short"),
        (lambda raw: with_header(b"{not json"), "not JSON"),
        (lambda raw: with_header(b"[1, 2]"), "holds no JSON object"),
        (lambda raw: with_header(b'{"x": {"dtype": "F32"}}'), "malformed"),
        (
            lambda raw: with_header(b'{"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}'),
            "needs 12",
        ),
        (
            lambda raw: with_header(b'{"x": {"dtype": "I64", "shape": [0], "data_offsets": [0, 0]}}'),
            "'x' is I64",
        ),
    ],
)
def test_a_damaged_file_is_named(stored, damage, message):
    stored.write_bytes(damage(stored.read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        read_header(stored)
    assert str(stored) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nbytes_counts_elements(stored):
    tensor = read_header(stored)["b.weight"]
    assert tensor.nbytes == 2 * math.prod(tensor.shape)
