"""The GRPO loss and its gradient against transformers' torch model and TRL's formulas, both in float64."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from fixtures.fast_compile import FAST_COMPILE
from flax import nnx
from flax.traverse_util import flatten_dict
from models.torch_twin import Sample, collate, random_sample, torch_twin, twin_config, vtzero_twin

from vtzero.grpo.objectives import ObjectiveSettings, loss_weights
from vtzero.grpo.step import Rollout, ScoringSettings, grpo_loss
from vtzero.models.qwen2_vl.model import Qwen2VL
from vtzero.models.qwen2_vl.weights import hub_name, parameter_names

GROUP, LENGTH = 3, 6
BANNED = (90, 91, 92, 93)
PLAIN = ObjectiveSettings(loss_type="grpo", max_completion_length=LENGTH)
CLIPPED = ObjectiveSettings(
    loss_type="dapo", max_completion_length=LENGTH, beta=0.04, epsilon_high=0.28, num_iterations=2
)


@pytest.fixture(scope="module")
def twin():
    return torch_twin(twin_config(), seed=1).double()


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(2)
    return [random_sample(rng, images) for images in (((24, 40),), (), ((16, 24), (33, 20)))]


@pytest.fixture(scope="module")
def arrays(twin, samples):
    """Completions and what a rollout says of them; their old and reference log-probabilities are near."""
    rng = np.random.default_rng(3)
    shape = (len(samples), GROUP, LENGTH)
    ids = rng.integers(0, 90, shape)
    with torch.no_grad():
        near = torch_scores(twin, samples, ids, temperature=0.7)[0].numpy()
    lengths = rng.integers(1, LENGTH + 1, shape[:2])
    return {
        "completion_ids": ids,
        "mask": np.arange(LENGTH) < lengths[..., None],
        "advantages": rng.normal(size=shape[:2]),
        "sampler_logps": near + rng.normal(0, 0.01, shape),
        "old_logps": near + rng.normal(0, 0.4, shape),
        "ref_logps": near + rng.normal(0, 0.4, shape),
    }


def torch_scores(
    twin: torch.nn.Module, samples: Sequence[Sample], completions: np.ndarray, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies of every completion, each read as one sequence after its prompt."""
    logps, entropies = [], []
    for sample, group in zip(samples, completions, strict=True):
        for tokens in group:
            inputs = sample.followed_by(tokens).torch_inputs()
            if sample.grids:
                inputs["pixel_values"] = inputs["pixel_values"].double()
            logits = twin(**inputs).logits[0, len(sample.ids) - 1 : -1] / temperature
            banned = torch.zeros(logits.shape[-1], dtype=bool)
            banned[list(BANNED)] = True
            distribution = torch.log_softmax(logits.masked_fill(banned, -torch.inf), dim=-1)
            logps.append(distribution.gather(1, torch.tensor(tokens)[:, None])[:, 0])
            entropies.append(-(distribution.exp() * distribution.masked_fill(banned, 0.0)).sum(-1))
    shape = completions.shape
    return torch.stack(logps).view(shape), torch.stack(entropies).view(shape)


def torch_loss(
    logps: torch.Tensor, arrays: dict[str, np.ndarray], settings: ObjectiveSettings
) -> tuple[torch.Tensor, dict[str, float]]:
    """TRL's loss of the whole batch, and the k3 divergence and clip ratios averaged over its tokens."""
    given = {name: torch.tensor(value) for name, value in arrays.items()}
    mask, advantages = given["mask"].double(), given["advantages"][..., None]
    old = given["old_logps"] if settings.num_iterations > 1 else logps.detach()
    ratio = torch.exp(logps - old)
    low, high = 1 - settings.epsilon, 1 + settings.clip_above
    losses = -torch.min(ratio * advantages, ratio.clamp(low, high) * advantages)
    kl = torch.exp(given["ref_logps"] - logps) - (given["ref_logps"] - logps) - 1
    losses = losses + settings.beta * kl
    means = {
        "kl": kl,
        "clip_ratio/low_mean": (ratio < low) & (advantages < 0),
        "clip_ratio/high_mean": (ratio > high) & (advantages > 0),
    }
    metrics = {name: ((value * mask).sum() / mask.sum()).item() for name, value in means.items()}
    if settings.loss_type == "grpo":
        return ((losses * mask).sum(-1) / mask.sum(-1)).mean(), metrics
    return (losses * mask).sum() / mask.sum(), metrics


def rollout_of(
    samples: Sequence[Sample], arrays: dict[str, np.ndarray], settings: ObjectiveSettings
) -> Rollout:
    """The batch as an update reads it, with only those log-probabilities that the settings need."""
    given = {name: jnp.asarray(value, jnp.float32) for name, value in arrays.items()}
    mask = jnp.asarray(arrays["mask"])
    return Rollout(
        prompts=collate(samples),
        completion_ids=jnp.asarray(arrays["completion_ids"]),
        mask=mask,
        weights=loss_weights(mask, settings),
        advantages=given["advantages"],
        sampler_logps=given["sampler_logps"],
        old_logps=given["old_logps"] if settings.num_iterations > 1 else None,
        ref_logps=given["ref_logps"] if settings.beta else None,
    )


def gradient_of(
    model: Qwen2VL, rollout: Rollout, settings: ObjectiveSettings, scoring: ScoringSettings
) -> tuple[jax.Array, dict[str, jax.Array], dict[tuple, jax.Array]]:
    """Loss, metrics and the gradient of each parameter by its path."""
    graphdef, state = nnx.split(model)
    loss = partial(grpo_loss, objective=settings, scoring=scoring)

    @partial(jax.value_and_grad, has_aux=True)
    def of(state: Any) -> Any:
        return loss(nnx.merge(graphdef, state), rollout, rollout.mask.sum())

    (value, (sums, maxima)), gradients = jax.jit(of, compiler_options=FAST_COMPILE)(state)
    return value, sums | maxima, flatten_dict(nnx.to_pure_dict(gradients))


def torch_gradients(twin: torch.nn.Module) -> dict[str, np.ndarray]:
    return {hub_name(name): value.grad.numpy() for name, value in twin.named_parameters()}


@pytest.mark.parametrize(
    ("settings", "temperature"), [(PLAIN, 1.0), (CLIPPED, 0.7)], ids=["grpo", "dapo, clipped, with KL"]
)
def test_loss_gradient_and_metrics_equal_float64_torch(twin, samples, arrays, settings, temperature):
    twin.zero_grad()
    logps, entropy = torch_scores(twin, samples, arrays["completion_ids"], temperature)
    expected, expected_metrics = torch_loss(logps, arrays, settings)
    expected.backward()

    model = vtzero_twin(torch_twin(twin_config(), seed=1), remat="full")
    scoring = ScoringSettings(BANNED, temperature, chunk=16)
    rollout = rollout_of(samples, arrays, settings)
    loss, metrics, gradients = gradient_of(model, rollout, settings, scoring)

    np.testing.assert_allclose(loss, expected.item(), rtol=1e-4, atol=1e-6)
    mask = arrays["mask"]
    # Before the first of several updates the policy is the one that sampled.
    sampled = arrays["old_logps"] if settings.num_iterations > 1 else logps.detach().numpy()
    difference = np.abs(sampled - arrays["sampler_logps"])[mask]
    expected_metrics |= {
        "entropy": entropy.detach().numpy()[mask].mean(),
        "sampling/sampling_logp_difference/mean": difference.mean(),
        "sampling/sampling_logp_difference/max": difference.max(),
    }
    for name, value in metrics.items():
        if name in expected_metrics:
            np.testing.assert_allclose(value, expected_metrics[name], rtol=1e-4, atol=1e-5)
    assert ("kl" in metrics) is (settings.beta > 0)
    names = parameter_names(model.config)
    stored = torch_gradients(twin)
    assert stored.keys() == names.keys()
    for name, place in names.items():
        actual = gradients[place.path][() if place.layer is None else place.layer]
        assert distance(actual, stored[name]) < 1e-4, name


def distance(actual: jax.Array, expected: np.ndarray) -> float:
    """The norm of the difference over the norm of the expected."""
    assert np.any(expected)
    return float(np.linalg.norm(np.asarray(actual, np.float64) - expected) / np.linalg.norm(expected))
