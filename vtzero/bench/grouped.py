"""Groups that share their prompt against the flattened form, with the same layer code and weights.

Flattened, every completion is a sequence of its own: batch x group prompts of length prompt + completion,
with every image encoded for each of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from operator import truediv
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vtzero.bench.phases import compiled, times_in_turns
from vtzero.bench.programs import made_up
from vtzero.models.layers import Remat
from vtzero.models.qwen2_vl.config import Qwen2VLConfig, TextConfig, VisionConfig
from vtzero.models.qwen2_vl.model import Qwen2VL
from vtzero.models.qwen2_vl.weights import abstract_model


@dataclass(frozen=True)
class GroupedCase:
    """A model and the shapes at which the two forms are compared."""

    name: str
    model: Qwen2VLConfig
    batch: int
    prompt: int
    group: int
    completion: int
    patches: int
    dtype: Any = jnp.float32
    remat: Remat = "none"

    @property
    def ideal(self) -> dict[str, float]:
        """How many times the flattened form's tokens (patches) are those of the groups."""
        each = self.prompt + self.completion
        shared = self.prompt + self.group * self.completion
        return {"decoder": self.group * each / shared, "vision": float(self.group)}


REFERENCE = GroupedCase(
    name="6 layers x 256",
    model=Qwen2VLConfig(
        TextConfig(
            vocab_size=256,
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            mrope_section=(8, 12, 12),
        ),
        VisionConfig(depth=6, embed_dim=256, hidden_size=256, num_heads=4),
    ),
    batch=1,
    prompt=400,
    group=8,
    completion=200,
    patches=1296,
)
"""A prompt of 400 tokens with room for an image of 324, the paper's: 1296 patches."""


@dataclass(frozen=True)
class Ratio:
    """Flattened over grouped, of one part and direction; seconds are None where nothing was timed.

    `flops` are those of programs compiled with plain attention: the compiler counts a loop's body once, and
    the other kernels have loops.
    """

    case: str
    part: str
    backward: bool
    ideal: float
    flops: float
    grouped_seconds: float | None = None
    flattened_seconds: float | None = None

    @property
    def seconds(self) -> float | None:
        """How many times longer the flattened form takes."""
        if self.grouped_seconds is None or self.flattened_seconds is None:
            return None
        return self.flattened_seconds / self.grouped_seconds


def compare_grouped(case: GroupedCase, repeats: int | None) -> list[Ratio]:
    """The ratios of decoder and vision encoder, forward, and forward with backward; None times nothing.

    What does not fit the device has no times; a case without images has no rows of the vision encoder.
    """
    graphdef, shapes = abstract_model(case.model, dtype=case.dtype, remat=case.remat)
    plain, _ = abstract_model(case.model, dtype=case.dtype, attention="xla")
    params = jax.jit(partial(made_up, shapes))()
    inputs = {"decoder": _tokens(case)} | ({"vision": _patches(case)} if case.patches else {})
    rows = []
    for part in inputs:
        grouped, flattened = _forms(case)[part]
        for backward in (False, True):
            wrap = _with_gradient if backward else _merged
            arguments = (params, inputs[part])
            counted = (compiled(wrap(plain, form), *arguments).flops for form in (grouped, flattened))
            row = Ratio(case.name, part, backward, case.ideal[part], 1 / truediv(*counted))
            forms = [wrap(graphdef, form) for form in (grouped, flattened)]
            rows.append(row if repeats is None else _timed(row, forms, arguments, repeats))
    return rows


def _timed(row: Ratio, forms: list[Callable[..., Any]], arguments: tuple[Any, ...], repeats: int) -> Ratio:
    try:
        runs = [partial(compiled(form, *arguments).run, *arguments) for form in forms]
        grouped, flattened = times_in_turns(runs, repeats)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return row
    return replace(row, grouped_seconds=grouped, flattened_seconds=flattened)


def _forms(case: GroupedCase) -> dict[str, tuple[Callable[..., Array], Callable[..., Array]]]:
    return {
        "decoder": (grouped_decoder, flattened_decoder),
        "vision": (
            lambda model, patches: _encode(model, patches),
            lambda model, patches: _encode(model, jnp.repeat(patches, case.group, axis=0)),
        ),
    }


def grouped_decoder(model: Qwen2VL, tokens: tuple[Array, Array]) -> Float[Array, "batch group length width"]:
    """Hidden states of the completions; each prompt is read once."""
    prompt, completions = tokens
    batch, group, length, _ = completions.shape
    places = jnp.broadcast_to(jnp.arange(prompt.shape[1]), prompt.shape[:2])
    after = jnp.broadcast_to(prompt.shape[1] + jnp.arange(length), (batch, group, length))
    positions = jnp.broadcast_to(places, (3, *places.shape))
    mask = jnp.ones(prompt.shape[:2], bool)
    return model.model.read_groups(prompt, positions, mask, completions, after)[1]


def flattened_decoder(
    model: Qwen2VL, tokens: tuple[Array, Array]
) -> Float[Array, "batch group length width"]:
    """The same from sequences of their own; the prompt is read once for each completion."""
    prompt, completions = tokens
    _, group, length, width = completions.shape
    repeated = jnp.repeat(prompt, group, axis=0)
    whole = jnp.concatenate([repeated, completions.reshape(-1, length, width)], axis=1)
    places = jnp.broadcast_to(jnp.arange(whole.shape[1]), whole.shape[:2])
    positions = jnp.broadcast_to(places, (3, *places.shape))
    hidden, _ = model.model.read_prompt(whole, positions, jnp.ones(whole.shape[:2], bool))
    return hidden[:, -length:].reshape(completions.shape)


def _encode(model: Qwen2VL, patches: Float[Array, "batch patches patch_dim"]) -> Array:
    batch, count, _ = patches.shape
    places = jnp.zeros((batch, count, 2), jnp.int32)
    return model.visual(patches, places, jnp.ones((batch, count), jnp.int32))


def _merged(graphdef: Any, form: Callable[..., Array]) -> Callable[..., Array]:
    return lambda params, inputs: form(nnx.merge(graphdef, params), inputs)


def _with_gradient(graphdef: Any, form: Callable[..., Array]) -> Callable[..., Any]:
    def loss(params: Any, inputs: Any) -> Array:
        return jnp.square(form(nnx.merge(graphdef, params), inputs).astype(jnp.float32)).sum()

    return jax.grad(loss)


def _tokens(case: GroupedCase) -> tuple[Array, Array]:
    width = case.model.text.hidden_size
    shapes = ((case.batch, case.prompt, width), (case.batch, case.group, case.completion, width))
    prompt, completions = (_normal(shape, case.dtype) for shape in shapes)
    return prompt, completions


def _patches(case: GroupedCase) -> Array:
    return _normal((case.batch, case.patches, case.model.vision.patch_dim), case.dtype)


def _normal(shape: tuple[int, ...], dtype: Any) -> Array:
    return jax.random.normal(jax.random.key(0), shape).astype(dtype)
