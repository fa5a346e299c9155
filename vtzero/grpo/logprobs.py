"""Log-probabilities of given tokens, and entropies, from hidden states and the LM head.

Never holds the logits of all rows, neither forward nor backward. Pure functions of arrays; must not know the
model, the sampler or what the rows are.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def chunked_logprobs(
    hidden: Float[Array, "rows width"],
    head: Float[Array, "vocab width"],
    targets: Int[Array, " rows"],
    *,
    banned: Bool[Array, " vocab"] | None = None,
    temperature: float = 1.0,
    chunk: int = 256,
) -> tuple[Float[Array, " rows"], Float[Array, " rows"]]:
    """log p(target) and the entropy of p = softmax(hidden @ head.T / temperature), `banned` ids left out.

    `head` has Hugging Face's orientation (`lm_head.weight`, or the tied embedding). The matmul runs in the
    dtype of `hidden` and accumulates in float32; logits, softmax and both results are float32, and the
    gradient of `head` is summed over the chunks in float32 whatever its dtype. The entropy, in nats, carries
    no gradient.

    Logits exist for `chunk` rows at a time, and the backward pass computes them again. `chunk` counts the
    rows of all devices together: a chunk takes its rows at equal distances, so that rows sharded over d
    devices keep every device busy with chunk / d rows of its own. Below 256 rows a device little memory is
    left to gain.

    A banned id has probability exactly 0, so the log-probability of a banned target is -inf; its gradient
    stays finite. A target outside the vocabulary gives a number without meaning. Rows with either must be
    masked out by selection (`jnp.where`), as `objectives.policy_loss` does, since a weight of 0 would turn
    -inf into NaN.

    Raises ValueError if `temperature` is not positive or `chunk` is below 1.
    """
    if not temperature > 0:
        raise ValueError(
            f"temperature is {temperature}; it must be above 0 (at 0 nothing has a log-probability)"
        )
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least 1 row")
    # Widened before the loop, since autodiff sums the chunks' gradients in the dtype the loop is given.
    wide_head = head.astype(jnp.float32)

    def of_chunk(rows: tuple[Array, Array]) -> tuple[Array, Array]:
        return _logprobs(_logits(rows[0], wide_head) / temperature, rows[1], banned)

    count = hidden.shape[0]
    chunks = (_split(hidden, chunk), _split(targets, chunk))
    # The checkpoint is what saves memory: without it the loop keeps every chunk's logits for the backward
    # pass. A loop body is compiled once, so there is nothing for prevent_cse to prevent.
    logps, entropy = jax.lax.map(jax.checkpoint(of_chunk, prevent_cse=False), chunks)
    return _join(logps, count), _join(entropy, count)


def _logprobs(
    logits: Float[Array, "chunk vocab"], targets: Int[Array, " chunk"], banned: Bool[Array, " vocab"] | None
) -> tuple[Float[Array, " chunk"], Float[Array, " chunk"]]:
    """Log-softmax at the targets, and the entropy, of one chunk of float32 logits."""
    allowed = logits if banned is None else jnp.where(banned, -jnp.inf, logits)
    log_normalizer = jax.nn.logsumexp(allowed, axis=-1)
    # A selected sum rather than a gather: its backward needs no scatter, and a head sharded over the
    # vocabulary needs no exchange of logits.
    is_target = jnp.arange(logits.shape[-1]) == targets[:, None]
    target_logits = jnp.sum(jnp.where(is_target, allowed, 0.0), axis=-1)
    probabilities = jax.lax.stop_gradient(jnp.exp(allowed - log_normalizer[:, None]))
    entropy = log_normalizer - jnp.sum(probabilities * logits, axis=-1)
    return target_logits - log_normalizer, jax.lax.stop_gradient(entropy)


@jax.custom_vjp
def _logits(
    hidden: Float[Array, "chunk width"], head: Float[Array, "vocab width"]
) -> Float[Array, "chunk vocab"]:
    """hidden @ head.T in the dtype of `hidden`, accumulated in float32.

    The backward is written out because autodiff would multiply the float32 cotangent with a float32 copy of
    `head`; here both backward products run in the dtype of `hidden` as well.
    """
    return jnp.einsum("cw,vw->cv", hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32)


def _logits_forward(hidden: Array, head: Array) -> tuple[Array, tuple[Array, Array]]:
    return _logits(hidden, head), (hidden, head)


def _logits_backward(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    hidden, head = residuals
    cotangent = cotangent.astype(hidden.dtype)
    wide = jnp.float32
    of_hidden = jnp.einsum("cv,vw->cw", cotangent, head.astype(hidden.dtype), preferred_element_type=wide)
    of_head = jnp.einsum("cv,cw->vw", cotangent, hidden, preferred_element_type=wide)
    return of_hidden.astype(hidden.dtype), of_head.astype(head.dtype)


_logits.defvjp(_logits_forward, _logits_backward)


def _split(rows: Array, chunk: int) -> Array:
    """(rows, ...) -> (chunks, chunk, ...), zero-padded; chunk i takes rows i, i + chunks, i + 2 chunks, ...

    Equal distances, not neighbours: the axis that is looped over must not be the one rows are sharded on.
    """
    chunks = max(1, -(-rows.shape[0] // chunk))
    chunk = max(1, -(-rows.shape[0] // chunks))  # as many chunks, but of even size: little is padding
    padding = [(0, chunks * chunk - rows.shape[0])] + [(0, 0)] * (rows.ndim - 1)
    return jnp.pad(rows, padding).reshape(chunk, chunks, *rows.shape[1:]).swapaxes(0, 1)


def _join(chunks: Float[Array, "chunks chunk"], count: int) -> Float[Array, " rows"]:
    """Undoes `_split` and drops its padding."""
    return chunks.swapaxes(0, 1).reshape(-1)[:count]
