"""Log-probabilities of given tokens, and entropies, from hidden states and the LM head.

Never holds the logits of all rows, neither forward nor backward. Pure functions of arrays; must not know the
model, the sampler or what the rows are.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vtzero.parallel.head import HeadLayout, head_layout

# Below any logit, yet finite: the largest logit of a share of the vocabulary that is banned altogether.
_LOWEST = -1e30


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

    `head` has Hugging Face's orientation (`lm_head.weight`, or the tied embedding). Its products, forward and
    backward, run in the dtype of `hidden` and accumulate in float32; logits, softmax and both results are
    float32, and the gradient of `head` is summed in float32 whatever its dtype. The entropy, in nats, carries
    no gradient.

    Logits exist for `chunk` rows at a time. The backward pass computes them again, and adds every chunk's
    share of the head's gradient to one array. `chunk` counts the rows of all devices together: each of d
    devices takes chunk / d rows of its own at a time.

    On a mesh of `data`, `fsdp` and `tensor` (`jax.set_mesh`) a device works on its own rows and ids: each
    pass gathers the head over `fsdp` once, before its loop, and sums over devices once, after it. Without a
    mesh set, XLA follows the shardings of the inputs, and may sum the head's gradient in every chunk.

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
    allowed = jnp.ones(head.shape[0], bool) if banned is None else ~jnp.asarray(banned)
    return _logprobs(_Settings(temperature, chunk), hidden, head, targets, allowed)


class _Settings(NamedTuple):
    temperature: float
    chunk: int


class _Sums(NamedTuple):
    """Of each row over the ids of one device; x are the logits."""

    target: Float[Array, " rows"]  # x of the target, 0 where another device has it
    largest: Float[Array, " rows"]  # m = max x
    total: Float[Array, " rows"]  # sum exp(x - m)
    moment: Float[Array, " rows"]  # sum exp(x - m) (x - m)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _logprobs(
    settings: _Settings, hidden: Array, head: Array, targets: Array, allowed: Array
) -> tuple[Array, Array]:
    return _forward(settings, hidden, head, targets, allowed)[0]


def _forward(
    settings: _Settings, hidden: Array, head: Array, targets: Array, allowed: Array
) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
    """The results, and what the backward pass needs: the inputs and one number a row."""
    layout = head_layout(head.shape)
    forward = layout.on_each_device(partial(_forward_of_share, settings, layout), (layout.rows,) * 3)
    logps, entropy, log_normalizers = _unpad(forward(_pad((hidden, targets), layout), head, allowed), hidden)
    return (logps, entropy), (hidden, head, targets, allowed, log_normalizers)


def _backward(
    settings: _Settings, saved: tuple[Array, ...], cotangents: tuple[Array, Array]
) -> tuple[Array, Array, None, None]:
    hidden, head, targets, allowed, log_normalizers = saved
    layout = head_layout(head.shape)
    rows = _pad((hidden, targets, log_normalizers, cotangents[0] / settings.temperature), layout)
    backward = layout.on_each_device(
        partial(_backward_of_share, settings, layout), (layout.rows, layout.head)
    )
    of_hidden, of_head = backward(rows, head, allowed)
    return _unpad(of_hidden, hidden), of_head, None, None


_logprobs.defvjp(_forward, _backward)


def _forward_of_share(
    settings: _Settings, layout: HeadLayout, rows: tuple[Array, Array], head: Array, allowed: Array
) -> tuple[Array, Array, Array]:
    """Log-probability, entropy and log normalizer of a device's rows."""
    wide_head = layout.whole_width(head.astype(rows[0].dtype))
    ids = layout.first_id(head.shape[0]) + jnp.arange(head.shape[0])

    def of_chunk(chunk: tuple[Array, Array]) -> _Sums:
        hidden, targets = chunk
        logits = _product("cw,vw->cv", hidden, wide_head) / settings.temperature
        return _sums(logits, ids == targets[:, None], allowed)

    sums = jax.lax.map(of_chunk, _split(rows, settings.chunk // layout.row_shards))
    return _distribution(_join(sums, rows[0]), layout)


def _backward_of_share(
    settings: _Settings, layout: HeadLayout, rows: tuple[Array, ...], head: Array, allowed: Array
) -> tuple[Array, Array]:
    """The gradients of a device's rows and of its part of the head.

    `rows` are hidden states, targets, log normalizers, and gradients by log p over the temperature.
    """
    wide_head = layout.whole_width(head.astype(rows[0].dtype))
    ids = layout.first_id(head.shape[0]) + jnp.arange(head.shape[0])

    def add_chunk(of_head: Array, chunk: tuple[Array, ...]) -> tuple[Array, Array]:
        hidden, targets, log_normalizers, weights = chunk
        # Computed again even where all logits would fit: on a CPU core, 1,024 ids and chunks of 256 rows,
        # keeping them saved 12 % at 2,048 rows of width 256 (40.0 to 35.1 ms) and cost 7 % at 8,192 rows of
        # width 128 (91.7 to 98.3 ms), where it took 32 MiB more.
        logits = _product("cw,vw->cv", hidden, wide_head) / settings.temperature
        probabilities = jnp.exp(logits - log_normalizers[:, None])
        of_logits = weights[:, None] * ((ids == targets[:, None]) - probabilities)
        of_logits = jnp.where(allowed, of_logits, 0.0).astype(hidden.dtype)
        of_hidden = _product("cv,vw->cw", of_logits, wide_head)
        return of_head + _product("cv,cw->vw", of_logits, hidden), of_hidden

    start = layout.zeros(wide_head.shape)
    of_head, of_hidden = jax.lax.scan(add_chunk, start, _split(rows, settings.chunk // layout.row_shards))
    of_hidden = layout.sum_over_ids(_join(of_hidden, rows[0]))
    return of_hidden.astype(rows[0].dtype), layout.sum_over_rows(of_head).astype(head.dtype)


def _product(axes: str, left: Array, right: Array) -> Array:
    return jnp.einsum(axes, left, right, preferred_element_type=jnp.float32)


def _sums(
    logits: Float[Array, "chunk ids"], is_target: Bool[Array, "chunk ids"], allowed: Bool[Array, " ids"]
) -> _Sums:
    masked = jnp.where(allowed, logits, -jnp.inf)
    largest = jnp.maximum(masked.max(axis=-1), _LOWEST)
    shifted = masked - largest[:, None]
    exponentials = jnp.exp(shifted)
    return _Sums(
        # A selected sum rather than a gather: the target of a row may be another device's id.
        target=jnp.where(is_target, masked, 0.0).sum(axis=-1),
        largest=largest,
        total=exponentials.sum(axis=-1),
        moment=jnp.where(allowed, exponentials * shifted, 0.0).sum(axis=-1),
    )


def _distribution(share: _Sums, layout: HeadLayout) -> tuple[Array, Array, Array]:
    """Log-probability of the target, entropy and log normalizer, from the sums of every device."""
    largest = layout.largest_over_ids(share.largest)
    shift = share.largest - largest
    scale = jnp.exp(shift)
    parts = (share.target, scale * share.total, scale * (share.moment + shift * share.total))
    target, total, moment = layout.sum_over_ids(parts)
    log_total = jnp.log(total)
    log_normalizer = largest + log_total
    return target - log_normalizer, log_total - moment / total, log_normalizer


def _pad(rows: Any, layout: HeadLayout) -> Any:
    """As many rows for each device; rows of a sharded batch are so already."""
    return jax.tree.map(lambda array: _pad_rows(array, -array.shape[0] % layout.row_shards), rows)


def _unpad(rows: Any, like: Array) -> Any:
    return jax.tree.map(lambda array: array[: like.shape[0]], rows)


def _split(rows: Any, chunk: int) -> Any:
    """(rows, ...) -> (chunks, chunk, ...), zero-padded; chunk i takes rows i, i + chunks, i + 2 chunks, ...

    Equal distances, not neighbours: the axis that is looped over must not be the one rows are sharded on.
    """

    def split(array: Array) -> Array:
        chunks = max(1, -(-array.shape[0] // max(1, chunk)))
        even = max(1, -(-array.shape[0] // chunks))  # as many chunks, but of even size: little is padding
        padded = _pad_rows(array, chunks * even - array.shape[0])
        return padded.reshape(even, chunks, *array.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(split, rows)


def _pad_rows(array: Array, count: int) -> Array:
    return jnp.pad(array, [(0, count)] + [(0, 0)] * (array.ndim - 1)) if count else array


def _join(chunks: Any, like: Array) -> Any:
    """Undoes `_split`: the rows of `like`, without padding."""

    def join(array: Array) -> Array:
        return array.swapaxes(0, 1).reshape(-1, *array.shape[2:])[: like.shape[0]]

    return jax.tree.map(join, chunks)
