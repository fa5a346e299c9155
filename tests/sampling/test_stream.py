"""Completions that come some tokens at a time are those that come all at once."""

import secrets
import warnings
from dataclasses import replace
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.fast_compile import fast_compile
from flax import nnx
from models.torch_twin import IMAGE_TOKEN, TEXT_TOKENS, collate, random_sample, twin_config, vtzero_twin
from models.torch_twin import torch_twin as make_twin

from vtzero.sampling.decode import DecodeSettings, sample_keys
from vtzero.sampling.parameters import SamplingParameters
from vtzero.sampling.sampler import Sampler
from vtzero.sampling.stream import StreamingSampler

GROUP, LENGTH = 4, 24
SETTINGS = DecodeSettings(
    LENGTH, tuple(range(0, TEXT_TOKENS, 4)), IMAGE_TOKEN, "policy", cache_lengths=(3, 4, 9, LENGTH)
)
FILTERED = SamplingParameters(
    temperature=0.9, top_k=60, top_p=0.97, min_p=0.001, repetition_penalty=1.1, banned_ids=(90, 91, 92, 93)
)


class Both:
    """The whole sampler and the streaming one, of one model and the same three prompts."""

    def __init__(self):
        graphdef, state = nnx.split(vtzero_twin(make_twin(twin_config(), seed=1)))
        rng = np.random.default_rng(2)
        samples = [random_sample(rng, images) for images in (((24, 40),), (), ((16, 24), (33, 20)))]
        self.prompts, self.pieces, self.compiled = collate(samples), (state,), 0
        merge = partial(nnx.merge, graphdef)
        with fast_compile():
            self._whole = Sampler(merge, SETTINGS)
            self.streaming = StreamingSampler(merge, SETTINGS, self._count)

    def _count(self):
        self.compiled += 1

    def arguments(self, seed):
        return self.pieces, self.prompts, sample_keys(jax.random.key(seed), 0, jnp.arange(3), GROUP), FILTERED

    def whole(self, seed, limit=None):
        return self._whole(*self.arguments(seed), limit)

    def streamed(self, seed, limit=None):
        """Everything that is yielded, in order."""
        return list(self.streaming(*self.arguments(seed), limit))


@pytest.fixture(scope="module")
def both():
    return Both()


@pytest.mark.parametrize("limit", [None, 1, 4, 7])
def test_the_last_of_a_stream_is_what_the_sampler_returns_for_any_seed(both, limit):
    for seed in [secrets.randbelow(2**32) for _ in range(4)]:
        whole, last = both.whole(seed, limit), both.streamed(seed, limit)[-1]
        for name in ("ids", "lengths", "terminated"):
            np.testing.assert_array_equal(getattr(last, name), getattr(whole, name), f"seed {seed}")
        np.testing.assert_allclose(last.policy_logps, whole.policy_logps, atol=1e-5, rtol=0)


def test_what_was_yielded_once_never_changes(both):
    yielded = both.streamed(5)
    assert len(yielded) > 3
    assert yielded[0].lengths.max() == 1
    for earlier, later in pairwise(yielded):
        there = np.arange(LENGTH) < earlier.lengths[..., None]
        np.testing.assert_array_equal(earlier.ids[there], later.ids[there])
        assert (later.lengths >= earlier.lengths).all()
        assert (later.terminated >= earlier.terminated).all()
        assert earlier.lengths.max() < later.lengths.max() <= 3 * earlier.lengths.max()


def test_a_stream_ends_with_its_longest_completion(both):
    seeds = range(20)
    lasts = [both.streamed(seed)[-1] for seed in seeds]
    early = [last for last in lasts if last.terminated.all()]
    assert early
    assert all(last.lengths.max() <= LENGTH for last in lasts)
    for seed, last in zip(seeds, lasts, strict=True):
        if last.terminated.all() and last.lengths.max() > 1:
            assert not both.streamed(seed)[-2].terminated.all()


def test_other_seeds_values_and_limits_compile_nothing_anew(both):
    both.streamed(1)
    compiled = both.streaming.compilations
    assert compiled == both.compiled <= 1 + len(SETTINGS.lengths)
    both.streamed(2, limit=5)
    list(both.streaming(*both.arguments(3)[:3], replace(FILTERED, temperature=0.0, top_k=0)))
    assert both.streaming.compilations == compiled


def test_time_to_compile_is_not_counted_as_drawing(both):
    started = both.streaming.seconds
    both.streamed(1)
    assert both.streaming.seconds > started
    fresh = Both()
    fresh.streamed(1)
    assert fresh.compiled > 1
    assert fresh.streaming.seconds < 1.0


def test_the_loops_state_is_handed_over_and_not_copied(both):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # jax warns of a donated buffer that it cannot use
        Both().streamed(1)
