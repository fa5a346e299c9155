"""Chunked log-probabilities and their gradients against torch's, whole and in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from grpo.test_logprobs import assert_close, gradients, random_inputs

from vtzero.grpo.logprobs import chunked_logprobs


def torch_logprobs(hidden, head, targets, banned, temperature):
    """The same by torch in float64, differentiable."""
    logits = (hidden @ head.T / temperature).masked_fill(torch.tensor(np.asarray(banned)), -torch.inf)
    distributions = torch.log_softmax(logits, dim=-1)
    logps = distributions.gather(1, torch.tensor(np.asarray(targets), dtype=torch.int64)[:, None])[:, 0]
    return logps, torch.special.entr(distributions.exp()).sum(-1)


def double(array: jax.Array) -> torch.Tensor:
    return torch.tensor(np.asarray(array, np.float64), requires_grad=True)


@pytest.mark.parametrize(("chunk", "temperature"), [(1, 1.0), (5, 0.6), (16, 1.0), (47, 1.7), (500, 0.9)])
def test_values_and_gradients_equal_float64_torch(chunk, temperature):
    hidden, head, targets, cotangent = random_inputs(seed=100 + chunk, rows=47, width=24, vocab=131)
    banned = jnp.zeros(131, bool).at[jnp.array([0, 64, 130])].set(True)
    targets = jnp.where(banned[targets], 1, targets)
    cotangent = cotangent.at[::3].set(0.0)
    options = {"banned": banned, "temperature": temperature}
    logps, entropy = chunked_logprobs(hidden, head, targets, chunk=chunk, **options)
    actual = gradients(chunked_logprobs, hidden, head, targets, cotangent, chunk=chunk, **options)

    exact = double(hidden), double(head)
    expected_logps, expected_entropy = torch_logprobs(*exact, targets, **options)
    (expected_logps * double(cotangent).detach()).sum().backward()
    assert_close(logps, expected_logps.detach())
    assert_close(entropy, expected_entropy.detach())
    assert (np.asarray(actual[0][::3]) == 0).all()
    for gradient, inputs in zip(actual, exact, strict=True):
        assert_close(gradient, inputs.grad)


def test_bfloat16_hidden_states_under_a_float32_head():
    hidden, head, targets, cotangent = random_inputs(seed=13, rows=64, width=32, vocab=97)
    hidden = hidden.astype(jnp.bfloat16)
    options = {"banned": jnp.zeros(97, bool), "temperature": 0.8}
    logps, _ = chunked_logprobs(hidden, head, targets, chunk=16, **options)
    actual = gradients(chunked_logprobs, hidden, head, targets, cotangent, chunk=16, **options)
    assert (actual[0].dtype, actual[1].dtype) == (jnp.bfloat16, jnp.float32)

    # The gradient of the logits is rounded to bfloat16, and that of the hidden states again: 2^-9 each.
    exact = double(hidden), double(head.astype(jnp.bfloat16))
    expected = torch_logprobs(*exact, targets, **options)[0]
    (expected * double(cotangent).detach()).sum().backward()
    assert_close(logps, expected.detach())
    for gradient, inputs in zip(actual, exact, strict=True):
        assert_close(gradient.astype(jnp.float32), inputs.grad, relative=2**-7)
