"""Kernels on hardware that need not be here: compiled ahead of time for TPU, lowered for CUDA, run on a GPU.

All at one layer of Qwen2-VL-2B: 12 query heads, 2 key heads, 128 dimensions; vision 16 heads of 80.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vtzero.models.attention import cudnn, group_attention, image_attention, xla

PROMPT, GROUP, LENGTH, PATCHES = 512, 8, 704, 1564
BATCH_AXES = ("data", "fsdp")


def shape(sharding: Any, *sizes: int, dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding)


def group_shapes(batch: int, prompt: int, length: int, sharding: Any = None) -> tuple[Any, ...]:
    """The prompt's queries, keys and values, its mask, and the completions'."""

    def qkv(*lead: int) -> tuple[jax.ShapeDtypeStruct, ...]:
        return tuple(shape(sharding, *lead, heads, 128) for heads in (12, 2, 2))

    mask = shape(sharding, batch, prompt, dtype=bool)
    return qkv(batch, prompt), mask, qkv(batch, GROUP, length)


def image_shapes(batch: int, patches: int, sharding: Any = None) -> tuple[Any, ...]:
    qkv = shape(sharding, batch, patches, 16, 80)
    return qkv, qkv, qkv, shape(sharding, batch, patches, dtype=jnp.int32)


def gradient(form: Callable) -> Callable:
    """Of the sum of squares of all outputs, in every floating input."""

    def differentiated(*inputs: Any) -> Any:
        leaves, structure = jax.tree.flatten(inputs)
        floating = [jnp.issubdtype(x.dtype, jnp.floating) for x in leaves]

        def total(varied: list[jax.Array]) -> jax.Array:
            rest = iter(varied)
            whole = [next(rest) if is_float else x for x, is_float in zip(leaves, floating, strict=True)]
            out = form(*jax.tree.unflatten(structure, whole))
            return sum(jnp.sum(x.astype(jnp.float32) ** 2) for x in jax.tree.leaves(out))

        return jax.grad(total)([x for x, is_float in zip(leaves, floating, strict=True) if is_float])

    return differentiated


@pytest.fixture(scope="module")
def tpus() -> np.ndarray:
    pytest.importorskip("libtpu", reason="needs libtpu, which compiles without a TPU: pip install 'jax[tpu]'")
    return np.array(topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices)


def compiled_for(tpus: np.ndarray, mesh_shape: tuple[int, int, int], form: Callable, shapes: Callable) -> Any:
    """The memory analysis of the gradient, with samples over the mesh's batch axes."""
    axis_types = (AxisType.Auto,) * 3
    mesh = Mesh(tpus.reshape(mesh_shape), ("data", "fsdp", "tensor"), axis_types=axis_types)
    with jax.set_mesh(mesh):
        program = jax.jit(gradient(form)).lower(*shapes(NamedSharding(mesh, P(BATCH_AXES))))
        assert "tpu_custom_call" in program.as_text()
        return program.compile().memory_analysis()


@pytest.mark.parametrize("mesh_shape", [(4, 1, 1), (1, 2, 2)], ids=["data", "tensor"])
def test_splash_groups_compile_for_tpu_without_their_scores(tpus, mesh_shape):
    """The kernel is chosen by the mesh in context, though the program is traced on a CPU."""
    batch = 2 * mesh_shape[0] * mesh_shape[1]
    memory = compiled_for(
        tpus, mesh_shape, group_attention, lambda sharding: group_shapes(batch, PROMPT, LENGTH, sharding)
    )
    heads = 12 // mesh_shape[2]
    scores = 2 * heads * (PROMPT**2 + GROUP * LENGTH * (PROMPT + LENGTH)) * 4
    assert memory.temp_size_in_bytes < scores / 2


def test_splash_images_compile_for_tpu_without_their_scores(tpus):
    memory = compiled_for(
        tpus, (4, 1, 1), image_attention, lambda sharding: image_shapes(8, PATCHES, sharding)
    )
    assert memory.temp_size_in_bytes < 2 * 16 * PATCHES**2 * 4 / 2


@pytest.fixture
def _any_cudnn(monkeypatch):
    """jax asks for cuDNN's version while it traces; lowering does not need the library."""
    flash = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(flash, "check_cudnn_version", lambda: 91200)


def cuda_calls(form: Callable, shapes: tuple[Any, ...]) -> list[str]:
    """The kernels of cuDNN in the gradient, by name."""
    text = jax.jit(gradient(form)).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()
    names = (line.split("@__cudnn$")[1].split("(")[0] for line in text.splitlines() if "@__cudnn$" in line)
    return sorted(names)


FLASH = ["fmhaSoftmax", "fmhaSoftmaxBackward"]
WITH_MASK = ["fmhaScaleBiasSoftmax", "fmhaScaleBiasSoftmaxBackward"]


@pytest.mark.usefixtures("_any_cudnn")
@pytest.mark.parametrize("odd", [0, 1], ids=["even", "odd"])
def test_cudnn_lowers_to_flash_kernels(odd):
    def grid(prompt, mask, rows):
        return cudnn.group_attention(prompt, mask, rows, None)

    assert cuda_calls(grid, group_shapes(2, PROMPT + odd, LENGTH + odd)) == sorted(2 * FLASH)
    packed = (
        *group_shapes(2, PROMPT + odd, LENGTH + odd),
        shape(None, 2, GROUP, LENGTH + odd, dtype=jnp.int32),
    )
    assert cuda_calls(cudnn.group_attention, packed) == sorted(FLASH + WITH_MASK)
    assert cuda_calls(cudnn.image_attention, image_shapes(2, PATCHES + odd)) == FLASH


@pytest.fixture
def _gpu():
    if jax.default_backend() != "gpu":
        pytest.skip("needs an NVIDIA GPU")


def drawn(shapes: tuple[Any, ...], seed: int) -> list[Any]:
    """Normal numbers in the place of floating shapes."""
    keys = iter(jax.random.split(jax.random.key(seed), 100))
    return [
        jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape, x.dtype), part)
        if jnp.issubdtype(jax.tree.leaves(part)[0].dtype, jnp.floating)
        else part
        for part in shapes
    ]


def close_on_gpu(forms: tuple[Callable, Callable], inputs: list[Any], keep: Any) -> None:
    """The second form's values and gradients, where padding is not read, to bfloat16's accuracy."""

    def read(form: Callable) -> Callable:
        return lambda *x: jax.tree.map(lambda out, real: jnp.where(real, out, 0), form(*x), keep)

    actual, expected = (jax.jit(lambda *x, f=f: (read(f)(*x), gradient(read(f))(*x)))(*inputs) for f in forms)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, e = np.float32(a), np.float32(e)
        assert np.linalg.norm(a - e) < 0.02 * np.linalg.norm(e)


@pytest.mark.gpu
@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize("packed", [False, True], ids=["grid", "packed"])
def test_cudnn_groups_equal_xla_on_a_gpu(packed):
    prompt, mask, rows = drawn(group_shapes(2, PROMPT - 1, LENGTH - 1), seed=0)
    mask = jnp.arange(PROMPT - 1) < jnp.asarray([[PROMPT - 1], [300]])
    numbers = jnp.broadcast_to(1 + jnp.arange(LENGTH - 1) // 200, rows[0].shape[:3])
    segments = numbers if packed else None

    def form(module: Any) -> Callable:
        return lambda prompt, rows: module.group_attention(prompt, mask, rows, segments)

    keep = (mask[..., None, None], jnp.ones((1, 1, 1, 1, 1), bool))
    close_on_gpu((form(cudnn), form(xla)), [prompt, rows], keep)


@pytest.mark.gpu
@pytest.mark.usefixtures("_gpu")
def test_cudnn_images_equal_xla_on_a_gpu():
    *qkv, _ = drawn(image_shapes(2, PATCHES - 1), seed=1)
    place = jnp.arange(PATCHES - 1)
    segments = jnp.stack([jnp.where(place < 1500, 1, 0), 1 + place // 400])

    def form(module: Any) -> Callable:
        return lambda query, key, value: module.image_attention(query, key, value, segments)

    close_on_gpu((form(cudnn), form(xla)), qkv, (segments > 0)[..., None, None])
