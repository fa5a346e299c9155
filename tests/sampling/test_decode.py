"""The decode loop against the trainer's scoring, transformers' forward pass and exact probabilities."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from fixtures.fast_compile import FAST_COMPILE
from flax import nnx
from models.torch_twin import (
    IMAGE_TOKEN,
    TEXT_TOKENS,
    VOCABULARY,
    Sample,
    collate,
    random_sample,
    torch_twin,
    twin_config,
    vtzero_twin,
)
from scipy.stats import chisquare
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from vtzero.grpo.scoring import banned_mask, group_logprobs
from vtzero.models.qwen2_vl import decoder
from vtzero.models.qwen2_vl.config import Qwen2VLConfig, TextConfig, VisionConfig
from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.models.qwen2_vl.model import Qwen2VL, last_hidden
from vtzero.models.qwen2_vl.weights import abstract_model
from vtzero.sampling.decode import Completions, DecodeSettings, growing_lengths, sample_groups, sample_keys
from vtzero.sampling.parameters import SamplingParameters
from vtzero.sampling.sampler import Sampler

GROUP, LENGTH, SEED = 4, 12, 3
STOPS = tuple(range(0, TEXT_TOKENS, 6))
BANNED = (90, 91, 92, 93)
# Padding with a banned id: a slot that should not count shows as -inf.
SETTINGS = DecodeSettings(max_completion_length=LENGTH, stop_ids=STOPS, pad_id=IMAGE_TOKEN)
# Every filter is compiled in, so that one compiled sampler serves the tests; these values turn them off.
OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "banned_ids": BANNED}
TEMPERED = SamplingParameters(temperature=0.7, **OFF)
GREEDY = SamplingParameters(temperature=0.0, **OFF)
FILTERED = SamplingParameters(
    temperature=0.7, top_k=20, top_p=0.9, min_p=0.02, repetition_penalty=1.3, banned_ids=BANNED
)


@pytest.fixture(scope="module")
def twin():
    return torch_twin(twin_config(), seed=1)


@pytest.fixture(scope="module")
def model(twin):
    return vtzero_twin(twin)


@pytest.fixture(scope="module")
def samples():
    """A prompt with one image, one of text alone and one with two images."""
    rng = np.random.default_rng(2)
    return [random_sample(rng, images) for images in (((24, 40),), (), ((16, 24), (33, 20)))]


@pytest.fixture(scope="module")
def sampler(model):
    graphdef, _ = nnx.split(model)
    return Sampler(partial(nnx.merge, graphdef), SETTINGS)


@pytest.fixture(scope="module")
def draw(model, sampler, samples):
    """`draw(parameters, seed)`: a group of completions for each sample."""
    _, state = nnx.split(model)
    prompts = collate(samples)

    def run(parameters: SamplingParameters, seed: int = SEED) -> Completions:
        return sampler((state,), prompts, keys_of(range(len(samples)), seed), parameters)

    return run


def keys_of(indices: Sequence[int], seed: int = SEED) -> jax.Array:
    return sample_keys(jax.random.key(seed), 0, jnp.asarray(indices), GROUP)


def inside(completions: Completions) -> np.ndarray:
    """True at the tokens drawn, False in the padding."""
    return np.arange(completions.ids.shape[2]) < np.asarray(completions.lengths)[..., None]


# --- log-probabilities ----------------------------------------------------------------------------


def test_policy_log_probabilities_are_the_trainers(model, draw, samples):
    completions = draw(TEMPERED)
    graphdef, state = nnx.split(model)
    settings = {"banned": banned_mask(BANNED, VOCABULARY), "temperature": 0.7, "chunk": 64}

    @partial(jax.jit, compiler_options=FAST_COMPILE)
    def score(state: Any, prompts: Prompts, ids: jax.Array) -> jax.Array:
        return group_logprobs(nnx.merge(graphdef, state), prompts, ids, **settings)[0]

    scored = score(state, collate(samples), completions.ids)
    drawn = inside(completions)
    assert len(np.unique(completions.lengths)) > 2
    assert completions.policy_logps.dtype == jnp.float32
    np.testing.assert_allclose(completions.policy_logps[drawn], scored[drawn], atol=1e-5, rtol=0)
    np.testing.assert_allclose(completions.drawn_logps[drawn], scored[drawn], atol=1e-5, rtol=0)


def transformers_log_probabilities(
    twin: torch.nn.Module, sample: Sample, tokens: np.ndarray, processors: LogitsProcessorList
) -> np.ndarray:
    """Of each token, from a full forward pass without a cache and processors given the text before it."""
    with torch.no_grad():
        logits = twin(**sample.followed_by(tokens).torch_inputs()).logits[0]
    prompt = len(sample.ids)
    text = torch.tensor(np.concatenate([sample.ids, tokens]), dtype=torch.long)
    scores = [processors(text[None, :end], logits[None, end - 1]) for end in range(prompt, len(text))]
    logps = torch.log_softmax(torch.cat(scores), dim=-1)
    return logps[torch.arange(len(tokens)), text[prompt:]].numpy()


@pytest.mark.parametrize(
    ("field", "processors"),
    [
        (
            "drawn_logps",
            [
                SuppressTokensLogitsProcessor(list(BANNED)),
                RepetitionPenaltyLogitsProcessor(1.3),
                TemperatureLogitsWarper(0.7),
                TopKLogitsWarper(20),
                TopPLogitsWarper(0.9),
                MinPLogitsWarper(0.02),
            ],
        ),
        ("policy_logps", [SuppressTokensLogitsProcessor(list(BANNED)), TemperatureLogitsWarper(0.7)]),
        ("model_logps", []),
    ],
)
def test_log_probabilities_equal_transformers(twin, draw, samples, field, processors):
    completions = draw(FILTERED)
    for row, sample in enumerate(samples):
        for place in range(GROUP):
            length = int(completions.lengths[row, place])
            expected = transformers_log_probabilities(
                twin,
                sample,
                np.asarray(completions.ids[row, place, :length]),
                LogitsProcessorList(processors),
            )
            assert np.isfinite(expected).all()
            actual = getattr(completions, field)[row, place, :length]
            np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=0)


def test_greedy_tokens_are_the_likeliest(twin, draw, samples):
    completions = draw(GREEDY)
    for row, sample in enumerate(samples):
        length = int(completions.lengths[row, 0])
        generated = twin.generate(
            **sample.torch_inputs(),
            do_sample=False,
            max_new_tokens=LENGTH,
            suppress_tokens=list(BANNED),
            eos_token_id=list(STOPS),
            pad_token_id=IMAGE_TOKEN,
        )
        np.testing.assert_array_equal(completions.ids[row, 0, :length], generated[0, len(sample.ids) :])
        np.testing.assert_array_equal(completions.ids[row], np.tile(completions.ids[row, 0], (GROUP, 1)))


# --- where a completion ends ----------------------------------------------------------------------


def test_a_completion_ends_at_its_first_stop_id(draw):
    completions = draw(TEMPERED)
    drawn, is_stop = inside(completions), np.isin(completions.ids, STOPS)
    first = np.where(is_stop.any(-1), is_stop.argmax(-1) + 1, LENGTH)
    np.testing.assert_array_equal(completions.lengths, first)
    np.testing.assert_array_equal(completions.terminated, is_stop.any(-1))
    assert len(np.unique(np.asarray(completions.ids)[is_stop & drawn])) > 1
    assert not np.asarray(completions.terminated).all()


def test_padding_holds_the_padding_id_and_zeros(draw):
    completions = draw(TEMPERED)
    padding = ~inside(completions)
    assert padding.any()
    assert (np.asarray(completions.ids)[padding] == SETTINGS.pad_id).all()
    for field in ("drawn_logps", "policy_logps", "model_logps"):
        assert (np.asarray(getattr(completions, field))[padding] == 0).all()
        assert (np.asarray(getattr(completions, field))[~padding] < 0).all()


class CountedModel(Qwen2VL):
    """A model that notes the slot of every decoding step that really runs."""

    slots: list[int]

    def decode_step(self, tokens: Any, positions: Any, slot: Any, *others: Any) -> Any:
        jax.debug.callback(lambda slot: self.slots.append(int(slot)), slot)
        return super().decode_step(tokens, positions, slot, *others)


@pytest.fixture(scope="module")
def draw_alone(model, samples):
    """`draw_alone(seed, limit)`: the first sample's group, no filter compiled in, and the steps that ran."""
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: CountedModel(model.config, rngs=nnx.Rngs(0))))
    _, state = nnx.split(model)
    parameters = SamplingParameters(temperature=0.7, banned_ids=BANNED)

    @partial(jax.jit, compiler_options=FAST_COMPILE)
    def run(state: Any, prompts: Prompts, keys: jax.Array, limit: int) -> Completions:
        return sample_groups(nnx.merge(graphdef, state), prompts, keys, parameters, SETTINGS, limit)

    def draw_and_count(seed: int, limit: int = LENGTH) -> tuple[Completions, list[int]]:
        CountedModel.slots = []
        completions = run(state, collate(samples[:1]), keys_of([0], seed), limit)
        jax.effects_barrier()
        return completions, sorted(CountedModel.slots)

    return draw_and_count


def test_decoding_ends_with_the_last_completion(draw_alone):
    runs = [draw_alone(seed) for seed in range(8)]
    longest = [int(completions.lengths.max()) for completions, _ in runs]
    assert min(longest) < LENGTH
    for length, (_, slots) in zip(longest, runs, strict=True):
        assert slots == list(range(length))


def test_a_traced_limit_cuts_the_same_completions_short(draw_alone):
    whole, _ = draw_alone(SEED)
    cut, slots = draw_alone(SEED, limit=3)
    assert slots == [0, 1, 2]
    assert whole.lengths.max() > 3
    np.testing.assert_array_equal(cut.lengths, np.minimum(whole.lengths, 3))
    np.testing.assert_array_equal(cut.terminated, whole.terminated & (whole.lengths <= 3))
    np.testing.assert_array_equal(cut.ids[..., :3], whole.ids[..., :3])
    assert (cut.ids[..., 3:] == SETTINGS.pad_id).all()


# --- randomness -----------------------------------------------------------------------------------


def test_completions_of_a_group_differ(draw):
    ids = np.asarray(draw(TEMPERED).ids)
    assert all(len(np.unique(group, axis=0)) > GROUP // 2 for group in ids)


def test_the_seed_decides_the_tokens(draw):
    first, again, other = draw(TEMPERED), draw(TEMPERED), draw(TEMPERED, seed=SEED + 1)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (np.asarray(first.ids) != np.asarray(other.ids)).any(axis=(1, 2)).all()


def test_a_prompt_draws_the_same_tokens_alone_and_beside_longer_prompts(draw, draw_alone):
    together, (alone, _) = draw(TEMPERED), draw_alone(SEED)
    np.testing.assert_array_equal(together.ids[:1], alone.ids)
    np.testing.assert_array_equal(together.lengths[:1], alone.lengths)
    np.testing.assert_allclose(together.policy_logps[:1], alone.policy_logps, atol=1e-5, rtol=0)


def test_the_order_of_the_batch_does_not_matter(model, sampler, samples, draw):
    order = np.array([2, 0, 1])
    _, state = nnx.split(model)
    shuffled = sampler((state,), collate([samples[i] for i in order]), keys_of(order), TEMPERED)
    expected = draw(TEMPERED)
    np.testing.assert_array_equal(shuffled.ids, expected.ids[order])
    np.testing.assert_allclose(shuffled.policy_logps, expected.policy_logps[order], atol=1e-5, rtol=0)


def test_keys_are_folded_from_step_and_sample_and_never_repeat():
    run_key = jax.random.key(SEED)
    samples = jnp.arange(6)
    steps = [sample_keys(run_key, step, samples, GROUP) for step in range(3)]
    data = np.concatenate([jax.random.key_data(keys).reshape(-1, 2) for keys in steps])
    assert len(np.unique(data, axis=0)) == 3 * 6 * GROUP
    expected = jax.random.fold_in(jax.random.fold_in(run_key, 2), 5 * GROUP + 1)
    assert steps[2][5, 1] == expected
    assert (sample_keys(run_key, 2, samples[4:], GROUP) == steps[2][4:]).all()


def test_first_tokens_follow_the_exact_distribution(model, samples):
    draws = 4000
    graphdef, state = nnx.split(model)
    prompts = collate(samples[1:2])
    settings = DecodeSettings(max_completion_length=1, stop_ids=STOPS, pad_id=IMAGE_TOKEN)
    parameters = SamplingParameters(temperature=0.7, banned_ids=BANNED)

    @partial(jax.jit, compiler_options=FAST_COMPILE)
    def run(state: Any) -> tuple[jax.Array, jax.Array]:
        model = nnx.merge(graphdef, state)
        keys = sample_keys(jax.random.key(5), 0, jnp.arange(1), draws)
        hidden, _ = model.read_prompts(prompts)
        drawn = sample_groups(model, prompts, keys, parameters, settings)
        return model.logits(last_hidden(hidden, prompts))[0], drawn.ids[0, :, 0]

    logits, ids = run(state)
    weights = np.exp(np.asarray(logits, np.float64) / 0.7)
    weights[list(BANNED)] = 0
    expected = draws * weights / weights.sum()
    counts = np.bincount(ids, minlength=VOCABULARY)
    assert counts[list(BANNED)].sum() == 0
    frequent = expected >= 5
    assert frequent.sum() > 20
    pooled = [np.append(x[frequent], x[~frequent].sum()) for x in (counts, expected)]
    assert chisquare(*pooled).pvalue > 1e-3


# --- the cache that grows -------------------------------------------------------------------------


def test_a_cache_that_grows_draws_what_one_of_full_length_draws(model, samples, draw):
    graphdef, state = nnx.split(model)
    growing = Sampler(partial(nnx.merge, graphdef), replace(SETTINGS, cache_lengths=(3, 4, 9, LENGTH)))
    fixed, grown = draw(TEMPERED), growing((state,), collate(samples), keys_of(range(3)), TEMPERED)
    assert np.asarray(fixed.lengths).max() > 9
    np.testing.assert_array_equal(grown.ids, fixed.ids)
    np.testing.assert_array_equal(grown.lengths, fixed.lengths)
    np.testing.assert_allclose(grown.policy_logps, fixed.policy_logps, atol=1e-5, rtol=0)


def test_the_cache_grows_by_a_quarter_or_a_half_at_most_and_ends_at_the_longest():
    assert growing_lengths(700) == (32, 64, 128, 192, 256, 320, 384, 448, 512, 640, 700)
    assert growing_lengths(1024) == (*growing_lengths(640), 768, 896, 1024)
    assert growing_lengths(72) == (32, 72)
    assert growing_lengths(700, layers=28) == growing_lengths(700)
    assert growing_lengths(700, layers=80) == (192, 384, 700)
    assert growing_lengths(8) == (8,)
    for longest in range(129, 1500):
        lengths = growing_lengths(longest)
        assert lengths[-1] == longest
        grown = [(fewer, more / (fewer + 1)) for fewer, more in pairwise(lengths) if fewer >= 128]
        assert all(1 <= ratio <= (1.25 if fewer >= 256 else 1.5) for fewer, ratio in grown)


@pytest.mark.parametrize(("logps", "kept"), [("none", ()), ("policy", ("policy_logps",))])
def test_log_probabilities_that_nobody_asks_for_are_not_computed(model, samples, draw, logps, kept):
    graphdef, state = nnx.split(model)
    sampler = Sampler(partial(nnx.merge, graphdef), replace(SETTINGS, logps=logps))
    drawn, everything = sampler((state,), collate(samples), keys_of(range(3)), TEMPERED), draw(TEMPERED)
    np.testing.assert_array_equal(drawn.ids, everything.ids)
    for name in ("drawn_logps", "policy_logps", "model_logps"):
        if name in kept:
            np.testing.assert_allclose(getattr(drawn, name), getattr(everything, name), atol=1e-6)
        else:
            assert getattr(drawn, name) is None


@pytest.mark.parametrize("held_twice", [0, 2**30])
def test_layers_taken_out_once_or_for_every_token_draw_the_same(
    model, samples, draw, monkeypatch, held_twice
):
    monkeypatch.setattr(decoder, "_HELD_TWICE", held_twice)
    graphdef, state = nnx.split(model)
    drawn = Sampler(partial(nnx.merge, graphdef), SETTINGS)(
        (state,), collate(samples), keys_of(range(3)), TEMPERED
    )
    np.testing.assert_array_equal(drawn.ids, draw(TEMPERED).ids)
    np.testing.assert_allclose(drawn.policy_logps, draw(TEMPERED).policy_logps, atol=1e-5, rtol=0)


# --- compilation and memory -----------------------------------------------------------------------


def test_other_values_prompts_and_seeds_compile_nothing_anew(model, sampler, samples, draw):
    for seed, parameters in enumerate((TEMPERED, FILTERED, GREEDY)):
        draw(parameters, seed)
    others = [replace(sample, ids=np.where(sample.ids < 9, 9, sample.ids)) for sample in samples]
    _, state = nnx.split(model)
    sampler((state,), collate(others), keys_of([7, 8, 9]), TEMPERED)
    assert sampler.compilations == 1


def bytes_of(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def text_config(width: int, hidden: int, vocabulary: int) -> TextConfig:
    """Eight layers: too many to be unrolled in one piece."""
    eighth = width // 4 // 8
    return TextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        mrope_section=(2 * eighth, eighth, eighth),
    )


def temporary_bytes(config: TextConfig, batch: int, prompt: int, length: int) -> tuple[int, int]:
    """What the compiled loop allocates beside its arguments and results, and the bytes of the weights."""
    vision = VisionConfig(depth=1, embed_dim=16, hidden_size=config.hidden_size, num_heads=2, patch_size=4)
    graphdef, state = abstract_model(Qwen2VLConfig(text=config, vision=vision, tie_word_embeddings=True))
    no_patches = np.zeros((0, vision.patch_dim), np.float32)
    prompts = collate([Sample(np.arange(prompt), no_patches, ())] * batch)
    settings = DecodeSettings(max_completion_length=length, stop_ids=(1,), pad_id=0)

    def run(state: Any, prompts: Prompts) -> Completions:
        keys = sample_keys(jax.random.key(0), 0, jnp.arange(batch), GROUP)
        return sample_groups(nnx.merge(graphdef, state), prompts, keys, SamplingParameters(), settings)

    analysis = jax.jit(run).lower(state, prompts).compile().memory_analysis()
    return analysis.temp_size_in_bytes, bytes_of(state)


def test_the_compiled_loop_holds_no_second_copy_of_the_weights(monkeypatch):
    monkeypatch.setattr(decoder, "_HELD_TWICE", 0)  # as of weights that are not small
    config = text_config(width=256, hidden=512, vocabulary=2048)
    temporary, weights = temporary_bytes(config, batch=1, prompt=8, length=8)
    assert temporary < 0.5 * weights


def test_the_compiled_loop_holds_no_second_copy_of_the_cache():
    config = text_config(width=64, hidden=64, vocabulary=64)
    batch, length = 2, 1024
    temporary, weights = temporary_bytes(config, batch, prompt=16, length=length)
    values = config.num_hidden_layers * batch * GROUP * length * config.num_key_value_heads * config.head_dim
    cache = 2 * values * np.dtype(np.float32).itemsize
    assert cache > 10 * weights
    assert temporary < 1.5 * cache


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_completion_length", 0, r"max_completion_length is 0"),
        ("stop_ids", (), r"stop_ids is empty"),
        ("logps", "some", r"logps is 'some'"),
        ("cache_lengths", (4, 8), r"they must rise to max_completion_length, 12"),
        ("cache_lengths", (8, 4, LENGTH), r"cache_lengths are \(8, 4, 12\)"),
    ],
)
def test_settings_of_which_no_loop_can_be_made_are_errors(field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **{field: value})
