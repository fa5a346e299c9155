"""Every attention kernel against a plain einsum over whole sequences, in values and gradients.

The twin knows nothing of groups: prompt and rows are one sequence, and a dense mask, written token by token,
says what sees what. Inputs are drawn afresh in each run; a failure prints the seed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtzero.models.attention import blocked, choose_kernel, cudnn, prompt_attention, splash, xla

# cuDNN's form with jax's own einsums in the place of cuDNN; splash in Pallas's interpreter; blocks of a few
# queries, even where the einsums would take all.
OPTIONS: dict[str, dict[str, Any]] = {
    "xla": {},
    "blocked": {"whole": 0, "block": 60},
    "cudnn": {"implementation": "xla"},
    "splash": {"interpret": True},
}


def kernel(name: str, form: str) -> Callable:
    """The named kernel's form of an attention, as it can run on a CPU."""
    return partial(
        getattr({"xla": xla, "blocked": blocked, "cudnn": cudnn, "splash": splash}[name], form),
        **OPTIONS[name],
    )


@pytest.fixture(name="rng")
def _rng() -> np.random.Generator:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def normal(rng: np.random.Generator, *shape: int) -> jax.Array:
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def plain_attention(query, key, value, visible):
    """Every score of every head in one einsum; `visible` is (batch, query, key)."""
    repeat = query.shape[2] // key.shape[2]
    key, value = (jnp.repeat(x, repeat, axis=2) for x in (key, value))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, precision="highest") / np.sqrt(query.shape[-1])
    weights = jax.nn.softmax(jnp.where(visible[:, None], scores, -1e30), axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value, precision="highest")


class Group(NamedTuple):
    """Inputs of `group_attention`; `segments` is None for the grid."""

    prompt: tuple[jax.Array, jax.Array, jax.Array]
    prompt_mask: jax.Array
    rows: tuple[jax.Array, jax.Array, jax.Array]
    segments: jax.Array | None


def draw_group(
    rng: np.random.Generator,
    *,
    real: tuple[int, ...] = (5, 3, 0),
    prompt: int = 5,
    rows: int = 3,
    length: int = 6,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 8,
    packed: bool = False,
) -> Group:
    batch = len(real)

    def qkv(*lead: int):
        return tuple(normal(rng, *lead, count, head_dim) for count in (heads, kv_heads, kv_heads))

    segments = None
    if packed:
        ends = np.sort(rng.integers(1, length + 1, (batch, rows, 3)), axis=-1)
        place = np.arange(length)
        number = (place[..., None] >= ends[:, :, None]).sum(-1) + 1
        segments = jnp.asarray(np.where(number == 4, 0, number), jnp.int32)
    mask = jnp.arange(prompt) < jnp.asarray(real)[:, None]
    return Group(qkv(batch, prompt), mask, qkv(batch, rows, length), segments)


def dense_visible(group: Group) -> np.ndarray:
    """What each token of the sequence [prompt, row, row, ...] sees, token by token."""
    batch, prompt = group.prompt_mask.shape
    rows, length = group.rows[0].shape[1:3]
    mask = np.asarray(group.prompt_mask)
    segments = np.ones((batch, rows, length)) if group.segments is None else np.asarray(group.segments)
    visible = np.zeros((batch, prompt + rows * length, prompt + rows * length), bool)
    for b, q in np.ndindex(visible.shape[:2]):
        if q < prompt:
            visible[b, q, : q + 1] = mask[b, : q + 1]
            continue
        row, place = divmod(q - prompt, length)
        visible[b, q, :prompt] = mask[b]
        start = prompt + row * length
        visible[b, q, start : q + 1] = segments[b, row, : place + 1] == segments[b, row, place]
    return visible


def plain_group(prompt, rows, visible):
    """`group_attention` by the plain einsum over the whole sequence."""

    def joined(first, second):
        return jnp.concatenate([first, second.reshape(len(first), -1, *second.shape[3:])], axis=1)

    out = plain_attention(*map(joined, prompt, rows), visible)
    split = prompt[0].shape[1]
    return out[:, :split], out[:, split:].reshape(rows[0].shape)


def real_places(group: Group) -> tuple[jax.Array, jax.Array]:
    """1 at the outputs that are read, 0 at padding."""
    rows = jnp.ones(group.rows[0].shape[:3]) if group.segments is None else group.segments > 0
    return group.prompt_mask[..., None, None], rows[..., None, None]


def attended(form: Callable, keep: Any, direction: Any) -> Callable:
    """Inputs -> gradients, outputs at real places, all outputs."""

    def total(inputs):
        out = form(*inputs)
        kept = jax.tree.map(lambda x, real: jnp.where(real, x, 0), out, keep)
        return sum(jnp.sum(x * d) for x, d in zip(*map(jax.tree.leaves, (kept, direction)), strict=True)), (
            kept,
            out,
        )

    return jax.jit(jax.grad(total, has_aux=True))


def check(rng: np.random.Generator, plain: Callable, forms: list[Callable], inputs: Any, keep: Any) -> None:
    """Each form equals the plain one in values and gradients of every input; padding's are finite too."""
    shapes = jax.eval_shape(plain, *inputs)
    direction = jax.tree.map(lambda x: normal(rng, *x.shape), shapes)
    expected, (expected_out, _) = attended(plain, keep, direction)(inputs)
    for form in forms:
        gradients, (kept, out) = attended(form, keep, direction)(inputs)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((gradients, out)))
        jax.tree.map(assert_close, (kept, gradients), (expected_out, expected))


def assert_close(actual: jax.Array, expected: jax.Array) -> None:
    """To 1e-5 of the greatest value."""
    np.testing.assert_allclose(actual, expected, atol=1e-5 * max(1.0, np.abs(expected).max()), rtol=0)


def check_group(rng: np.random.Generator, group: Group, names: tuple[str, ...]) -> None:
    visible = jnp.asarray(dense_visible(group))

    def form(name: str) -> Callable:
        attend = kernel(name, "group_attention")
        return lambda prompt, rows: attend(prompt, group.prompt_mask, rows, group.segments)

    def plain(prompt, rows):
        return plain_group(prompt, rows, visible)

    check(rng, plain, [form(name) for name in names], (group.prompt, group.rows), real_places(group))


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (6, 1)])
def test_groups_equal_the_plain_einsum(rng, heads, kv_heads):
    """The last prompt is all padding: its completions see themselves alone."""
    group = draw_group(rng, heads=heads, kv_heads=kv_heads)
    check_group(rng, group, ("xla", "blocked", "cudnn", "splash"))


def test_packed_rows_equal_the_plain_einsum(rng):
    group = draw_group(rng, packed=True)
    check_group(rng, group, ("xla", "blocked", "cudnn"))


def test_splash_over_several_blocks_of_each_part(rng):
    group = draw_group(rng, real=(210, 0), prompt=260, rows=2, length=260, heads=2, kv_heads=1)
    assert splash._block_size(260, 260, 260) == 128
    check_group(rng, group, ("splash",))


def test_splash_refuses_packed_rows(rng):
    group = draw_group(rng, packed=True)
    with pytest.raises(ValueError, match="one completion a row, not packed rows: choose 'xla'"):
        splash.group_attention(group.prompt, group.prompt_mask, group.rows, group.segments)


def test_splash_skips_what_no_completion_sees():
    """Of 26 x 26 blocks at Qwen2-VL-2B's lengths the kernel runs the 99 that hold something to see."""
    mask = splash.GroupMask(prompt=512, rows=8, length=768)
    blocks = splash._kernel(mask, 12, 256, interpret=False).fwd_mask_info.block_mask
    assert np.count_nonzero(blocks) == 3 + 8 * (3 * 2 + 6)


def test_prompts_equal_the_plain_einsum(rng):
    real, length = jnp.asarray([5, 2, 0]), 5
    mask = jnp.arange(length) < real[:, None]
    inputs = tuple(normal(rng, 3, length, heads, 8) for heads in (6, 2, 2))
    visible = jnp.tril(jnp.ones((length, length), bool)) & mask[:, None]
    forms = [_with(kernel(name, "prompt_attention"), mask) for name in OPTIONS]
    check(rng, partial(plain_attention, visible=visible), forms, inputs, mask[..., None, None])


def test_images_equal_the_plain_einsum(rng):
    """One image, three images, and none at all, in rows of nine patches."""
    segments = jnp.asarray([[1] * 7 + [0] * 2, [1] * 3 + [2] * 2 + [3] * 3 + [0], [0] * 9])
    inputs = tuple(normal(rng, 3, 9, 2, 8) for _ in range(3))
    visible = segments[:, :, None] == segments[:, None]
    forms = [_with(kernel(name, "image_attention"), segments) for name in OPTIONS]
    keep = (segments > 0)[..., None, None]
    check(rng, partial(plain_attention, visible=visible), forms, inputs, keep)


def _with(form: Callable, last: jax.Array) -> Callable:
    return lambda query, key, value: form(query, key, value, last)


def test_marks_of_segments_lose_nothing_in_bfloat16(rng):
    """The scores of patches that see each other are to the bit those without marks, even great ones."""
    query, key, value = (10 * normal(rng, 1, 64, 2, 80).astype(jnp.bfloat16) for _ in range(3))
    segments = jnp.repeat(jnp.arange(1, 17), 4)[None]
    marked_query, marked_key, _ = cudnn._marked(query, key, value, segments)

    def scores(query, key):
        return np.einsum("bqhd,bkhd->bhqk", np.float64(query), np.float64(key))

    same = np.asarray(segments[0][:, None] == segments[0])[None, None]
    plain, marked = scores(query, key), scores(marked_query, marked_key)
    np.testing.assert_array_equal(np.where(same, marked, 0), np.where(same, plain, 0))
    assert np.max(np.where(same, -np.inf, marked - plain)) <= -(128**2)


@pytest.mark.parametrize(
    ("kernel", "platform", "dtype", "chosen"),
    [
        ("auto", "cpu", jnp.bfloat16, "blocked"),
        ("auto", "cpu", jnp.float32, "blocked"),
        ("xla", "cpu", jnp.float32, "xla"),
        ("blocked", "cpu", jnp.float32, "blocked"),
        ("auto", "gpu", jnp.bfloat16, "cudnn"),
        ("auto", "gpu", jnp.float16, "cudnn"),
        ("auto", "gpu", jnp.float32, "xla"),
        ("auto", "tpu", jnp.float32, "splash"),
        ("xla", "tpu", jnp.bfloat16, "xla"),
        ("cudnn", "gpu", jnp.bfloat16, "cudnn"),
        ("splash", "tpu", jnp.bfloat16, "splash"),
    ],
)
def test_choice_of_kernel(kernel, platform, dtype, chosen):
    assert choose_kernel(kernel, platform, dtype) == chosen


@pytest.mark.parametrize(
    ("kernel", "platform", "message"),
    [
        ("cudnn", "cpu", "'cudnn' needs bfloat16 or float16 on an NVIDIA GPU, and this is float32 on cpu"),
        ("cudnn", "gpu", "'cudnn' needs bfloat16 or float16 on an NVIDIA GPU, and this is float32 on gpu"),
        ("blocked", "gpu", "'blocked' needs a CPU, and this is float32 on gpu: choose 'xla' or 'auto'"),
        ("splash", "gpu", "'splash' needs a TPU, and this is float32 on gpu: choose 'xla' or 'auto'"),
        ("flash", "tpu", "'flash' is no kernel: choose auto, xla, blocked, cudnn, splash"),
    ],
)
def test_a_kernel_that_cannot_run_is_refused(kernel, platform, message):
    with pytest.raises(ValueError, match=message):
        choose_kernel(kernel, platform, jnp.float32)


def test_a_model_refuses_a_kernel_that_cannot_run_here(rng):
    query = normal(rng, 1, 4, 2, 8)
    with pytest.raises(ValueError, match="'splash' needs a TPU, and this is float32 on cpu"):
        prompt_attention(query, query, query, jnp.ones((1, 4), bool), kernel="splash")
