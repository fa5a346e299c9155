"""The filters of sampling against transformers' logits processors, and draws against exact distributions."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from vtzero.sampling.filters import (
    apply_min_p,
    apply_repetition_penalty,
    apply_temperature,
    apply_top_k,
    apply_top_k_top_p,
    apply_top_p,
    ban_ids,
    draw,
    filter_logits,
    log_probability,
)
from vtzero.sampling.parameters import SamplingParameters, validate_sampling

ROWS, VOCAB = 6, 97
BANNED = (0, 5, 90)
FILTERS = {
    "temperature": lambda x: apply_temperature(x, 0.7),
    "top_k": lambda x: apply_top_k(x, 4),
    "top_p": lambda x: apply_top_p(x, 0.8),
    "min_p": lambda x: apply_min_p(x, 0.1),
    "repetition_penalty": lambda x: apply_repetition_penalty(x, 1.3, jnp.abs(x) > 1),
    "together": lambda x: filter_logits(x, SamplingParameters(0.7, 4, 0.8, 0.1)),
}


def random_logits(seed, *shape):
    return np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32)


def by_transformers(logits, *processors, input_ids=None):
    return LogitsProcessorList(processors)(input_ids, torch.from_numpy(np.array(logits))).numpy()


def seen_mask(ids, vocab=VOCAB):
    mask = np.zeros((len(ids), vocab), bool)
    np.put_along_axis(mask, ids, True, axis=-1)
    return mask


def assert_filtered_alike(ours, theirs):
    np.testing.assert_array_equal(np.isneginf(ours), np.isneginf(theirs))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.1, 0.7, 1.0, 2.5])
def test_temperature_equals_transformers(temperature):
    logits = random_logits(0, ROWS, VOCAB)
    theirs = by_transformers(logits, TemperatureLogitsWarper(temperature))
    assert_filtered_alike(apply_temperature(logits, temperature), theirs)


def test_temperature_zero_leaves_its_row_as_it_is():
    logits = random_logits(1, 3, VOCAB)
    scaled = apply_temperature(logits, jnp.array([0.5, 0.0, 2.0]))
    np.testing.assert_array_equal(scaled[1], logits[1])
    np.testing.assert_array_equal(scaled[0], logits[0] * 2)


@pytest.mark.parametrize("top_k", [1, 2, 5, VOCAB - 1, VOCAB, VOCAB + 7])
@pytest.mark.parametrize("tied", [False, True])
def test_top_k_equals_transformers(top_k, tied):
    logits = random_logits(2, ROWS, VOCAB)
    logits = np.round(logits) if tied else logits
    theirs = by_transformers(logits, TopKLogitsWarper(top_k))
    np.testing.assert_array_equal(apply_top_k(logits, top_k), theirs)


@pytest.mark.parametrize("top_p", [1e-3, 0.1, 0.5, 0.8, 0.95, 0.999])
def test_top_p_equals_transformers(top_p):
    logits = random_logits(3, 40, VOCAB)
    theirs = by_transformers(logits, TopPLogitsWarper(top_p))
    np.testing.assert_array_equal(apply_top_p(logits, top_p), theirs)


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.8, 0.95])
def test_top_p_breaks_ties_as_transformers(top_p):
    # Up to 16 elements torch's sort is stable; beyond, which of the tied tokens stay is left to its kernel.
    logits = np.round(random_logits(4, 200, 16))
    theirs = by_transformers(logits, TopPLogitsWarper(top_p))
    np.testing.assert_array_equal(apply_top_p(logits, top_p), theirs)
    many = np.round(random_logits(5, 50, VOCAB))
    ours, theirs = apply_top_p(many, top_p), by_transformers(many, TopPLogitsWarper(top_p))
    np.testing.assert_array_equal(np.sort(ours), np.sort(theirs))


@pytest.mark.parametrize("kept", range(1, 9))
def test_top_p_stops_where_the_mass_is_reached_exactly(kept):
    logits = np.zeros((1, 8), np.float32)
    at, above = kept / 8, float(np.nextafter(np.float32(kept / 8), np.float32(2)))
    filtered = jax.jit(apply_top_p)(logits, at)
    assert np.isfinite(filtered).sum() == kept
    np.testing.assert_array_equal(filtered, by_transformers(logits, TopPLogitsWarper(at)))
    if above < 1:
        theirs = by_transformers(logits, TopPLogitsWarper(above))
        np.testing.assert_array_equal(jax.jit(apply_top_p)(logits, above), theirs)


@pytest.mark.parametrize(("vocab", "top_p", "kept"), [(5, 0.8, 4), (10, 0.9, 9), (10, 0.8, 8), (3, 2 / 3, 2)])
def test_top_p_that_float32_cannot_hold_still_stops_where_it_is_reached(vocab, top_p, kept):
    logits = np.zeros((1, vocab), np.float32)
    filtered = jax.jit(apply_top_p)(logits, top_p)
    assert np.isfinite(filtered).sum() == kept
    np.testing.assert_array_equal(filtered, by_transformers(logits, TopPLogitsWarper(top_p)))


@pytest.mark.parametrize("min_p", [0.0, 0.02, 0.3, 0.9])
@pytest.mark.parametrize("tied", [False, True])
def test_min_p_equals_transformers(min_p, tied):
    logits = random_logits(6, ROWS, VOCAB)
    logits = np.round(logits) if tied else logits
    theirs = by_transformers(logits, MinPLogitsWarper(min_p))
    np.testing.assert_array_equal(apply_min_p(logits, min_p), theirs)


@pytest.mark.parametrize("penalty", [0.8, 1.0, 1.05, 2.0])
def test_repetition_penalty_equals_transformers(penalty):
    logits = random_logits(7, ROWS, VOCAB)
    ids = np.random.default_rng(8).integers(0, VOCAB, (ROWS, 20))
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    theirs = by_transformers(logits, processor, input_ids=torch.from_numpy(ids))
    assert_filtered_alike(apply_repetition_penalty(logits, penalty, seen_mask(ids)), theirs)


def test_banned_ids_are_removed_by_ids_by_mask_and_by_padded_array():
    logits = random_logits(9, ROWS, VOCAB)
    theirs = by_transformers(logits, SuppressTokensLogitsProcessor(BANNED))
    mask = np.isin(np.arange(VOCAB), BANNED)
    np.testing.assert_array_equal(ban_ids(logits, BANNED), theirs)
    np.testing.assert_array_equal(ban_ids(logits, jnp.asarray(mask)), theirs)
    np.testing.assert_array_equal(jax.jit(ban_ids)(logits, jnp.array([*BANNED, -1, VOCAB])), theirs)


@pytest.mark.parametrize("banned", [(VOCAB,), (3, -1)])
def test_a_ban_that_does_not_fit_the_vocabulary_is_an_error(banned):
    with pytest.raises(ValueError, match=re.escape(str(banned[-1]))):
        ban_ids(random_logits(10, 2, VOCAB), banned)
    with pytest.raises(ValueError, match="mask of banned ids"):
        ban_ids(random_logits(11, 2, VOCAB), jnp.zeros(VOCAB - 1, bool))


@pytest.mark.parametrize(
    ("apply", "values"),
    [
        (apply_temperature, [0.0, 0.5, 1.0, 1.5, 0.1, 3.0]),
        (apply_top_k, [0, 1, 3, VOCAB, VOCAB + 1, 50]),
        (apply_top_p, [1.0, 0.1, 0.5, 0.9, 0.99, 0.01]),
        (apply_min_p, [0.0, 0.1, 0.5, 0.9, 0.01, 0.2]),
    ],
)
def test_a_value_per_row_equals_each_row_alone(apply, values):
    logits = random_logits(12, 2, 3, VOCAB)
    together = apply(logits, jnp.array(values).reshape(2, 3))
    alone = [apply(row, value) for row, value in zip(logits.reshape(ROWS, VOCAB), values, strict=True)]
    np.testing.assert_array_equal(together.reshape(ROWS, VOCAB), np.stack(alone))


def test_off_removes_nothing_not_even_a_probability_that_underflows():
    logits = random_logits(13, ROWS, VOCAB)
    logits[:, 0] = -500.0
    off = SamplingParameters(1.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0)
    np.testing.assert_array_equal(filter_logits(logits, off, np.ones((ROWS, VOCAB), bool)), logits)


@pytest.mark.parametrize("tied", [False, True])
def test_filters_together_equal_transformers_row_by_row(tied):
    logits = random_logits(14, ROWS, 16)
    logits = np.round(logits) if tied else logits
    ids = np.random.default_rng(15).integers(0, 16, (ROWS, 5))
    # Powers of two keep the divided logits, and with them the ties, the same to the last bit.
    rows = [(0.5, 3, 0.9, 0.05, 2.0), (1, 8, 0.5, 0.1, 1.0), (2, 16, 0.95, 0.2, 0.5),
            (0.5, 5, 0.99, 0.01, 4.0), (4, 12, 0.7, 0.6, 2.0), (1, 1, 0.3, 0.0, 0.25)]  # fmt: skip
    parameters = SamplingParameters(*(jnp.array(column) for column in zip(*rows, strict=True)), (2, 7))
    ours = filter_logits(logits, parameters, seen_mask(ids, 16))
    for i, (temperature, top_k, top_p, min_p, penalty) in enumerate(rows):
        theirs = by_transformers(
            logits[i : i + 1],
            RepetitionPenaltyLogitsProcessor(penalty),
            SuppressTokensLogitsProcessor([2, 7]),
            TemperatureLogitsWarper(float(temperature)),
            TopKLogitsWarper(top_k),
            TopPLogitsWarper(top_p),
            MinPLogitsWarper(min_p),
            input_ids=torch.from_numpy(ids[i : i + 1]),
        )
        assert_filtered_alike(ours[i], theirs[0])


def test_top_k_and_top_p_together_equal_one_after_the_other():
    logits = random_logits(16, ROWS, VOCAB)
    top_k, top_p = jnp.array([0, 1, 5, 20, VOCAB, 40]), jnp.array([0.9, 0.5, 1.0, 0.7, 0.3, 0.99])
    together = apply_top_k_top_p(logits, top_k, top_p)
    np.testing.assert_array_equal(together, apply_top_p(apply_top_k(logits, top_k), top_p))


def test_the_vocabulary_is_never_sorted_nor_read_by_index():
    parameters = SamplingParameters(0.7, 5, 0.9, 0.1)
    program = str(jax.make_jaxpr(filter_logits)(random_logits(17, ROWS, VOCAB), parameters))
    assert re.search(r"\breduce\[", program)
    assert not re.search(r"\b(sort|top_k|gather|scatter|cumsum)\[", program)


def test_new_values_compile_nothing_anew_but_none_does():
    traces = []

    @jax.jit
    def program(logits, parameters, seen, keys):
        traces.append(parameters)
        filtered = filter_logits(logits, parameters, seen)
        ids = draw(filtered, keys, parameters.temperature)
        return ids, log_probability(filtered, ids)

    logits, keys = random_logits(18, ROWS, VOCAB), jax.random.split(jax.random.key(0), ROWS)
    seen = np.zeros((ROWS, VOCAB), bool)
    for temperature, top_k, top_p, min_p, penalty in [(1.0, 5, 0.9, 0.1, 1.1), (0.0, 0, 1.0, 0.0, 1.0)]:
        program(logits, SamplingParameters(temperature, top_k, top_p, min_p, penalty, BANNED), seen, keys)
    assert len(traces) == 1
    program(logits, SamplingParameters(banned_ids=BANNED), seen, keys)
    assert len(traces) == 2


def test_a_repetition_penalty_without_seen_is_an_error():
    with pytest.raises(ValueError, match="repetition_penalty needs `seen`"):
        filter_logits(random_logits(19, 2, VOCAB), SamplingParameters(repetition_penalty=1.1))


@pytest.mark.parametrize("name", FILTERS)
def test_removed_tokens_stay_removed_and_change_nothing_else(name):
    logits = random_logits(20, ROWS, 14)
    with_removed = np.insert(logits, [0, 3, 14], -np.inf, axis=-1)
    present = np.isfinite(with_removed[0])
    whole, alone = FILTERS[name](jnp.asarray(with_removed)), FILTERS[name](jnp.asarray(logits))
    assert np.all(np.isneginf(whole[:, ~present]))
    assert_filtered_alike(whole[:, present], alone)


@pytest.mark.parametrize("name", FILTERS)
def test_a_row_of_one_token_keeps_it_and_a_row_of_none_stays_as_it_is(name):
    logits = jnp.full((2, VOCAB), -jnp.inf).at[0, 11].set(-3.0)
    with jax.debug_nans(True):
        filtered = FILTERS[name](logits)
    np.testing.assert_array_equal(np.isfinite(filtered), np.isfinite(logits))
    assert not np.any(np.isnan(filtered))


def test_a_row_without_tokens_draws_id_zero_with_log_probability_minus_infinity():
    logits = jnp.full((1, VOCAB), -jnp.inf)
    ids = draw(logits, jax.random.split(jax.random.key(1), 1), 1.0)
    assert ids.tolist() == [0]
    assert log_probability(logits, ids).tolist() == [-np.inf]


@pytest.mark.parametrize("name", FILTERS)
def test_bfloat16_logits_are_worked_on_in_float32(name):
    logits = jnp.asarray(random_logits(21, ROWS, VOCAB), jnp.bfloat16)
    filtered = FILTERS[name](logits)
    assert filtered.dtype == jnp.float32
    np.testing.assert_array_equal(filtered, FILTERS[name](logits.astype(jnp.float32)))


def test_large_vocabulary_keeps_the_mass_asked_for():
    logits = random_logits(22, 2, 151_936)
    ours, theirs = apply_top_p(logits, 0.95), by_transformers(logits, TopPLogitsWarper(0.95))
    # The order of summation differs, so the edge may move by a few of some fifty thousand tokens.
    np.testing.assert_allclose(np.isfinite(ours).sum(-1), np.isfinite(theirs).sum(-1), rtol=1e-4)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [(1.0, None, None, None), (0.6, None, None, None), (1.7, 5, None, None), (1.0, None, 0.8, None),
     (1.3, 8, 0.9, None), (0.9, None, None, 0.1)],
)  # fmt: skip
def test_draws_follow_the_exact_filtered_distribution(temperature, top_k, top_p, min_p):
    logits, draws = random_logits(23, 1, 12), 20_000
    warpers = [TemperatureLogitsWarper(temperature)]
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p else []
    warpers += [MinPLogitsWarper(min_p)] if min_p else []
    exact = scipy.special.softmax(by_transformers(logits, *warpers)[0].astype(np.float64))
    filtered = filter_logits(logits, SamplingParameters(temperature, top_k, top_p, min_p))
    keys = jax.random.split(jax.random.key(24), draws)
    ids = draw(jnp.broadcast_to(filtered, (draws, 12)), keys, temperature)
    counts = np.bincount(ids, minlength=12)
    assert counts[exact == 0].sum() == 0
    kept = exact > 0
    assert scipy.stats.chisquare(counts[kept], exact[kept] * draws).pvalue > 1e-4


def test_the_same_keys_draw_the_same_and_other_keys_do_not():
    logits = jnp.zeros((200, VOCAB))
    keys, others = jax.random.split(jax.random.key(25), (2, 200))
    np.testing.assert_array_equal(draw(logits, keys, 1.0), draw(logits, keys, 1.0))
    assert np.mean(draw(logits, keys, 1.0) == draw(logits, others, 1.0)) < 0.1
    assert len(np.unique(draw(logits, keys, 1.0))) > VOCAB // 2


def test_a_row_draws_the_same_wherever_and_beside_whomever_it_stands():
    logits, keys = jnp.asarray(random_logits(26, 24, VOCAB)), jax.random.split(jax.random.key(27), 24)
    ids = draw(logits, keys, 1.0)
    order = np.random.default_rng(28).permutation(24)
    np.testing.assert_array_equal(draw(logits[order], keys[order], 1.0), ids[order])
    np.testing.assert_array_equal(draw(logits[5:8], keys[5:8], 1.0), ids[5:8])
    in_groups = draw(logits.reshape(4, 6, VOCAB), keys.reshape(4, 6), 1.0)
    np.testing.assert_array_equal(in_groups.reshape(24), ids)
    assert draw(logits[7], keys[7], 1.0) == ids[7]


def test_rows_at_temperature_zero_are_greedy_and_the_others_are_not():
    logits = jnp.asarray(random_logits(29, 50, VOCAB)) * 0.1
    keys = jax.random.split(jax.random.key(30), 50)
    temperature = jnp.where(jnp.arange(50) % 2 == 0, 0.0, 1.0)
    ids, greedy = draw(logits, keys, temperature), jnp.argmax(logits, -1)
    assert ids.dtype == jnp.int32
    np.testing.assert_array_equal(ids[::2], greedy[::2])
    np.testing.assert_array_equal(ids[1::2], draw(logits, keys, 1.0)[1::2])
    assert np.mean(ids[1::2] == greedy[1::2]) < 0.25


def test_greedy_takes_the_first_of_tied_tokens_whatever_the_filters():
    logits = jnp.array([[1.0, 5.0, 0.0, 5.0]])
    parameters = SamplingParameters(temperature=0.0, top_k=3, top_p=0.1, min_p=0.5, banned_ids=(0,))
    filtered = filter_logits(logits, parameters)
    assert draw(filtered, jax.random.split(jax.random.key(31), 1), 0.0).tolist() == [1]
    np.testing.assert_array_equal(filtered, [[-np.inf, 5.0, 0.0, 5.0]])


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (jax.random.PRNGKey(0), "typed keys"),
        (jax.random.split(jax.random.key(0), 3), "one key a row"),
        (jax.random.split(jax.random.key(0, impl="rbg"), 2), "threefry"),
    ],
)
def test_keys_that_would_tie_rows_together_are_an_error(keys, named):
    with pytest.raises(ValueError, match=named):
        jax.jit(draw)(jnp.zeros((2, VOCAB)), keys, 1.0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_log_probability_equals_torch_log_softmax(dtype):
    logits = jnp.asarray(random_logits(32, 2, 3, VOCAB) * 5, dtype)
    ids = np.random.default_rng(33).integers(0, VOCAB, (2, 3))
    whole = torch.log_softmax(torch.from_numpy(np.array(logits, np.float32)), -1).numpy()
    ours = log_probability(logits, ids)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, np.take_along_axis(whole, ids[..., None], -1)[..., 0], rtol=1e-5)


def test_log_probability_of_a_removed_token_is_minus_infinity_and_the_rest_sum_to_one():
    logits = ban_ids(random_logits(34, 12), (1, 4))
    each = log_probability(jnp.broadcast_to(logits, (12, 12)), jnp.arange(12))
    assert np.flatnonzero(np.isneginf(each)).tolist() == [1, 4]
    np.testing.assert_allclose(np.exp(each).sum(), 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -0.1), ("temperature", float("nan")), ("temperature", None), ("temperature", "hot"),
     ("top_k", -1), ("top_k", 2.5), ("top_p", 0.0), ("top_p", 1.01), ("top_p", np.array([0.5, -1.0])),
     ("min_p", 1.0), ("min_p", -0.1), ("repetition_penalty", 0.0), ("repetition_penalty", float("inf")),
     ("banned_ids", (3, -2))],
)  # fmt: skip
def test_a_value_out_of_range_is_an_error_that_names_its_field(field, value):
    with pytest.raises(ValueError, match=f"^{field} must be"):
        validate_sampling(**{field: value})


def test_values_at_the_ends_of_their_ranges_are_allowed():
    validate_sampling()
    validate_sampling(0, 0, 1.0, 0.0, 1.0, (0,))
    validate_sampling(np.array([0.0, 2.0]), np.array([0, 50]), np.array([1e-3, 1]), [0.0, 0.99], 0.5)
