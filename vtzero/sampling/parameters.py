"""The settings of sampling: one frozen dataclass, a JAX pytree, whose values may differ from row to row.

Knows arrays and host numbers only: no tokenizer, no files, no config of runs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@dataclass(frozen=True)
class SamplingParameters:
    """How a token is chosen from logits; names and meanings are those of transformers' `GenerationConfig`.

    Each value is one number for all rows or an array with one number a row. Values are pytree leaves:
    changing them compiles nothing anew. None leaves a filter out of the compiled program, so that a change
    between None and a number does compile anew. `banned_ids` is static, being a property of the model.

    Attributes:
        temperature: divides the logits; a row with 0 is decoded greedily.
        top_k: how many tokens stay (more where they tie); 0, or the vocabulary's size and more, turns it off.
        top_p: the probability mass that the tokens which stay must reach; 1.0 turns it off.
        min_p: the least probability that stays, as a fraction of the greatest; 0.0 turns it off.
        repetition_penalty: weakens the tokens already seen; 1.0 turns it off.
        banned_ids: ids that are never drawn.
    """

    temperature: float | Float[Array, "*rows"] = 1.0
    top_k: int | Int[Array, "*rows"] | None = None
    top_p: float | Float[Array, "*rows"] | None = None
    min_p: float | Float[Array, "*rows"] | None = None
    repetition_penalty: float | Float[Array, "*rows"] | None = None
    banned_ids: tuple[int, ...] = ()


jax.tree_util.register_dataclass(
    SamplingParameters,
    data_fields=["temperature", "top_k", "top_p", "min_p", "repetition_penalty"],
    meta_fields=["banned_ids"],
)


def validate_sampling(
    temperature: Any = 1.0,
    top_k: Any = None,
    top_p: Any = None,
    min_p: Any = None,
    repetition_penalty: Any = None,
    banned_ids: Sequence[int] = (),
) -> None:
    """Check values on the host, numbers or arrays of them, before they go into `SamplingParameters`.

    The dataclass itself checks nothing, because inside a compiled program its fields are traced.

    Raises:
        ValueError: naming the field, its range and the value, for a value that is no number or out of range.
    """
    _require("temperature", temperature, lambda t: (t >= 0) & np.isfinite(t), "finite and >= 0 (0 is greedy)")
    if top_k is not None:
        _require("top_k", top_k, lambda k: k >= 0, "an integer >= 0 (0 turns it off)", jnp.integer)
    if top_p is not None:
        _require("top_p", top_p, lambda p: (p > 0) & (p <= 1), "in (0, 1] (1 turns it off)")
    if min_p is not None:
        _require("min_p", min_p, lambda p: (p >= 0) & (p < 1), "in [0, 1) (0 turns it off)")
    if repetition_penalty is not None:
        wanted = "finite and > 0 (1 turns it off)"
        _require("repetition_penalty", repetition_penalty, lambda r: (r > 0) & np.isfinite(r), wanted)
    if len(banned_ids) > 0:
        _require("banned_ids", banned_ids, lambda ids: ids >= 0, "ids of the vocabulary, >= 0", jnp.integer)


def _require(
    name: str, value: Any, within: Callable[[np.ndarray], np.ndarray], wanted: str, kind: Any = jnp.number
) -> None:
    array = np.asarray(value)
    if not jnp.issubdtype(array.dtype, kind) or not np.all(within(array)):
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
