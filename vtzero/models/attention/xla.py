"""Attention as einsums: what every platform runs, and what the other kernels are measured against.

Scores are held whole, in float32. Knows arrays only: no model, no cache layout, no platform.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# The most negative finite number, not -inf: a row whose every key is masked (padding) then
# stays finite, and so do its gradients.
MASKED = float(jnp.finfo(jnp.float32).min)


def attention(
    query: Float[Array, "batch query heads head_dim"],
    key: Float[Array, "batch key kv_heads head_dim"],
    value: Float[Array, "batch key kv_heads head_dim"],
    mask: Bool[Array, "batch query key"],
) -> Float[Array, "batch query heads head_dim"]:
    """Scaled dot-product attention; scores and softmax in float32, `mask` is True where a key may be seen.

    `heads` must be a multiple of `kv_heads`; a query head h reads key head h // (heads / kv_heads).
    """
    grouped = _by_kv_head(query, key.shape[-2])
    scores = _scores("bqknd,bskd->bknqs", grouped, key)
    weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, MASKED), axis=-1)
    attended = jnp.einsum("bknqs,bskd->bqknd", weights.astype(value.dtype), value)
    return attended.reshape(query.shape)


def shared_prompt_attention(
    query: Float[Array, "batch group query heads head_dim"],
    prompt_key: Float[Array, "batch prompt kv_heads head_dim"],
    prompt_value: Float[Array, "batch prompt kv_heads head_dim"],
    prompt_mask: Bool[Array, "batch prompt"],
    key: Float[Array, "batch group key kv_heads head_dim"],
    value: Float[Array, "batch group key kv_heads head_dim"],
    mask: Bool[Array, "query key"],
) -> Float[Array, "batch group query heads head_dim"]:
    """Attention of every completion of a group to their one prompt and to itself, under one softmax.

    The prompt's keys are read once for the whole group. One softmax over both parts is exact in
    values and gradients (joining two softmaxes by a log-sum-exp that carries no gradient is not).
    """
    return _over_prompt_and_self(query, prompt_key, prompt_value, prompt_mask, key, value, mask)


def causal_mask(mask: Bool[Array, "batch length"]) -> Bool[Array, "batch length length"]:
    """Key j is seen by query i when j <= i and j is not padding."""
    length = mask.shape[-1]
    return jnp.tril(jnp.ones((length, length), bool))[None] & mask[:, None, :]


def segment_mask(
    segments: Int[Array, "*batch length"],
) -> Bool[Array, "*batch length length"]:
    """Key j is seen by query i when both are of one segment."""
    return segments[..., :, None] == segments[..., None, :]


def image_attention(
    query: Float[Array, "batch patches heads head_dim"],
    key: Float[Array, "batch patches heads head_dim"],
    value: Float[Array, "batch patches heads head_dim"],
    segments: Int[Array, "batch patches"],
) -> Float[Array, "batch patches heads head_dim"]:
    """See `vtzero.models.attention.image_attention`."""
    return attention(query, key, value, segment_mask(segments))


def prompt_attention(
    query: Float[Array, "batch prompt heads head_dim"],
    key: Float[Array, "batch prompt kv_heads head_dim"],
    value: Float[Array, "batch prompt kv_heads head_dim"],
    mask: Bool[Array, "batch prompt"],
) -> Float[Array, "batch prompt heads head_dim"]:
    """See `vtzero.models.attention.prompt_attention`."""
    return attention(query, key, value, causal_mask(mask))


def group_attention(
    prompt: tuple[Array, Array, Array],
    prompt_mask: Bool[Array, "batch prompt"],
    completions: tuple[Array, Array, Array],
    segments: Int[Array, "batch rows length"] | None,
) -> tuple[Float[Array, "batch prompt heads head_dim"], Float[Array, "batch rows length heads head_dim"]]:
    """See `vtzero.models.attention.group_attention`."""
    query, key, value = completions
    length = query.shape[2]
    visible = jnp.tril(jnp.ones((length, length), bool))
    if segments is not None:
        visible = (visible & segment_mask(segments))[:, None, None]
    _, prompt_key, prompt_value = prompt
    attended = _over_prompt_and_self(query, prompt_key, prompt_value, prompt_mask, key, value, visible)
    return prompt_attention(*prompt, prompt_mask), attended


def _over_prompt_and_self(
    query: Float[Array, "batch rows query heads head_dim"],
    prompt_key: Float[Array, "batch prompt kv_heads head_dim"],
    prompt_value: Float[Array, "batch prompt kv_heads head_dim"],
    prompt_mask: Bool[Array, "batch prompt"],
    key: Float[Array, "batch rows key kv_heads head_dim"],
    value: Float[Array, "batch rows key kv_heads head_dim"],
    visible: Bool[Array, "query key"] | Bool[Array, "batch 1 1 rows query key"],
) -> Float[Array, "batch rows query heads head_dim"]:
    grouped = _by_kv_head(query, key.shape[-2])
    to_prompt = _scores("bgqknd,bpkd->bkngqp", grouped, prompt_key)
    to_self = _scores("bgqknd,bgskd->bkngqs", grouped, key)
    to_prompt = jnp.where(prompt_mask[:, None, None, None, None], to_prompt, MASKED)
    to_self = jnp.where(visible, to_self, MASKED)
    weights = jax.nn.softmax(jnp.concatenate([to_prompt, to_self], axis=-1), axis=-1).astype(value.dtype)
    split = prompt_key.shape[1]
    attended = jnp.einsum("bkngqp,bpkd->bgqknd", weights[..., :split], prompt_value)
    attended += jnp.einsum("bkngqs,bgskd->bgqknd", weights[..., split:], value)
    return attended.reshape(query.shape)


def _by_kv_head(query: Array, kv_heads: int) -> Array:
    *lead, heads, head_dim = query.shape
    return query.reshape(*lead, kv_heads, heads // kv_heads, head_dim)


def _scores(axes: str, query: Array, key: Array) -> Float[Array, "..."]:
    scale = query.shape[-1] ** -0.5
    return jnp.einsum(axes, query, key, preferred_element_type=jnp.float32) * scale
