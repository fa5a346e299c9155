"""The supervised loss and its gradient against transformers' own loss on the same tokens."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from fixtures.fast_compile import FAST_COMPILE
from flax import nnx
from flax.traverse_util import flatten_dict
from models.torch_twin import (
    IMAGE_TOKEN,
    VISION_END,
    VISION_START,
    collate,
    random_sample,
    torch_twin,
    twin_config,
    vtzero_twin,
)

from vtzero.models.qwen2_vl.weights import hub_name, parameter_names
from vtzero.sft.step import Targets, count_tokens, prompt_loss_mask, sft_loss

IGNORED = -100


def loss_and_gradient(model: Any, targets: Targets) -> tuple[jax.Array, dict, dict]:
    graphdef, state = nnx.split(model)

    @partial(jax.jit, compiler_options=FAST_COMPILE)
    @partial(jax.value_and_grad, has_aux=True)
    def of(state: Any) -> Any:
        return sft_loss(nnx.merge(graphdef, state), targets, count_tokens(targets), chunk=16)

    (loss, (sums, _)), gradient = of(state)
    return loss, sums, flatten_dict(nnx.to_pure_dict(gradient))


def test_loss_and_gradient_equal_transformers():
    rng = np.random.default_rng(2)
    samples = [random_sample(rng, images) for images in (((24, 40),), ())]
    ids = rng.integers(0, 90, (2, 2, 7))
    # Holes in the mask as well as padding: a prompt's turn inside a target text.
    mask = (np.arange(7) < np.array([[7, 3], [5, 1]])[..., None]) & ~np.isin(np.arange(7), [1, 2])
    # What the loss does not count may be any token, also one the model never writes.
    padded = np.where(np.arange(7) < np.array([[7, 3], [5, 1]])[..., None], ids, IMAGE_TOKEN)

    twin = torch_twin(twin_config(), seed=1)
    losses = []
    for row, sample in enumerate(samples):
        for tokens, counted in zip(ids[row], mask[row], strict=True):
            labels = np.concatenate([np.full(len(sample.ids), IGNORED), np.where(counted, tokens, IGNORED)])
            inputs = sample.followed_by(tokens).torch_inputs()
            # transformers' loss is the mean over the labels of this sequence.
            mean = twin(**inputs, labels=torch.tensor(labels)[None]).loss
            losses.append(mean * int(counted.sum()))
    expected = torch.stack(losses).sum() / int(mask.sum())
    expected.backward()

    model = vtzero_twin(twin)
    targets = Targets(collate(samples), jnp.asarray(padded), jnp.asarray(mask))
    loss, sums, gradient = loss_and_gradient(model, targets)
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
    assert 0 < sums["entropy"] < np.log(96)
    compare_gradients(model, gradient, twin)


def compare_gradients(model: Any, gradient: dict, twin: Any) -> None:
    stored = {hub_name(name): value.grad.numpy() for name, value in twin.named_parameters()}
    for name, place in parameter_names(model.config).items():
        actual = gradient[place.path][() if place.layer is None else place.layer]
        assert np.any(stored[name]), name
        assert np.linalg.norm(actual - stored[name]) < 1e-4 * np.linalg.norm(stored[name]), name


def test_the_loss_on_all_tokens_equals_transformers_with_the_papers_labels():
    """Each target with its prompt as one sequence; labels are its ids, vision ids and padding left out."""
    rng = np.random.default_rng(5)
    samples = [random_sample(rng, images) for images in (((24, 40), (16, 24)), (), ((33, 20),))]
    lengths = np.array([[7, 3], [5, 1], [2, 6]])
    ids = rng.integers(0, 90, (3, 2, 7))
    mask = np.arange(7) < lengths[..., None]
    ignored = (VISION_START, VISION_END, IMAGE_TOKEN)

    twin = torch_twin(twin_config(), seed=3)
    losses, counted = [], 0
    for row, sample in enumerate(samples):
        for tokens, length in zip(ids[row], lengths[row], strict=True):
            whole = sample.followed_by(tokens[:length])
            labels = np.where(np.isin(whole.ids, ignored), IGNORED, whole.ids)
            mean = twin(**whole.torch_inputs(), labels=torch.tensor(labels, dtype=torch.long)[None]).loss
            number = int((labels[1:] != IGNORED).sum())
            losses.append(mean * number)
            counted += number
    expected = torch.stack(losses).sum() / counted
    expected.backward()

    model = vtzero_twin(twin)
    prompts = collate(samples)
    padded = np.where(mask, ids, IMAGE_TOKEN)
    prompt_mask = jnp.asarray(prompt_loss_mask(prompts, ignored))
    targets = Targets(prompts, jnp.asarray(padded), jnp.asarray(mask), prompt_mask)
    assert count_tokens(targets) == counted
    loss, _, gradient = loss_and_gradient(model, targets)
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
    compare_gradients(model, gradient, twin)
