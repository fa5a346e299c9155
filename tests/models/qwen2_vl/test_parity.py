"""The network against transformers' Qwen2-VL on random weights, and groups against flattened sequences."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from flax.traverse_util import flatten_dict
from models.torch_twin import Sample, collate, random_sample, torch_twin, twin_config, vtzero_twin

from vtzero.models import layers
from vtzero.models.layers import UNROLLED_DEPTH
from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.models.qwen2_vl.model import Qwen2VL, last_hidden, predicting_hidden

ONE_IMAGE = ((24, 40),)
THREE_IMAGES = ((16, 24), (40, 17), (33, 50))


@pytest.fixture(scope="module")
def twin():
    return torch_twin(twin_config(), seed=1)


@pytest.fixture(scope="module")
def model(twin):
    return vtzero_twin(twin)


def jitted(model: Qwen2VL, method: Callable) -> Callable:
    """`method(model, *arguments)` compiled over the model's parameters."""
    graphdef, state = nnx.split(model)
    compiled = jax.jit(lambda state, *arguments: method(nnx.merge(graphdef, state), *arguments))
    return partial(compiled, state)


def hidden_and_logits(model: Qwen2VL, prompts: Prompts) -> tuple[jax.Array, jax.Array]:
    hidden, _ = model.read_prompts(prompts)
    return hidden, model.logits(hidden)


def assert_equal_to_torch(model: Qwen2VL, twin: torch.nn.Module, samples: Sequence[Sample]) -> None:
    """Hidden states and logits of a padded batch, at real tokens, against torch sample by sample."""
    hidden, logits = jitted(model, hidden_and_logits)(collate(samples))
    for row, sample in enumerate(samples):
        with torch.no_grad():
            expected = twin(**sample.torch_inputs(), output_hidden_states=True)
        real = len(sample.ids)
        assert expected.logits.std() > 0.5
        np.testing.assert_allclose(hidden[row, :real], expected.hidden_states[-1][0], atol=1e-4, rtol=0)
        np.testing.assert_allclose(logits[row, :real], expected.logits[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("images", [(), ONE_IMAGE, THREE_IMAGES], ids=["text", "one image", "three images"])
def test_equal_to_torch(model, twin, images):
    assert_equal_to_torch(model, twin, [random_sample(np.random.default_rng(2), images, words=9)])


def test_padded_batch_of_mixed_lengths_and_image_counts_equal_to_torch(model, twin):
    rng = np.random.default_rng(3)
    images = [(), ONE_IMAGE, THREE_IMAGES, ((8, 64),)]
    samples = [random_sample(rng, sizes, words) for sizes, words in zip(images, (17, 3, 5, 8), strict=True)]
    assert_equal_to_torch(model, twin, samples)


@pytest.mark.parametrize(("heads", "kv_heads", "tied"), [(12, 2, True), (28, 4, False)])
def test_published_head_ratios_and_tying_equal_to_torch(heads, kv_heads, tied):
    # Deep enough to be scanned; the other models here are unrolled.
    config = twin_config(heads=heads, kv_heads=kv_heads, tied=tied, layers=UNROLLED_DEPTH + 1)
    twin = torch_twin(config, seed=4)
    model = vtzero_twin(twin)
    assert (model.lm_head is None) is tied
    rng = np.random.default_rng(5)
    assert_equal_to_torch(model, twin, [random_sample(rng, ONE_IMAGE), random_sample(rng, (), words=30)])


def greedy(model: Qwen2VL, prompts: Prompts, group: int, steps: int) -> np.ndarray:
    """The likeliest token, `steps` times, for `group` rows a prompt, through the shared-prompt cache."""
    hidden, cache = jitted(model, Qwen2VL.read_prompts)(prompts)
    first = jnp.argmax(model.logits(last_hidden(hidden, prompts)), axis=-1)

    def step(model, tokens, slot, cache, completions):
        positions = jnp.broadcast_to(prompts.start[:, None] + slot, tokens.shape)
        hidden, completions = model.decode_step(tokens, positions, slot, cache, completions)
        return jnp.argmax(model.logits(hidden), axis=-1), completions

    tokens = [jnp.broadcast_to(first[:, None], (len(first), group))]
    completions = model.model.empty_cache(len(first), group, steps, jnp.float32)
    compiled = jitted(model, step)
    for slot in range(steps - 1):
        following, completions = compiled(tokens[-1], jnp.int32(slot), cache, completions)
        tokens.append(following)
    return np.stack(tokens, axis=-1)


def test_greedy_tokens_equal_to_generate(model, twin):
    rng = np.random.default_rng(6)
    samples = [random_sample(rng, images) for images in ((), ONE_IMAGE, THREE_IMAGES)]
    tokens = greedy(model, collate(samples), group=2, steps=64)
    for row, sample in zip(tokens, samples, strict=True):
        generated = twin.generate(
            **sample.torch_inputs(), do_sample=False, max_new_tokens=64, eos_token_id=None, pad_token_id=0
        )
        expected = generated[0, len(sample.ids) :].numpy()
        assert len(np.unique(expected)) > 3
        np.testing.assert_array_equal(row, [expected, expected])


@pytest.fixture(scope="module")
def groups():
    """Three prompts with none to three images, and four completions of seven tokens each."""
    rng = np.random.default_rng(7)
    samples = [random_sample(rng, images) for images in (ONE_IMAGE, THREE_IMAGES, ())]
    return samples, rng.integers(0, 90, (3, 4, 7)), rng.normal(size=(3, 4, 7, 32)).astype(np.float32)


def grouped_hidden(model: Qwen2VL, samples: Sequence[Sample], completions: np.ndarray) -> jax.Array:
    return model.read_groups(collate(samples), jnp.asarray(completions))[1]


def flattened_hidden(
    model: Qwen2VL, samples: Sequence[Sample], completions: np.ndarray, shift: int = 0
) -> jax.Array:
    """Every completion appended to its own copy of the prompt and read as one plain sequence.

    Returns the hidden states of the completions' tokens, or of the tokens `shift` places before them.
    """
    whole = [
        sample.followed_by(row) for sample, rows in zip(samples, completions, strict=True) for row in rows
    ]
    hidden, _ = model.read_prompts(collate(whole))
    length = completions.shape[2]
    first = np.array([len(sample.ids) for sample in whole]) - length - shift
    places = jnp.asarray(first[:, None] + np.arange(length))
    return jnp.take_along_axis(hidden, places[..., None], axis=1).reshape(*completions.shape, -1)


def test_groups_equal_to_flattened_in_values_and_gradients(twin, groups, monkeypatch):
    """Groups through scanned, rematerialised layers; flattened sequences through plain, unrolled ones."""
    samples, completions, direction = groups

    def results(model: Qwen2VL, read: Callable) -> tuple[jax.Array, dict]:
        def scalar(model: Qwen2VL) -> tuple[jax.Array, jax.Array]:
            hidden = read(model, samples, completions)
            return jnp.sum(hidden * direction), hidden

        graphdef, state = nnx.split(model)
        run = jax.jit(jax.value_and_grad(lambda state: scalar(nnx.merge(graphdef, state)), has_aux=True))
        (_, hidden), gradients = run(state)
        return hidden, flatten_dict(nnx.to_pure_dict(gradients))

    expected_hidden, expected_gradients = results(vtzero_twin(twin), flattened_hidden)
    monkeypatch.setattr(layers, "UNROLLED_DEPTH", 0)
    hidden, gradients = results(vtzero_twin(twin, remat="full"), grouped_hidden)
    assert distance(hidden, expected_hidden) < 1e-5
    reached = [path for path in expected_gradients if path != ("lm_head", "weight")]
    for path in reached:
        assert np.any(expected_gradients[path]), path
        assert distance(gradients[path], expected_gradients[path]) < 1e-5, path


def distance(actual: jax.Array, expected: jax.Array) -> float:
    """The norm of the difference over the norm of the expected."""
    return float(np.linalg.norm(np.subtract(actual, expected)) / np.linalg.norm(expected))


def test_packed_rows_equal_to_one_row_for_each_completion(model, groups):
    """Completions 0 and 1 in one row with padding after them, 2 and 3 in the next with padding between."""
    samples, completions, _ = groups
    first, second, third, fourth = (completions[:, i] for i in range(4))
    gap = np.zeros_like(first[:, :2])
    packed = np.stack([np.hstack([first, second, gap]), np.hstack([third, gap, fourth])], axis=1)
    numbers = [[1] * 7 + [2] * 7 + [0] * 2, [1] * 7 + [0] * 2 + [2] * 7]
    segments = np.broadcast_to(numbers, packed.shape)

    def both(model: Qwen2VL) -> tuple[jax.Array, jax.Array]:
        prompts = collate(samples)
        hidden = model.read_groups(prompts, jnp.asarray(packed), jnp.asarray(segments))[1]
        rows = (hidden[:, 0, :7], hidden[:, 0, 7:14], hidden[:, 1, :7], hidden[:, 1, 9:])
        return jnp.stack(rows, axis=1), grouped_hidden(model, samples, completions)

    assert distance(*jitted(model, both)()) < 1e-5


def test_predicting_hidden_states_are_one_token_behind(model, groups):
    samples, completions, _ = groups

    def both(model: Qwen2VL) -> tuple[jax.Array, jax.Array]:
        prompts = collate(samples)
        grouped = predicting_hidden(*model.read_groups(prompts, jnp.asarray(completions)), prompts)
        return grouped, flattened_hidden(model, samples, completions, shift=1)

    predicting, expected = jitted(model, both)()
    assert distance(predicting, expected) < 1e-5
