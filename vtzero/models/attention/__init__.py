"""One entry for attention: what may see what, by its structure, and the kernel that computes it.

Masks are given as structure (segments, right-padded prompts, groups) and never as dense arrays, so that
kernels which hold no scores can be used. Knows arrays only: no model, no cache layout, no config of runs.
"""

from importlib import import_module
from types import ModuleType
from typing import Literal, get_args

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vtzero.models.attention.devices import target_platform
from vtzero.models.attention.xla import shared_prompt_attention

__all__ = [
    "QKV",
    "Kernel",
    "choose_kernel",
    "group_attention",
    "image_attention",
    "prompt_attention",
    "shared_prompt_attention",
]

Kernel = Literal["auto", "xla", "blocked", "cudnn", "splash"]
QKV = tuple[Array, Array, Array]
"""Queries (..., heads, head_dim); keys and values (..., kv_heads, head_dim), heads a multiple of kv_heads."""

# Of the kernels made for one platform only the CPU's was timed against the einsums (`blocked`).
_PREFERRED: tuple[Kernel, ...] = ("splash", "cudnn", "blocked", "xla")
_NEEDS = {"blocked": "a CPU", "cudnn": "bfloat16 or float16 on an NVIDIA GPU", "splash": "a TPU"}


def image_attention(
    query: Float[Array, "batch patches heads head_dim"],
    key: Float[Array, "batch patches heads head_dim"],
    value: Float[Array, "batch patches heads head_dim"],
    segments: Int[Array, "batch patches"],
    *,
    kernel: Kernel = "auto",
) -> Float[Array, "batch patches heads head_dim"]:
    """Attention of patches to those of their own image; `segments` numbers a row's images, 0 is padding."""
    return _kernels(kernel, query.dtype).image_attention(query, key, value, segments)


def prompt_attention(
    query: Float[Array, "batch prompt heads head_dim"],
    key: Float[Array, "batch prompt kv_heads head_dim"],
    value: Float[Array, "batch prompt kv_heads head_dim"],
    mask: Bool[Array, "batch prompt"],
    *,
    kernel: Kernel = "auto",
) -> Float[Array, "batch prompt heads head_dim"]:
    """Causal attention of right-padded prompts; `mask` is True at real tokens. Padding stays finite."""
    return _kernels(kernel, query.dtype).prompt_attention(query, key, value, mask)


def group_attention(
    prompt: QKV,
    prompt_mask: Bool[Array, "batch prompt"],
    completions: QKV,
    segments: Int[Array, "batch rows length"] | None = None,
    *,
    kernel: Kernel = "auto",
) -> tuple[Float[Array, "batch prompt heads head_dim"], Float[Array, "batch rows length heads head_dim"]]:
    """Attention of prompts (batch, prompt, ...) and of their completions (batch, rows, length, ...).

    The prompt attends causally to itself. A completion sees all of its prompt and, causally, itself, under
    one softmax: exact in values and gradients. Without `segments` each row is one completion, whose own
    padding at its end needs no mask. With them, rows hold several: a token sees those before it that carry
    its number (0 is padding).
    """
    kernels = _kernels(kernel, prompt[0].dtype)
    return kernels.group_attention(prompt, prompt_mask, completions, segments)


def choose_kernel(kernel: Kernel, platform: str, dtype: DTypeLike) -> Kernel:
    """The kernel that runs on `platform` ("cpu", "gpu" or "tpu") in `dtype`; "auto" is its own flash kernel.

    Raises ValueError for a kernel that cannot run there: none is exchanged for another in silence.
    """
    if kernel not in get_args(Kernel):
        raise ValueError(f"attention {kernel!r} is no kernel: choose {', '.join(get_args(Kernel))}")
    can: dict[Kernel, bool] = {
        "xla": True,
        "blocked": platform == "cpu",
        "cudnn": platform == "gpu" and jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16),
        "splash": platform == "tpu",
    }
    if kernel == "auto":
        return next(name for name in _PREFERRED if can[name])
    if not can[kernel]:
        raise ValueError(
            f"attention {kernel!r} needs {_NEEDS[kernel]}, and this is {jnp.dtype(dtype)} on {platform}: "
            "choose 'xla' or 'auto'"
        )
    return kernel


def _kernels(kernel: Kernel, dtype: DTypeLike) -> ModuleType:
    chosen = choose_kernel(kernel, target_platform(), dtype)
    # Imported when chosen: Pallas takes 0.14 s to import, and a CPU has no use for it.
    return import_module(f"{__name__}.{chosen}")
