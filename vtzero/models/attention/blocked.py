"""Attention on CPUs by blocks of queries, each with an exact softmax over all the keys that it may see.

Scores exist a block at a time, and the backward pass computes them anew. Held whole, they cost one layer of
four images of 1296 patches, with its gradients, 0.74 s of one core and 212,000 page faults; by blocks, 0.30 s
and 2,000. Every product is a batch of matrices as they lie, the axes having been brought to that order once.
Knows arrays only: no model, no cache layout, no platform.
"""

from collections.abc import Iterator
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vtzero.models.attention import xla
from vtzero.models.attention.devices import over_devices

BLOCK = 2**19
"""Scores of a block: 2 MB. At 1296 patches, half as many to 1.6 times as many differ by 7 %."""
CAUSAL_QUERIES = 128
"""Queries of a causal block, which leaves out the keys behind its end. A prompt of 414 tokens in three blocks
takes 26 ms where one takes 34."""
MOST_BLOCKS = 8
"""Of a row: each is compiled by itself. Blocks are greater than `BLOCK` from 2048 patches on."""
WHOLE = 2**17
"""Scores up to which the einsums hold them. Half as many, with gradients, take 1.6 ms; by blocks 0.5 ms."""

_FLOOR = -1e30
"""Below every score, yet finite: a query that sees nothing attends to nothing and stays finite."""
_TINY = 1e-30


def image_attention(
    query: Float[Array, "batch patches heads head_dim"],
    key: Float[Array, "batch patches heads head_dim"],
    value: Float[Array, "batch patches heads head_dim"],
    segments: Int[Array, "batch patches"],
    *,
    whole: int = WHOLE,
    block: int = BLOCK,
) -> Float[Array, "batch patches heads head_dim"]:
    """See `vtzero.models.attention.image_attention`."""
    batch, patches, heads, _ = query.shape
    if batch * heads * patches**2 <= whole:
        return xla.image_attention(query, key, value, segments)

    def local(query: Array, key: Array, value: Array, segments: Array) -> Array:
        rows = _sequences(query, key, value, segments)
        return _from_sequences(_attended(rows, None, causal=False, block=block), query)

    return over_devices(local, (query, key, value, segments), query)


def prompt_attention(
    query: Float[Array, "batch prompt heads head_dim"],
    key: Float[Array, "batch prompt kv_heads head_dim"],
    value: Float[Array, "batch prompt kv_heads head_dim"],
    mask: Bool[Array, "batch prompt"],
    *,
    whole: int = WHOLE,
    block: int = BLOCK,
) -> Float[Array, "batch prompt heads head_dim"]:
    """See `vtzero.models.attention.prompt_attention`."""
    batch, prompt, heads, _ = query.shape
    if batch * heads * prompt**2 <= whole:
        return xla.prompt_attention(query, key, value, mask)

    # The mask is not needed: padding comes after all that is read, where no real token sees it.
    def local(query: Array, key: Array, value: Array) -> Array:
        rows = _sequences(query, key, value, None)
        return _from_sequences(_attended(rows, None, causal=True, block=block), query)

    return over_devices(local, (query, key, value), query)


def group_attention(
    prompt: tuple[Array, Array, Array],
    prompt_mask: Bool[Array, "batch prompt"],
    completions: tuple[Array, Array, Array],
    segments: Int[Array, "batch rows length"] | None,
    *,
    whole: int = WHOLE,
    block: int = BLOCK,
) -> tuple[Float[Array, "batch prompt heads head_dim"], Float[Array, "batch rows length heads head_dim"]]:
    """See `vtzero.models.attention.group_attention`."""
    batch, rows, length, heads, _ = completions[0].shape
    if batch * heads * rows * length * (prompt_mask.shape[1] + length) <= whole:
        return xla.group_attention(prompt, prompt_mask, completions, segments)

    def local(shared: Any, completions: Any, *segments: Array) -> Array:
        attended = _attended(_completions(completions, *segments), _shared(*shared), causal=True, block=block)
        return _from_completions(attended, completions[0])

    shared = (prompt[1], prompt[2], prompt_mask)
    operands = (shared, completions) if segments is None else (shared, completions, segments)
    attended = over_devices(local, operands, completions[0])
    return prompt_attention(*prompt, prompt_mask, whole=whole, block=block), attended


class _Rows(NamedTuple):
    """Rows that see themselves, in sets that share a prompt; `heads` are those that read one key head.

    `segments` has one row where all rows of a set have the same.
    """

    query: Float[Array, "sets rows heads length head_dim"]
    key: Float[Array, "sets rows length head_dim"]
    value: Float[Array, "sets rows length head_dim"]
    segments: Int[Array, "sets #rows length"] | None


class _Shared(NamedTuple):
    """What every row of a set sees as well; without a mask, all of it."""

    key: Float[Array, "sets prompt head_dim"]
    value: Float[Array, "sets prompt head_dim"]
    mask: Bool[Array, "sets prompt"] | None


def _sequences(query: Array, key: Array, value: Array, segments: Array | None) -> _Rows:
    """A set for each sample, whose rows are its key heads."""
    batch, length, heads, head_dim = query.shape
    kv_heads = key.shape[2]
    grouped = _scaled(query).reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    grouped = grouped.transpose(0, 2, 3, 1, 4)
    key, value = (_float32(x).swapaxes(1, 2) for x in (key, value))
    return _Rows(grouped, key, value, None if segments is None else segments[:, None])


def _from_sequences(attended: Array, query: Array) -> Array:
    batch, length, heads, head_dim = query.shape
    return attended.reshape(batch, heads, length, head_dim).swapaxes(1, 2).astype(query.dtype)


def _completions(completions: tuple[Array, Array, Array], segments: Array | None = None) -> _Rows:
    """A set for each sample and key head, whose rows are the sample's."""
    query, key, value = completions
    batch, rows, length, heads, head_dim = query.shape
    kv_heads = key.shape[3]
    grouped = _scaled(query).reshape(batch, rows, length, kv_heads, heads // kv_heads, head_dim)
    grouped = grouped.transpose(0, 3, 1, 4, 2, 5).reshape(batch * kv_heads, rows, -1, length, head_dim)
    key, value = (
        _float32(x).transpose(0, 3, 1, 2, 4).reshape(-1, rows, length, head_dim) for x in (key, value)
    )
    return _Rows(grouped, key, value, None if segments is None else jnp.repeat(segments, kv_heads, axis=0))


def _from_completions(attended: Array, query: Array) -> Array:
    batch, rows, length, _, head_dim = query.shape
    by_head = attended.reshape(batch, -1, rows, attended.shape[2], length, head_dim)
    return by_head.transpose(0, 2, 4, 1, 3, 5).reshape(query.shape).astype(query.dtype)


def _shared(key: Array, value: Array, mask: Array) -> _Shared:
    _, length, kv_heads, head_dim = key.shape
    key, value = (_float32(x).swapaxes(1, 2).reshape(-1, length, head_dim) for x in (key, value))
    return _Shared(key, value, jnp.repeat(mask, kv_heads, axis=0))


def _scaled(query: Array) -> Array:
    return _float32(query) * query.shape[-1] ** -0.5


def _float32(x: Array) -> Array:
    return x.astype(jnp.float32)


class _Plan(NamedTuple):
    """Rows that are computed at a time, and the queries of each in a block."""

    rows: int
    queries: int
    causal: bool


def _attended(rows: _Rows, shared: _Shared | None, *, causal: bool, block: int) -> Array:
    _, count, heads, length, _ = rows.query.shape
    keys = length + (0 if shared is None else shared.key.shape[1])
    blocks = max(-(-heads * length * keys // block), length // CAUSAL_QUERIES if causal else 1, 1)
    blocks = min(blocks, MOST_BLOCKS)
    queries = -(-length // blocks)
    most = max(block // (heads * queries * keys), 1)
    together = max(n for n in range(1, count + 1) if count % n == 0 and n <= most)
    return _attend(_Plan(together, queries, causal), rows, shared)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan: _Plan, rows: _Rows, shared: _Shared | None) -> Array:
    return _forward(plan, rows, shared)[0]


def _forward(plan: _Plan, rows: _Rows, shared: _Shared | None) -> tuple[Array, Array]:
    """What the queries attend to, and the logarithm of each one's sum of exponentials."""

    def of_set(operands: tuple[_Rows, _Shared | None]) -> tuple[Array, Array]:
        rows, shared = operands
        rows, common = _without_common(rows)
        return _joined(
            jax.lax.map(lambda some: _rows_forward(plan, _with(common, some), shared), _split(plan, rows))
        )

    return jax.lax.map(of_set, (rows, shared))


def _with_residuals(plan: _Plan, rows: _Rows, shared: _Shared | None) -> tuple[Array, Any]:
    attended, normaliser = _forward(plan, rows, shared)
    return attended, (rows, shared, attended, normaliser)


def _backward(plan: _Plan, residuals: Any, gradient: Array) -> tuple[_Rows, _Shared | None]:
    rows, shared, attended, normaliser = residuals

    def of_set(operands: Any) -> Any:
        rows, shared, *rest = operands
        rows, common = _without_common(rows)

        def step(total: Any, some: Any) -> Any:
            own, of_shared = _rows_backward(plan, _with(common, some[0]), shared, *some[1:])
            return jax.tree.map(jnp.add, total, of_shared), own

        zeros = () if shared is None else (jnp.zeros_like(shared.key), jnp.zeros_like(shared.value))
        total, own = jax.lax.scan(step, zeros, _split(plan, (rows, *rest)))
        return _joined(own), total

    own, of_shared = jax.lax.map(of_set, (rows, shared, attended, normaliser, gradient))
    of_query, of_key, of_value = own
    of_rows = _Rows(of_query, of_key, of_value, segments=None)
    return of_rows, None if shared is None else _Shared(of_shared[0], of_shared[1], mask=None)


_attend.defvjp(_with_residuals, _backward)


def _without_common(rows: _Rows) -> tuple[_Rows, Array | None]:
    """Segments that all rows have lie outside the loop over these.

    XLA:CPU compares segments in the loop that takes the exponentials, and does not vectorise that loop where
    it finds its row of segments in an array of many: 2.7 ns a score, against 0.5 ns.
    """
    if rows.segments is None or rows.segments.shape[0] == rows.query.shape[0]:
        return rows, None
    return rows._replace(segments=None), rows.segments


def _with(common: Array | None, rows: _Rows) -> _Rows:
    return rows if common is None else rows._replace(segments=common)


def _split(plan: _Plan, rows: Any) -> Any:
    """(rows, ...) -> (steps, rows at a time, ...)."""
    return jax.tree.map(lambda x: x.reshape(-1, plan.rows, *x.shape[1:]), rows)


def _joined(rows: Any) -> Any:
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)


class _Part(NamedTuple):
    """Keys and values that a block of queries sees; a key of one row serves the queries of all."""

    key: Float[Array, "rows keys head_dim"]
    value: Float[Array, "rows keys head_dim"]
    visible: Bool[Array, "rows 1 queries keys"] | None


def _blocks(plan: _Plan, rows: _Rows, shared: _Shared | None) -> Iterator[tuple[slice, list[_Part]]]:
    length = rows.query.shape[2]
    for start in range(0, length, plan.queries):
        end = min(start + plan.queries, length)
        seen = end if plan.causal else length
        visible = _visible(plan, rows.segments, slice(start, end), seen)
        parts = [_Part(rows.key[:, :seen], rows.value[:, :seen], visible)]
        if shared is not None:
            to_prompt = None if shared.mask is None else shared.mask[None, None, None]
            parts.append(_Part(shared.key[None], shared.value[None], to_prompt))
        yield slice(start, end), parts


def _visible(plan: _Plan, segments: Array | None, queries: slice, keys: int) -> Array | None:
    causal = jnp.arange(queries.start, queries.stop)[:, None] >= jnp.arange(keys)
    if segments is None:
        return causal[None, None] if plan.causal else None
    same = segments[:, None, queries, None] == segments[:, None, None, :keys]
    return same & causal if plan.causal else same


def _rows_forward(plan: _Plan, rows: _Rows, shared: _Shared | None) -> tuple[Array, Array]:
    blocks = [_block_forward(rows.query[:, :, at], parts) for at, parts in _blocks(plan, rows, shared)]
    attended, normaliser = zip(*blocks, strict=True)
    return jnp.concatenate(attended, axis=2), jnp.concatenate(normaliser, axis=2)


def _block_forward(query: Array, parts: list[_Part]) -> tuple[Array, Array]:
    scores = [_scores(query, part) for part in parts]
    greatest = jnp.maximum(reduce(jnp.maximum, (x.max(axis=-1) for x in scores)), _FLOOR)
    weights = [jnp.exp(x - greatest[..., None]) for x in scores]
    total = jnp.maximum(sum(x.sum(axis=-1) for x in weights), _TINY)
    attended = sum(_times(x, part.value) for x, part in zip(weights, parts, strict=True))
    return attended / total[..., None], greatest + jnp.log(total)


def _rows_backward(
    plan: _Plan, rows: _Rows, shared: _Shared | None, attended: Array, normaliser: Array, gradient: Array
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
    """Gradients of the rows' queries, keys and values, and of the shared keys and values."""
    of_query, of_key, of_value = [], jnp.zeros_like(rows.key), jnp.zeros_like(rows.value)
    of_shared: list[tuple[Array, ...]] = []
    for at, parts in _blocks(plan, rows, shared):
        block = (x[:, :, at] for x in (rows.query, attended, normaliser, gradient))
        query, (own, *others) = _block_backward(parts, *block)
        seen = own[0].shape[1]
        of_query.append(query)
        of_key, of_value = of_key.at[:, :seen].add(own[0]), of_value.at[:, :seen].add(own[1])
        of_shared += [tuple(x[0] for x in other) for other in others]
    summed = jax.tree.map(lambda *x: sum(x), *of_shared) if of_shared else ()
    return (jnp.concatenate(of_query, axis=2), of_key, of_value), summed


def _block_backward(
    parts: list[_Part], query: Array, attended: Array, normaliser: Array, gradient: Array
) -> tuple[Array, list[tuple[Array, Array]]]:
    """Gradients of the queries, and of each part's keys and values."""
    mean = jnp.sum(attended * gradient, axis=-1, keepdims=True)
    of_query, of_parts = jnp.zeros_like(query), []
    for part in parts:
        weights = jnp.exp(_scores(query, part) - normaliser[..., None])
        of_scores = weights * (_products(gradient, part.value) - mean)
        of_query += _times(of_scores, part.key)
        of_parts.append(
            (_transposed_times(of_scores, query, part), _transposed_times(weights, gradient, part))
        )
    return of_query, of_parts


def _scores(query: Array, part: _Part) -> Array:
    scores = _products(query, part.key)
    return scores if part.visible is None else jnp.where(part.visible, scores, -jnp.inf)


def _products(query: Array, key: Array) -> Float[Array, "rows heads queries keys"]:
    flat = query.reshape(key.shape[0], -1, query.shape[-1])
    return jnp.einsum("rqd,rkd->rqk", flat, key).reshape(*query.shape[:-1], -1)


def _times(weights: Array, value: Array) -> Float[Array, "rows heads queries head_dim"]:
    flat = weights.reshape(value.shape[0], -1, weights.shape[-1])
    return jnp.einsum("rqk,rkd->rqd", flat, value).reshape(*weights.shape[:-1], -1)


def _transposed_times(weights: Array, query: Array, part: _Part) -> Float[Array, "rows keys head_dim"]:
    rows = part.key.shape[0]
    flat = (x.reshape(rows, -1, x.shape[-1]) for x in (query, weights))
    # Keys last: with them first XLA:CPU computes the product of 1296 x 432 x 32 at 49 GFLOP/s, not 72.
    return jnp.einsum("rqd,rqk->rdk", *flat).swapaxes(1, 2)
