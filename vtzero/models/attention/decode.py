"""Attention of one new token of every completion to its prompt and to what the completion holds so far.

The cache lies as the products read it: keys with their slots last, values with their slots before the last
axis. With the slots between group and heads, as the projections give them, XLA:CPU copied the whole cache for
every token (6 layers, 32 completions, 640 slots: 53 ms a token against 21). Knows arrays only.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vtzero.models.attention.xla import MASKED


def decode_attention(
    query: Float[Array, "batch group heads head_dim"],
    prompt_key: Float[Array, "batch kv_heads head_dim prompt"],
    prompt_value: Float[Array, "batch kv_heads prompt head_dim"],
    prompt_mask: Bool[Array, "batch prompt"],
    key: Float[Array, "batch kv_heads group head_dim length"],
    value: Float[Array, "batch kv_heads group length head_dim"],
    visible: Bool[Array, " length"],
) -> Float[Array, "batch group heads head_dim"]:
    """One token of each completion, under one softmax over its prompt and its own slots.

    The prompt's keys and values are read once for the whole group. Scores and softmax are float32.
    """
    batch, group, heads, head_dim = query.shape
    kv_heads, prompt = prompt_key.shape[1], prompt_key.shape[3]
    grouped = query.reshape(batch, group, kv_heads, heads // kv_heads, head_dim).swapaxes(1, 2)
    to_prompt = _scores("bkgnd,bkdp->bkgnp", grouped, prompt_key)
    to_self = _scores("bkgnd,bkgds->bkgns", grouped, key)
    to_prompt = jnp.where(prompt_mask[:, None, None, None], to_prompt, MASKED)
    to_self = jnp.where(visible, to_self, MASKED)
    weights = jax.nn.softmax(jnp.concatenate([to_prompt, to_self], axis=-1), axis=-1).astype(value.dtype)
    attended = jnp.einsum("bkgnp,bkpd->bkgnd", weights[..., :prompt], prompt_value)
    attended += jnp.einsum("bkgns,bkgsd->bkgnd", weights[..., prompt:], value)
    return attended.swapaxes(1, 2).reshape(query.shape)


def as_key_cache(keys: Float[Array, "*lead length kv_heads head_dim"]) -> Array:
    """(batch, [group,] length, kv_heads, head_dim) -> (batch, kv_heads, [group,] head_dim, length)."""
    return jnp.moveaxis(jnp.moveaxis(keys, -2, 1), -2, -1)


def as_value_cache(values: Float[Array, "*lead length kv_heads head_dim"]) -> Array:
    """(batch, [group,] length, kv_heads, head_dim) -> (batch, kv_heads, [group,] length, head_dim)."""
    return jnp.moveaxis(values, -2, 1)


def _scores(axes: str, query: Array, key: Array) -> Float[Array, "..."]:
    scale = query.shape[-1] ** -0.5
    return jnp.einsum(axes, query, key, preferred_element_type=jnp.float32) * scale
