"""Log-probabilities of a head divided over eight devices against one. Run by `test_eight_devices.py`."""

from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.collectives import collectives, elements
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vtzero.grpo.logprobs import chunked_logprobs
from vtzero.parallel.mesh import MeshSettings, make_mesh
from vtzero.parallel.sharding import BATCH_AXES, parameter_spec

MESHES = [(8, 1, 1), (2, 2, 2), (1, 4, 2), (1, 1, 8)]
ROWS, VOCAB, WIDTH, CHUNK = 64, 96, 16, 16


def random_inputs(rows: int = ROWS, vocab: int = VOCAB, width: int = WIDTH) -> tuple[jax.Array, ...]:
    """Hidden states, head, targets, and the cotangent of each row's log-probability."""
    random = np.random.default_rng([rows, vocab, width])
    hidden = random.normal(0, 1, (rows, width)).astype(np.float32)
    head = random.normal(0, 1, (vocab, width)).astype(np.float32)
    # The first half is banned below: of two or more shares of the vocabulary one has no id left.
    targets = random.integers(vocab // 2, vocab, rows)
    return tuple(map(jnp.asarray, (hidden, head, targets, random.normal(0, 1, rows).astype(np.float32))))


def results(hidden: Any, head: Any, targets: Any, cotangent: Any) -> Any:
    """Log-probabilities, entropies, and the gradients of hidden states and head."""
    banned = jnp.arange(head.shape[0]) < head.shape[0] // 2

    def loss(hidden: Any, head: Any) -> Any:
        outputs = chunked_logprobs(hidden, head, targets, banned=banned, temperature=0.7, chunk=CHUNK)
        return (outputs[0] * cotangent).sum(), outputs

    gradients, outputs = jax.grad(loss, argnums=(0, 1), has_aux=True)(hidden, head)
    return *outputs, *gradients


def place(mesh: Mesh, inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Rows over `data` and `fsdp` where they divide, the head as the table says."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    rows = P(BATCH_AXES) if inputs[0].shape[0] % shards == 0 else P()
    head = parameter_spec("lm_head/weight", inputs[1].shape, mesh)
    specs = (rows, head, rows, rows)
    return tuple(
        jax.device_put(array, NamedSharding(mesh, spec)) for array, spec in zip(inputs, specs, strict=True)
    )


def assert_equal_one_device(actual: Any, inputs: tuple[jax.Array, ...]) -> None:
    for result, exact in zip(actual, jax.jit(results)(*inputs), strict=True):
        scale = np.abs(exact).max()
        np.testing.assert_allclose(result, exact, rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize("is_set", [True, False], ids=["mesh set", "mesh not set"])
@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_values_and_gradients_equal_one_device(sizes, is_set):
    mesh = make_mesh(MeshSettings(*sizes))
    inputs = random_inputs()
    with jax.set_mesh(mesh) if is_set else nullcontext():
        actual = jax.jit(results)(*place(mesh, inputs))
    assert_equal_one_device(actual, inputs)


@pytest.mark.parametrize(
    "shape",
    [{"rows": 61}, {"rows": 3}, {"vocab": 97}, {"width": 18}],
    ids=["rows", "fewer rows than devices", "vocabulary", "width"],
)
def test_what_does_not_divide_equals_one_device(shape):
    mesh = make_mesh(MeshSettings(data=1, fsdp=4, tensor=2))
    inputs = random_inputs(**shape)
    with jax.set_mesh(mesh):
        actual = jax.jit(results)(*place(mesh, inputs))
    assert_equal_one_device(actual, inputs)


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_devices_exchange_blocks_of_the_head_and_no_logits(sizes):
    mesh = make_mesh(MeshSettings(*sizes))
    inputs = place(mesh, random_inputs())
    where = (None, None, inputs[0].sharding, inputs[1].sharding)
    with jax.set_mesh(mesh):
        compiled = jax.jit(results, out_shardings=where).lower(*inputs).compile().as_text()
    readers, ids = mesh.shape["data"] * mesh.shape["fsdp"], VOCAB // mesh.shape["tensor"]
    rows, block = ROWS // readers, -(-ids * (CHUNK // readers) // (ROWS // readers))
    assert f"f32[{rows},{block}]" in compiled
    outside, inside = collectives(compiled)
    gathers = [shape for shape, name in inside if name == "all-gather"]
    sums = [shape for shape, name in inside if name != "all-gather"]
    # A block of the head in each pass, and the block's gradient over both axes of rows.
    assert len(gathers) == (2 if mesh.shape["fsdp"] > 1 else 0)
    assert len(sums) == sum(mesh.shape[axis] > 1 for axis in BATCH_AXES)
    assert all(elements(shape) <= block * WIDTH for shape in gathers + sums)
    # The hidden states' gradients over the vocabulary, and results where they are whole.
    assert all(elements(shape) <= ROWS * WIDTH for shape, _ in outside)
    assert not [shape for shape, _ in outside + inside if f"[{rows},{block}]" in shape]


def test_logits_over_a_divided_vocabulary_are_never_whole():
    mesh = make_mesh(MeshSettings(data=1, fsdp=1, tensor=8))
    inputs = place(mesh, random_inputs())
    with jax.set_mesh(mesh):
        compiled = jax.jit(results).lower(*inputs).compile().as_text()
    block = VOCAB // 8 * CHUNK // ROWS
    assert f"f32[{ROWS},{block}]" in compiled
    assert f"f32[{ROWS},{VOCAB // 8}]" not in compiled
