"""Kernels on hardware that need not be here: compiled ahead of time for TPU, lowered for CUDA, run on a GPU.

All at one layer of Qwen2-VL-2B: 12 query heads, 2 key heads, 128 dimensions; vision 16 heads of 80.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vtzero.models.attention import cudnn, group_attention, image_attention, prompt_attention, xla
from vtzero.models.attention.decode import as_key_cache, as_value_cache, decode_attention
from vtzero.parallel.mesh import MeshSettings, make_mesh
from vtzero.planning.environment import prepare_environment

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


@cache
def tpu_mesh(name: str, sizes: tuple[int, int, int]) -> Mesh:
    """The axes `data`, `fsdp` and `tensor` over the chips of a slice that is not here."""
    pytest.importorskip("libtpu", reason="needs libtpu, which needs no TPU: pip install 'vtzero[plan]'")
    prepare_environment()
    devices = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    return make_mesh(MeshSettings(*sizes), devices)


def temporaries(mesh: Mesh, form: Callable, shapes: Callable, *, kernel: bool = True, **options: Any) -> int:
    """Bytes a chip that the compiled program holds beside what goes in and comes out; `shapes(sharding)` are
    its inputs, samples over the mesh's batch axes. `kernel`: whether Pallas's must be in it."""
    with jax.set_mesh(mesh):
        lowered = jax.jit(form, **options).lower(*shapes(NamedSharding(mesh, P(BATCH_AXES))))
        assert ("tpu_custom_call" in lowered.as_text()) == kernel
        return lowered.compile().memory_analysis().temp_size_in_bytes


def scores(rows: int, prompt: int, length: int = 0) -> int:
    """Bytes of all float32 scores of `rows` heads."""
    return rows * (prompt**2 + GROUP * length * (prompt + length)) * 4


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("v5e:2x2", (4, 1, 1)), ("v5e:2x2", (1, 2, 2)), ("v5p:2x2x1", (1, 1, 4))],
    ids=str,
)
def test_splash_groups_compile_for_tpu_without_their_scores(name, sizes):
    """The kernel is chosen by the mesh in context, though the program is traced on a CPU.

    Over four devices along `tensor` the two heads of keys are repeated.
    """
    mesh, batch = tpu_mesh(name, sizes), 2 * sizes[0] * sizes[1]
    held = temporaries(mesh, gradient(group_attention), partial(group_shapes, batch, PROMPT, LENGTH))
    assert held < scores(2 * 12 // sizes[2], PROMPT, LENGTH) / 2


@pytest.mark.parametrize(("name", "sizes"), [("v5e:2x2", (4, 1, 1)), ("v5p:2x2x1", (1, 2, 2))], ids=str)
def test_splash_images_compile_for_tpu_without_their_scores(name, sizes):
    mesh, batch = tpu_mesh(name, sizes), 2 * sizes[0] * sizes[1]
    held = temporaries(mesh, gradient(image_attention), partial(image_shapes, batch, PATCHES))
    assert held < scores(2 * 16 // sizes[2], PATCHES) / 2


@pytest.mark.parametrize(("name", "sizes"), [("v5e:2x2", (2, 1, 2)), ("v5p:2x2x1", (1, 4, 1))], ids=str)
def test_splash_prompts_compile_for_tpu_without_their_scores(name, sizes):
    mesh, batch = tpu_mesh(name, sizes), 2 * sizes[0] * sizes[1]

    def prompts(sharding: Any) -> tuple[Any, ...]:
        qkv, mask, _ = group_shapes(batch, 4 * PROMPT, LENGTH, sharding)
        return *qkv, mask

    held = temporaries(mesh, prompt_attention, prompts)
    assert held < scores(2 * 12 // sizes[2], 4 * PROMPT) / 2


@pytest.mark.parametrize(
    ("name", "backward", "times"),
    [
        ("v5e:2x2", False, 2),
        pytest.param("v5e:2x2", True, 3, marks=pytest.mark.slow),
        pytest.param("v5p:2x2x1", True, 3, marks=pytest.mark.slow),
    ],
)
def test_packed_rows_compile_for_tpu_as_einsums(name, backward, times):
    """The splash kernel refuses them. Einsums hold their scores: on v5e 1.5 times, 2.6 times backwards."""

    def packed(sharding: Any) -> tuple[Any, ...]:
        segments = shape(sharding, 8, GROUP, LENGTH, dtype=jnp.int32)
        return *group_shapes(8, PROMPT, LENGTH, sharding), segments

    form = partial(group_attention, kernel="xla")
    held = temporaries(tpu_mesh(name, (4, 1, 1)), gradient(form) if backward else form, packed, kernel=False)
    assert held < times * scores(2 * 12, PROMPT, LENGTH)


def decoded(query: Any, prompt: Any, mask: Any, key: Any, value: Any) -> Any:
    """A token after the other into the cache, each attending to all before it, as the sampler's loop does."""

    def token(slot: Any, loop: tuple[Any, ...]) -> tuple[Any, ...]:
        query, key, value = loop
        new = query[:, :, None, :2]
        key = jax.lax.dynamic_update_slice_in_dim(key, as_key_cache(new), slot, axis=4)
        value = jax.lax.dynamic_update_slice_in_dim(value, as_value_cache(new), slot, axis=3)
        visible = jnp.arange(LENGTH) <= slot
        return decode_attention(query, *prompt, mask, key, value, visible), key, value

    return jax.lax.fori_loop(0, LENGTH, token, (query, key, value))


@pytest.mark.parametrize("sizes", [(4, 1, 1), (1, 2, 2)], ids=str)
def test_decoding_on_tpu_holds_no_second_cache(sizes):
    """Its scores are 0.4 of the keys; joining the keys of prompt and completion makes it 1.1."""
    mesh = tpu_mesh("v5p:2x2x1", sizes)
    batch, heads = 4 * sizes[0] * sizes[1], NamedSharding(mesh, P(BATCH_AXES, "tensor"))

    def caches(sharding: Any) -> tuple[Any, ...]:
        prompt = shape(heads, batch, 2, 128, PROMPT), shape(heads, batch, 2, PROMPT, 128)
        key, value = (shape(heads, batch, 2, GROUP, *tail) for tail in ((128, LENGTH), (LENGTH, 128)))
        query = NamedSharding(mesh, P(BATCH_AXES, None, "tensor"))
        mask = shape(sharding, batch, PROMPT, dtype=bool)
        return shape(query, batch, GROUP, 12, 128), prompt, mask, key, value

    held = temporaries(mesh, decoded, caches, kernel=False, donate_argnums=(3, 4))
    assert held < 4 * 2 * GROUP * 128 * LENGTH * 2 // sizes[2] / 2  # half of the keys


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
