"""From logits to tokens: the filters of sampling, the draw, and the log-probability of what was drawn.

Pure functions of arrays, with values that may differ from row to row and may be traced. Knows no tokenizer,
no model, no decode loop, no files and no config of runs.

Shapes and numbers that hold throughout:
- Logits are `(…, vocab)` of any float dtype; the work and the result are float32.
- A per-row value is a scalar or an array that broadcasts against the leading dimensions `…`.
- A removed token has the logit -inf, in what goes in as in what comes out; it stays removed and gives no NaN.
- At least one token of a row stays. A row that is -inf throughout has no distribution: the filters return it
  as it is, `draw` gives id 0, and `log_probability` gives -inf.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from vtzero.sampling.parameters import SamplingParameters
from vtzero.sampling.threshold import first_of_nucleus, kth_greatest


def filter_logits(
    logits: Float[Array, "*rows vocab"],
    parameters: SamplingParameters,
    seen: Bool[Array, "*rows vocab"] | None = None,
) -> Float[Array, "*rows vocab"]:
    """Bans, repetition penalty, temperature, top-k, top-p, min-p: transformers' order of logits processors.

    A filter whose parameter is None is not compiled in. Rows with temperature 0 take the bans and the
    penalty only, as in transformers' greedy generation (a top-p that breaks a tie would move the argmax).

    Args:
        logits: as the model gave them.
        parameters: checked by `validate_sampling`.
        seen: True at the tokens already in a row's text; used by the repetition penalty alone.

    Raises:
        ValueError: if `parameters` has a repetition penalty and `seen` is None, or a ban is no id.
    """
    scores = ban_ids(logits, parameters.banned_ids)
    if parameters.repetition_penalty is not None:
        if seen is None:
            raise ValueError(
                "repetition_penalty needs `seen`: pass the tokens seen, or leave the penalty None"
            )
        scores = apply_repetition_penalty(scores, parameters.repetition_penalty, seen)
    warped = apply_temperature(scores, parameters.temperature)
    if parameters.top_k is not None or parameters.top_p is not None:
        warped = apply_top_k_top_p(warped, parameters.top_k, parameters.top_p)
    if parameters.min_p is not None:
        warped = apply_min_p(warped, parameters.min_p)
    return jnp.where(_per_row(parameters.temperature) == 0, scores, warped)


def ban_ids(
    logits: Float[Array, "*rows vocab"], banned: Sequence[int] | Int[Array, " k"] | Bool[Array, " vocab"]
) -> Float[Array, "*rows vocab"]:
    """-inf at `banned`: ids, or a mask over the vocabulary. Ids in a traced array that are out of vocabulary
    are ignored, so that such an array can be padded with -1.

    Raises:
        ValueError: if an id in a sequence of host numbers is out of vocabulary, or a mask has another length.
    """
    scores = logits.astype(jnp.float32)
    vocab = scores.shape[-1]
    if not isinstance(banned, (jax.Array, np.ndarray)):
        _require_in_vocabulary(banned, vocab)
        banned = jnp.asarray(banned, jnp.int32)
    if banned.dtype == jnp.bool_:
        if banned.shape != (vocab,):
            raise ValueError(f"a mask of banned ids must have shape ({vocab},), got {banned.shape}")
        return jnp.where(banned, -jnp.inf, scores)
    # A negative index would count from the end: send it past the end, where it is dropped.
    ids = jnp.where(banned < 0, vocab, banned)
    mask = jnp.zeros(vocab, bool).at[ids].set(True, mode="drop")
    return jnp.where(mask, -jnp.inf, scores)


def apply_repetition_penalty(
    logits: Float[Array, "*rows vocab"],
    penalty: float | Float[Array, "*rows"],
    seen: Bool[Array, "*rows vocab"],
) -> Float[Array, "*rows vocab"]:
    """Where `seen`, positive logits divided by the penalty and negative ones multiplied by it.

    Source: CTRL (arXiv 1909.05858) §4.1, as in transformers' `RepetitionPenaltyLogitsProcessor`.
    """
    scores = logits.astype(jnp.float32)
    factor = _per_row(penalty)
    penalised = jnp.where(scores < 0, scores * factor, scores / factor)
    return jnp.where(seen, penalised, scores)


def apply_temperature(
    logits: Float[Array, "*rows vocab"], temperature: float | Float[Array, "*rows"]
) -> Float[Array, "*rows vocab"]:
    """Logits divided by the temperature; a row with temperature 0 stays as it is (`draw` is greedy there)."""
    divisor = _per_row(temperature)
    return logits.astype(jnp.float32) / jnp.where(divisor > 0, divisor, 1.0)


def apply_top_k(
    logits: Float[Array, "*rows vocab"], top_k: int | Int[Array, "*rows"]
) -> Float[Array, "*rows vocab"]:
    """Removes what is less than the k-th greatest logit of its row; all that tie with the k-th stay.

    0, or k >= vocab, turns it off. Source: transformers' `TopKLogitsWarper`.
    """
    scores = logits.astype(jnp.float32)
    return jnp.where(scores < kth_greatest(scores, _per_row(top_k, jnp.int32)), -jnp.inf, scores)


def apply_top_p(
    logits: Float[Array, "*rows vocab"], top_p: float | Float[Array, "*rows"]
) -> Float[Array, "*rows vocab"]:
    """Keeps the most probable tokens, as few as reach the mass `top_p`, at least one; 1.0 turns it off.

    Of tokens that tie where the mass is reached, those of the higher ids stay: as many as in transformers'
    `TopPLogitsWarper`, and the same ones wherever torch's sort is stable. A mass counts as reached within the
    rounding of `top_p` to float32. Source: arXiv 1904.09751 §3.1.
    """
    return apply_top_k_top_p(logits, None, top_p)


def apply_top_k_top_p(
    logits: Float[Array, "*rows vocab"],
    top_k: int | Int[Array, "*rows"] | None,
    top_p: float | Float[Array, "*rows"] | None,
) -> Float[Array, "*rows vocab"]:
    """`apply_top_k`, then `apply_top_p` on what it left. None leaves a filter out."""
    if top_p is None:
        return logits.astype(jnp.float32) if top_k is None else apply_top_k(logits, top_k)
    scores = logits.astype(jnp.float32) if top_k is None else apply_top_k(logits, top_k)
    least, first_id = first_of_nucleus(scores, _per_row(top_p))
    ids = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
    removed = (scores < least) | ((scores == least) & (ids < first_id))
    return jnp.where(removed, -jnp.inf, scores)


def apply_min_p(
    logits: Float[Array, "*rows vocab"], min_p: float | Float[Array, "*rows"]
) -> Float[Array, "*rows vocab"]:
    """Removes tokens less probable than `min_p` times the most probable one; 0 turns it off.

    Source: arXiv 2407.01082, as in transformers' `MinPLogitsWarper`.
    """
    scores = logits.astype(jnp.float32)
    return jnp.where(_relative_to_greatest(scores) < _per_row(min_p), -jnp.inf, scores)


def draw(
    logits: Float[Array, "*rows vocab"],
    keys: Key[Array, "*rows"],
    temperature: float | Float[Array, "*rows"],
) -> Int[Array, "*rows"]:
    """One id a row, drawn in proportion to exp(logits); the argmax (the first, in a tie) at temperature 0.

    The logits are those of `filter_logits`, already divided by the temperature, which here only tells the
    greedy rows. A row's id depends on its own key and logits alone, whatever rows stand beside it.

    Args:
        logits: (…, vocab), filtered.
        keys: (…), typed threefry keys (`jax.random.key`), one a row.
        temperature: scalar or (…).

    Returns:
        int32 ids (…).

    Raises:
        ValueError: if `keys` are not one typed key a row, or of an implementation other than threefry: under
            `jax.vmap` the numbers of "rbg" depend on the other rows of the batch.
    """
    _require_key_per_row(keys, logits.shape[:-1])
    scores = logits.astype(jnp.float32)
    categorical = jax.random.categorical
    # One vmap a leading dimension, not a reshape: a reshape would merge dimensions that are sharded apart.
    for _ in range(keys.ndim):
        categorical = jax.vmap(categorical)
    drawn = categorical(keys, scores)
    greedy = jnp.argmax(scores, axis=-1)
    return jnp.where(jnp.asarray(temperature) == 0, greedy, drawn).astype(jnp.int32)


def log_probability(logits: Float[Array, "*rows vocab"], ids: Int[Array, "*rows"]) -> Float[Array, "*rows"]:
    """log softmax(logits) at `ids`, in float32, without the log-softmax of the other tokens.

    -inf at a removed id. Ids must lie in [0, vocab).
    """
    scores = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(scores, ids[..., None], axis=-1)[..., 0]
    # Only in a row that is -inf throughout is the difference undefined (-inf - -inf).
    return jnp.where(chosen == -jnp.inf, -jnp.inf, chosen - jax.nn.logsumexp(scores, axis=-1))


def _per_row(value: float | Array, dtype: type = jnp.float32) -> Array:
    return jnp.asarray(value, dtype)[..., None]


def _relative_to_greatest(scores: Float[Array, "*rows vocab"]) -> Float[Array, "*rows vocab"]:
    """exp(score - greatest score), 0 throughout a row that is -inf throughout."""
    greatest = jnp.max(scores, axis=-1, keepdims=True)
    return jnp.exp(scores - jnp.where(greatest == -jnp.inf, 0.0, greatest))


def _require_in_vocabulary(ids: Sequence[int], vocab: int) -> None:
    outside = [int(i) for i in ids if not 0 <= i < vocab]
    if outside:
        raise ValueError(
            f"banned ids {outside} are out of the vocabulary of {vocab}: remove them from banned_ids"
        )


def _require_key_per_row(keys: Array, rows: tuple[int, ...]) -> None:
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        raise ValueError(
            f"keys must be typed keys (jax.random.key, jax.random.split), got dtype {keys.dtype}"
        )
    if keys.shape != rows:
        raise ValueError(f"one key a row is needed: logits have rows {rows}, keys have shape {keys.shape}")
    implementation = str(jax.random.key_impl(keys))
    if "threefry" not in implementation:
        raise ValueError(f"keys must be threefry keys for rows to be independent, got {implementation}")
