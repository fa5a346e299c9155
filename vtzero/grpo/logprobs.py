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
# A large block of ids is a multiple of a TPU's vector length, and of every shorter one.
_LANES = 128


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

    Logits of all rows exist for one block of ids after the other, so many as `chunk` whole rows have. The
    backward pass computes them again, and finishes the head's gradient block by block: no array but the
    head's own share and its gradient has the size of the head. `chunk` counts the rows of all devices
    together: each of d devices has the logits of chunk / d whole rows at a time.

    On a mesh of `data`, `fsdp` and `tensor` (`jax.set_mesh`) a device works on its own rows and ids: each
    pass gathers a block of the head over `fsdp`, and sums the block's gradient over devices, each keeping
    its part. Without a mesh set, XLA follows the shardings of the inputs.

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
    """Of each row over some ids; x are the logits."""

    target: Float[Array, " rows"]  # x of the target, 0 where it is not among them
    largest: Float[Array, " rows"]  # m = max x
    total: Float[Array, " rows"]  # sum exp(x - m)
    moment: Float[Array, " rows"]  # sum exp(x - m) (x - m)


class _Block(NamedTuple):
    """Some of a device's ids: where they start among its own, and which of them no block before had."""

    start: Int[Array, ""]
    head: Float[Array, "ids width"]
    ids: Int[Array, " ids"]
    allowed: Bool[Array, " ids"]
    is_new: Bool[Array, " ids"]


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
    hidden, targets = rows
    count, size = _blocks(settings, layout, len(hidden), len(head))

    def add_block(sums: _Sums, number: Array) -> tuple[_Sums, None]:
        block = _block(number, size, layout, hidden.dtype, head, allowed)
        logits = _product("rw,vw->rv", hidden, block.head) / settings.temperature
        is_target = (block.ids == targets[:, None]) & block.is_new
        return _joined(sums, _sums(logits, is_target, block.allowed & block.is_new)), None

    zeros = layout.zeros((len(hidden),), layout.axes)
    nothing = _Sums(zeros, zeros + _LOWEST, zeros, zeros)
    sums, _ = jax.lax.scan(add_block, nothing, jnp.arange(count))
    return _distribution(sums, layout)


def _backward_of_share(
    settings: _Settings, layout: HeadLayout, rows: tuple[Array, ...], head: Array, allowed: Array
) -> tuple[Array, Array]:
    """The gradients of a device's rows and of its part of the head.

    `rows` are hidden states, targets, log normalizers, and gradients by log p over the temperature.
    """
    hidden, targets, log_normalizers, weights = rows
    count, size = _blocks(settings, layout, len(hidden), len(head))

    def add_block(gradients: tuple[Array, Array], number: Array) -> tuple[tuple[Array, Array], None]:
        of_hidden, of_head = gradients
        block = _block(number, size, layout, hidden.dtype, head, allowed)
        logits = _product("rw,vw->rv", hidden, block.head) / settings.temperature
        probabilities = jnp.exp(logits - log_normalizers[:, None])
        of_logits = weights[:, None] * ((block.ids == targets[:, None]) - probabilities)
        of_logits = jnp.where(block.allowed, of_logits, 0.0).astype(hidden.dtype)
        of_block = layout.sum_over_rows(_product("rv,rw->vw", of_logits, hidden)).astype(head.dtype)
        new = jnp.where(block.is_new, of_logits, 0)
        of_hidden += _product("rv,vw->rw", new, block.head)
        return (of_hidden, jax.lax.dynamic_update_slice_in_dim(of_head, of_block, block.start, 0)), None

    start = (
        layout.zeros(hidden.shape, layout.axes),
        layout.zeros(head.shape, layout.head_axes).astype(head.dtype),
    )
    (of_hidden, of_head), _ = jax.lax.scan(add_block, start, jnp.arange(count))
    return layout.sum_over_ids(of_hidden).astype(hidden.dtype), of_head


def _blocks(settings: _Settings, layout: HeadLayout, rows: int, ids: int) -> tuple[int, int]:
    """Into how many blocks a device's ids are cut, and of what size."""
    chunk = max(1, settings.chunk // layout.row_shards)
    size = -(-ids * chunk // max(rows, 1))
    if size > _LANES:
        size = -(-size // _LANES) * _LANES
    size = min(size, ids)
    return -(-ids // size), size


def _block(
    number: Array, size: int, layout: HeadLayout, dtype: jnp.dtype, head: Array, allowed: Array
) -> _Block:
    """The block of this number; the last one reaches back over ids of the one before it."""
    start = jnp.minimum(number * size, len(head) - size)
    places = start + jnp.arange(size)
    part = jax.lax.dynamic_slice_in_dim(head, start, size).astype(dtype)
    return _Block(
        start=start,
        head=layout.whole_width(part),
        ids=layout.first_id(len(head)) + places,
        allowed=jax.lax.dynamic_slice_in_dim(allowed, start, size),
        is_new=places >= number * size,
    )


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


def _joined(one: _Sums, other: _Sums) -> _Sums:
    """The sums over the ids of both."""
    largest = jnp.maximum(one.largest, other.largest)
    one, other = _shifted(one, largest), _shifted(other, largest)
    return _Sums(one.target + other.target, largest, one.total + other.total, one.moment + other.moment)


def _shifted(sums: _Sums, largest: Float[Array, " rows"]) -> _Sums:
    """The same sums with respect to another m."""
    shift = sums.largest - largest
    scale = jnp.exp(shift)
    moment = scale * (sums.moment + shift * sums.total)
    return sums._replace(largest=largest, total=scale * sums.total, moment=moment)


def _distribution(share: _Sums, layout: HeadLayout) -> tuple[Array, Array, Array]:
    """Log-probability of the target, entropy and log normalizer, from the sums of every device."""
    sums = _shifted(share, layout.largest_over_ids(share.largest))
    target, total, moment = layout.sum_over_ids((sums.target, sums.total, sums.moment))
    log_total = jnp.log(total)
    log_normalizer = sums.largest + log_total
    return target - log_normalizer, log_total - moment / total, log_normalizer


def _pad(rows: Any, layout: HeadLayout) -> Any:
    """As many rows for each device; rows of a sharded batch are so already."""
    return jax.tree.map(lambda array: _pad_rows(array, -array.shape[0] % layout.row_shards), rows)


def _unpad(rows: Any, like: Array) -> Any:
    return jax.tree.map(lambda array: array[: like.shape[0]], rows)


def _pad_rows(array: Array, count: int) -> Array:
    return jnp.pad(array, [(0, count)] + [(0, 0)] * (array.ndim - 1)) if count else array
