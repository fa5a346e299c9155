"""The k-th greatest logit of a row and the first token of its nucleus, found by sums instead of a sort.

How: the bits of a float32, read as an unsigned integer and turned where the sign demands it, order as the
numbers do. A threshold is then the least of 2**32 keys at which a monotone question becomes true ("are fewer
than k logits above it?"). A round of the search asks it at several keys in one pass over the vocabulary.

Why: on a vocabulary that is sharded over a mesh axis, a sort gathers the rows, while a round of sums
exchanges a few integers a row. Integers sum exactly in any order, so that every mesh finds the same tokens.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt

# Half a unit of float32 just below 1: how far off a top_p such as 0.8 may be once it is rounded to float32.
TOP_P_ROUNDING = 2.0**-25

# Into how many parts a round divides what is left: fewer make more rounds, more make each one dearer.
# Milliseconds of CPU time at (64, 151936), measured on one CPU core, jax 0.10.2; one sort takes 2,100 there,
# a sort that carries the ids 2,700.
#     parts (rounds)     4 (16)   8 (11)   16 (8)
#     kth_greatest           42       62      153
#     first_of_nucleus      209      181      174
PARTS = 8

# Where one candidate of each row in turn, (*rows, 1), is the one sought or above it.
Question = Callable[[Sequence[Array]], Sequence[Bool[Array, "*rows 1"]]]


@jax.jit
def kth_greatest(scores: Float[Array, "*rows vocab"], k: Int[Array, "*#rows 1"]) -> Float[Array, "*rows 1"]:
    """The k-th greatest of each row, where equal ones count each; the least if k <= 0 or k >= vocab.

    Exact to the last bit, except that a device which takes subnormal numbers for 0 may give one instead of 0.
    """
    vocab = scores.shape[-1]
    k = jnp.where((k <= 0) | (k >= vocab), vocab, k)

    def fewer_than_k_above(candidates: Sequence[Array]) -> list[Array]:
        return [count < k for count in _sums([(scores > c).astype(jnp.int32) for c in candidates])]

    return _least_score(fewer_than_k_above, jnp.max(scores, axis=-1, keepdims=True))


@jax.jit
def first_of_nucleus(
    scores: Float[Array, "*rows vocab"], top_p: Float[Array, "*#rows 1"]
) -> tuple[Float[Array, "*rows 1"], Int[Array, "*rows 1"]]:
    """The logit and id of the first token that top-p keeps, in the order of (logit, id).

    Removed are the tokens that, with all before them, have at most the mass 1 - top_p, within TOP_P_ROUNDING;
    never the last. Returns id 0 where no two tokens have that logit, and (-inf, 0) where top-p is off and in
    a row that is -inf throughout.

    Masses are float32 exponentials, summed without rounding in fixed point; the sum and the comparison with
    top_p are rounded to float32, which moves the edge by less than 3e-7 of the mass.
    """
    greatest = jnp.max(scores, axis=-1, keepdims=True)
    limbs = _fixed_point_masses(scores, greatest)
    total = _mass(_sums(limbs), scores)

    def stays(mass: Float[Array, "*rows 1"]) -> Bool[Array, "*rows 1"]:
        # A difference, because the rounding added to 1 - p would be lost when that is rounded in its turn.
        beyond = mass / jnp.maximum(total, 1.0) - (1.0 - top_p) > TOP_P_ROUNDING
        return beyond | (top_p >= 1.0)

    def score_stays(candidates: Sequence[Array]) -> list[Array]:
        sums = _sums([jnp.where(scores <= c, limb, 0) for c in candidates for limb in limbs])
        return [stays(_mass(pair, scores)) for pair in zip(sums[::2], sums[1::2], strict=True)]

    least = _least_score(score_stays, greatest)
    # Together, so that it takes one pass: what ties, and the masses before it and of it.
    tied, below = scores == least, scores < least
    counts = tied.astype(jnp.int32)
    parts = _sums([counts, *(jnp.where(where, limb, 0) for where in (below, tied) for limb in limbs)])
    before, each = _mass(parts[1:3], scores), _mass(parts[3:5], scores) / jnp.maximum(parts[0], 1)

    def tie_stays(so_far: Int[Array, "*rows 1"]) -> Bool[Array, "*rows 1"]:
        return stays(before + so_far * each)

    several = (parts[0] > 1) & (least > -jnp.inf)
    first_id = jax.lax.cond(
        jnp.any(several), lambda: _least_tied_id(tie_stays, tied), lambda: jnp.zeros_like(parts[0])
    )
    return least, jnp.where(several, first_id, 0)


def _least_tied_id(
    stays: Callable[[Int[Array, "*rows 1"]], Bool[Array, "*rows 1"]], tied: Bool[Array, "*rows vocab"]
) -> Int[Array, "*rows 1"]:
    """The least id at which `stays` is true of the number of tied tokens up to it; else the last tied one."""
    ids = jax.lax.broadcasted_iota(jnp.uint32, tied.shape, tied.ndim - 1)
    last = jnp.max(jnp.where(tied, ids, 0), axis=-1, keepdims=True)

    def id_stays(candidates: Sequence[Array]) -> list[Array]:
        return [stays(count) for count in _sums([(tied & (ids <= c)).astype(jnp.int32) for c in candidates])]

    return _least(id_stays, jnp.zeros_like(last), last, tied.shape[-1]).astype(jnp.int32)


def _least_score(question: Question, greatest: Float[Array, "*rows 1"]) -> Float[Array, "*rows 1"]:
    """The least float32, from -inf to `greatest`, at which the question is true; else `greatest`."""

    def of_scores(keys: Sequence[Array]) -> Sequence[Array]:
        return question([_from_key(key) for key in keys])

    high = _to_key(greatest)
    low = jnp.broadcast_to(_to_key(jnp.float32(-jnp.inf)), high.shape)
    return _from_key(_least(of_scores, low, high, 2**32))


def _least(
    question: Question, low: UInt[Array, "*rows 1"], high: UInt[Array, "*rows 1"], span: int
) -> UInt[Array, "*rows 1"]:
    """The least of low … high at which the question is true, or `high`; high - low must be below `span`.

    A fixed number of rounds: a loop that asks the device whether to go on makes a GPU wait for its host.
    """

    def narrow(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        size = (high - low) // PARTS + 1
        ends = [jnp.minimum(low + (part * size - 1), high) for part in range(1, PARTS)]
        passed = sum((~true).astype(jnp.uint32) for true in question(ends))
        low = jnp.minimum(low + passed * size, high)
        return low, jnp.minimum(low + (size - 1), high)

    rounds = next(n for n in range(33) if PARTS**n >= span)
    return jax.lax.fori_loop(0, rounds, narrow, (low, high))[0]


def _sums(values: Sequence[Int[Array, "*rows vocab"]]) -> list[Int[Array, "*rows 1"]]:
    """The sums over the vocabulary, in one pass over it: as sums apart, XLA for CPU makes a pass for each."""
    zeros = (np.int32(0),) * len(values)
    sums = jax.lax.reduce(tuple(values), zeros, lambda a, b: tuple(map(jnp.add, a, b)), (values[0].ndim - 1,))
    return [total[..., None] for total in sums]


def _fixed_point_masses(
    scores: Float[Array, "*rows vocab"], greatest: Float[Array, "*rows 1"]
) -> tuple[Int[Array, "*rows vocab"], Int[Array, "*rows vocab"]]:
    """Each token's mass as coarse + fine / 2**bits, in units in which a row has between 2**29 and 2**30.

    A float32 mass loses less than one fine unit (2**-42 of the row's at 151,936 tokens). The scale is a power
    of two, so that it does not depend on how a mesh rounds the sum of floats (unless it rounds across one).
    """
    mass = jnp.exp(scores - jnp.where(greatest == -jnp.inf, 0.0, greatest))
    _, exponent = jnp.frexp(jnp.sum(mass, axis=-1, keepdims=True))
    mass = mass * jnp.ldexp(jnp.float32(2.0**30), -exponent)
    coarse = mass.astype(jnp.int32)
    fine = (mass - coarse.astype(jnp.float32)) * 2.0 ** _fine_bits(scores)
    return coarse, fine.astype(jnp.int32)


def _fine_bits(scores: Float[Array, "*rows vocab"]) -> int:
    """So many that fine parts of a whole row fit an int32; float32 has no more than 24."""
    return min(24, 31 - scores.shape[-1].bit_length())


def _mass(
    sums: Sequence[Int[Array, "*rows 1"]], scores: Float[Array, "*rows vocab"]
) -> Float[Array, "*rows 1"]:
    coarse, fine = (part.astype(jnp.float32) for part in sums)
    return coarse + fine * 2.0 ** -_fine_bits(scores)


def _to_key(values: Float[Array, "*shape"]) -> UInt[Array, "*shape"]:
    """Unsigned integers in the order of the float32 values."""
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits ^ jnp.uint32(2**31))


def _from_key(keys: UInt[Array, "*shape"]) -> Float[Array, "*shape"]:
    bits = jnp.where(keys >> 31 == 0, ~keys, keys ^ jnp.uint32(2**31))
    return jax.lax.bitcast_convert_type(bits, jnp.float32)
