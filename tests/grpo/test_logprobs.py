"""Chunked log-probabilities against whole ones, in values, gradients and memory."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vtzero.grpo.logprobs import chunked_logprobs
from vtzero.grpo.objectives import ObjectiveSettings, loss_weights, policy_loss

ROWS, WIDTH, VOCAB = 37, 16, 53
CHUNKS = [1, 8, 36, 37, 64]


def random_inputs(
    seed: int, rows: int = ROWS, width: int = WIDTH, vocab: int = VOCAB
) -> tuple[jax.Array, ...]:
    """Hidden states, head and targets, and the cotangent of each row's log-probability."""
    random = np.random.default_rng(seed)
    hidden = jnp.asarray(random.normal(0, 1, (rows, width)), jnp.float32)
    head = jnp.asarray(random.normal(0, 1 / width**0.5, (vocab, width)), jnp.float32)
    return (
        hidden,
        head,
        jnp.asarray(random.integers(0, vocab, rows)),
        jnp.asarray(random.normal(0, 1, rows), jnp.float32),
    )


def whole_logprobs(hidden, head, targets, banned=None, temperature=1.0):
    """The same by definition, holding every logit."""
    logits = (hidden @ head.T).astype(jnp.float32) / temperature
    logits = logits if banned is None else jnp.where(banned, -jnp.inf, logits)
    distributions = jax.nn.log_softmax(logits)
    logps = jnp.take_along_axis(distributions, targets[:, None], axis=-1)[:, 0]
    return logps, jax.scipy.special.entr(jnp.exp(distributions)).sum(-1)


def gradients(function, hidden, head, targets, cotangent, **options):
    def weighted(hidden, head):
        return (function(hidden, head, targets, **options)[0] * cotangent).sum()

    return jax.jit(jax.grad(weighted, argnums=(0, 1)))(hidden, head)


def assert_close(actual: Any, expected: Any, relative: float = 1e-6) -> None:
    """Equal to `relative` of the largest number expected."""
    error = np.abs(np.asarray(actual) - np.asarray(expected)).max()
    assert error <= relative * np.abs(np.asarray(expected)).max()


@pytest.mark.parametrize("chunk", CHUNKS)
def test_chunked_equals_whole(chunk):
    hidden, head, targets, cotangent = random_inputs(seed=0)
    banned = jnp.zeros(VOCAB, bool).at[jnp.array([3, 50])].set(True)
    targets = jnp.where(banned[targets], 0, targets)
    options = {"banned": banned, "temperature": 0.7}
    logps, entropy = chunked_logprobs(hidden, head, targets, chunk=chunk, **options)
    expected_logps, expected_entropy = whole_logprobs(hidden, head, targets, **options)
    assert logps.shape == entropy.shape == (ROWS,)
    assert_close(logps, expected_logps)
    assert_close(entropy, expected_entropy)
    actual = gradients(chunked_logprobs, hidden, head, targets, cotangent, chunk=chunk, **options)
    expected = gradients(whole_logprobs, hidden, head, targets, cotangent, **options)
    assert_close(actual[0], expected[0])
    assert_close(actual[1], expected[1])


def test_by_hand():
    # Logits 0, log 3 and 0 (banned): probabilities 1/4 and 3/4, entropy log 4 - 3/4 log 3.
    hidden, head = jnp.array([[1.0], [1.0]]), jnp.array([[0.0], [np.log(3.0)], [0.0]])
    banned = jnp.array([False, False, True])
    logps, entropy = chunked_logprobs(hidden, head, jnp.array([0, 1]), banned=banned, chunk=1)
    np.testing.assert_allclose(logps, [-1.3862944, -0.2876821], rtol=1e-6)
    np.testing.assert_allclose(entropy, [0.5623351, 0.5623351], rtol=1e-6)


def test_temperature_divides_the_logits():
    hidden, head = jnp.array([[1.0]]), jnp.array([[0.0], [2 * np.log(3.0)]])
    logps, _ = chunked_logprobs(hidden, head, jnp.array([1]), temperature=2.0)
    np.testing.assert_allclose(logps, [-0.2876821], rtol=1e-6)


def test_without_banned_ids_every_id_counts():
    hidden, head, targets, _ = random_inputs(seed=1)
    logps, entropy = chunked_logprobs(hidden, head, targets, chunk=8)
    expected_logps, expected_entropy = whole_logprobs(hidden, head, targets)
    assert_close(logps, expected_logps)
    assert_close(entropy, expected_entropy)


def test_the_entropy_carries_no_gradient():
    hidden, head, targets, _ = random_inputs(seed=2)
    gradient = jax.grad(lambda h, w: chunked_logprobs(h, w, targets, chunk=8)[1].sum(), argnums=(0, 1))
    assert all((np.asarray(part) == 0).all() for part in gradient(hidden, head))


def test_a_banned_id_has_probability_zero():
    hidden, head, _, _ = random_inputs(seed=3)
    banned = jnp.zeros(VOCAB, bool).at[jnp.array([0, 7])].set(True)
    every_id = jnp.arange(VOCAB)
    same_row = jnp.broadcast_to(hidden[:1], (VOCAB, WIDTH))
    probabilities = np.exp(chunked_logprobs(same_row, head, every_id, banned=banned, chunk=8)[0])
    assert probabilities[0] == probabilities[7] == 0
    np.testing.assert_allclose(probabilities.sum(), 1.0, rtol=1e-6)


def test_a_banned_id_pulls_nothing():
    hidden, head, targets, cotangent = random_inputs(seed=4)
    banned = jnp.zeros(VOCAB, bool).at[7].set(True)
    targets = jnp.where(targets == 7, 0, targets)
    of_head = gradients(chunked_logprobs, hidden, head, targets, cotangent, banned=banned, chunk=8)[1]
    assert (np.asarray(of_head[7]) == 0).all()
    assert (np.abs(np.asarray(of_head)).max(axis=-1) > 0).sum() == VOCAB - 1


def test_a_banned_target_is_minus_infinity_and_spoils_no_gradient():
    hidden, head, targets, cotangent = random_inputs(seed=5)
    banned = jnp.zeros(VOCAB, bool).at[7].set(True)
    targets = jnp.where(targets == 7, 0, targets).at[11].set(7)
    logps, entropy = chunked_logprobs(hidden, head, targets, banned=banned, chunk=8)
    assert logps[11] == -np.inf
    assert np.isfinite(np.delete(np.asarray(logps), 11)).all()
    assert np.isfinite(entropy).all()
    of_hidden, of_head = gradients(chunked_logprobs, hidden, head, targets, cotangent, banned=banned, chunk=8)
    assert np.isfinite(of_hidden).all()
    assert np.isfinite(of_head).all()
    others = np.delete(np.arange(ROWS), 11)
    expected = gradients(
        whole_logprobs, hidden[others], head, targets[others], cotangent[others], banned=banned
    )
    assert_close(of_hidden[others], expected[0])


def test_a_masked_row_with_a_banned_target_leaves_the_loss_alone():
    hidden, head, targets, _ = random_inputs(seed=6, rows=12)
    banned = jnp.zeros(VOCAB, bool).at[7].set(True)
    targets = jnp.where(targets == 7, 0, targets)
    settings = ObjectiveSettings(loss_type="dapo", max_completion_length=6)
    mask = jnp.ones((1, 2, 6), bool).at[0, 1, 5].set(False)
    weights, advantages = loss_weights(mask, settings), jnp.array([[1.0, -1.0]])

    def loss(head, last_target):
        logps, _ = chunked_logprobs(hidden, head, targets.at[11].set(last_target), banned=banned, chunk=5)
        logps = logps.reshape(1, 2, 6)
        return policy_loss(logps, None, None, advantages, weights, mask, settings, mask.sum())[0]

    for spoiled, clean in zip(
        jax.value_and_grad(loss)(head, 7), jax.value_and_grad(loss)(head, 0), strict=True
    ):
        assert np.isfinite(spoiled).all()
        np.testing.assert_array_equal(spoiled, clean)


def test_matmuls_in_bfloat16_accumulate_the_gradient_in_float32():
    rows, chunk = 2048, 8
    hidden, head, targets, cotangent = random_inputs(seed=7, rows=rows)
    hidden, head = hidden.astype(jnp.bfloat16), head.astype(jnp.bfloat16)
    logps, entropy = chunked_logprobs(hidden, head, targets, chunk=chunk)
    assert logps.dtype == entropy.dtype == jnp.float32
    actual = gradients(chunked_logprobs, hidden, head, targets, cotangent, chunk=chunk)
    assert actual[0].dtype == actual[1].dtype == jnp.bfloat16
    exact_inputs = (hidden.astype(jnp.float32), head.astype(jnp.float32), targets, cotangent)
    assert_close(logps, whole_logprobs(*exact_inputs[:3])[0])
    # One rounding of the result to bfloat16 is 2^-9; a running bfloat16 sum of 256 chunks would miss by more.
    assert_close(actual[1].astype(jnp.float32), gradients(whole_logprobs, *exact_inputs)[1], relative=2**-8)


def test_a_tied_head_has_the_gradients_of_both_its_uses():
    _, table, targets, cotangent = random_inputs(seed=11)
    ids = jnp.asarray(np.random.default_rng(12).integers(0, VOCAB, ROWS))

    def weighted(logprobs):
        return lambda table: (logprobs(jnp.tanh(table[ids]), table, targets)[0] * cotangent).sum()

    actual = jax.grad(weighted(partial(chunked_logprobs, chunk=8)))(table)
    assert_close(actual, jax.grad(weighted(whole_logprobs))(table))


def test_the_entropy_of_large_logits_keeps_its_digits():
    logits = np.random.default_rng(14).normal(0, 1, 400) + 1e4
    hidden, head = jnp.ones((1, 1)), jnp.asarray(logits[:, None], jnp.float32)
    _, entropy = chunked_logprobs(hidden, head, jnp.array([0]))
    exact = np.asarray(head[:, 0], np.float64) - 1e4
    probabilities = np.exp(exact) / np.exp(exact).sum()
    np.testing.assert_allclose(entropy, -(probabilities * np.log(probabilities)).sum(), rtol=1e-6)


def temporary_bytes(function, argnums, rows: int = 2048, width: int = 64, vocab: int = 8192) -> int:
    arguments = (
        jax.ShapeDtypeStruct((rows, width), jnp.float32),
        jax.ShapeDtypeStruct((vocab, width), jnp.float32),
        jax.ShapeDtypeStruct((rows,), jnp.int32),
    )

    def total(hidden, head, targets):
        logps, entropy = function(hidden, head, targets)
        return logps.sum(), entropy

    differentiated = total if argnums is None else jax.value_and_grad(total, argnums=argnums, has_aux=True)
    compiled = jax.jit(differentiated).lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("argnums", [None, (0,), (0, 1)])
def test_the_logits_of_all_rows_are_never_held(argnums):
    all_logits = 2048 * 8192 * 4
    whole = temporary_bytes(whole_logprobs, argnums)
    chunked = temporary_bytes(lambda *arguments: chunked_logprobs(*arguments, chunk=64), argnums)
    assert whole >= all_logits
    assert chunked < all_logits / 6


def test_memory_of_the_published_vocabulary_grows_with_the_chunk_and_not_with_the_rows():
    width, vocab, chunk = 256, 151_936, 256

    banned = jnp.zeros(vocab, bool).at[7].set(True)

    def bytes_of(rows: int) -> int:
        function = partial(chunked_logprobs, chunk=chunk, banned=banned, temperature=0.9)
        return temporary_bytes(function, (0, 1), rows=rows, width=width, vocab=vocab)

    few, many = bytes_of(2048), bytes_of(8192)
    hidden_states = (8192 - 2048) * width * 4
    # The hidden states' gradient, summed and as it is returned; a few numbers a row.
    assert many - few < 2.2 * hidden_states
    # Three arrays of a chunk's logits at a time, and one of the head's size.
    assert many < 3 * chunk * vocab * 4 + vocab * width * 4


@pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")
def test_rows_sharded_over_devices_stay_where_they_are():
    hidden, head, targets, cotangent = random_inputs(seed=8, rows=64)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    by_rows, everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    arguments = jax.device_put((hidden, head, targets, cotangent), (by_rows, everywhere, by_rows, by_rows))

    def of_sharded(*arguments):
        return gradients(chunked_logprobs, *arguments, chunk=16)

    compiled = jax.jit(of_sharded).lower(*arguments).compile()
    block = -(-VOCAB // 4)
    assert f"f32[32,{block}]" in compiled.as_text()
    assert f"f32[64,{block}]" not in compiled.as_text()
    assert "all-gather" not in compiled.as_text()
    expected = gradients(whole_logprobs, hidden, head, targets, cotangent)
    for actual, exact in zip(compiled(*arguments), expected, strict=True):
        assert_close(actual, exact)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_named(temperature):
    hidden, head, targets, _ = random_inputs(seed=9)
    with pytest.raises(ValueError, match=r"^temperature is "):
        chunked_logprobs(hidden, head, targets, temperature=temperature)


def test_an_empty_chunk_is_named():
    hidden, head, targets, _ = random_inputs(seed=9)
    with pytest.raises(ValueError, match=r"^chunk is 0"):
        chunked_logprobs(hidden, head, targets, chunk=0)
