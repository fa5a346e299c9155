"""Objectives against numbers by hand, TRL's published formulas written in torch, and any split of a step."""

from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vtzero.grpo.objectives import (
    ObjectiveSettings,
    completion_mask,
    k3,
    loss_weights,
    policy_loss,
    token_losses,
)

LOSS_TYPES = ["grpo", "bnpo", "dr_grpo", "dapo"]
BATCH, GROUP, LENGTH = 3, 4, 6
CLIP_METRICS = {"clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean"}


def settings_of(**changes: Any) -> ObjectiveSettings:
    return ObjectiveSettings(**({"loss_type": "grpo", "max_completion_length": LENGTH} | changes))


def random_inputs(seed: int) -> dict[str, np.ndarray]:
    """Log-probabilities far enough from the old ones that ratios leave [0.8, 1.2] on both sides."""
    random = np.random.default_rng(seed)
    logps = -random.gamma(2.0, 0.5, (BATCH, GROUP, LENGTH))
    inputs = {
        "logps": logps,
        "old_logps": logps + random.normal(0, 0.4, logps.shape),
        "ref_logps": logps + random.normal(0, 0.4, logps.shape),
        "advantages": random.normal(0, 1, (BATCH, GROUP)),
    }
    lengths = random.integers(1, LENGTH + 1, (BATCH, GROUP))
    return {name: x.astype(np.float32) for name, x in inputs.items()} | {
        "mask": np.arange(LENGTH) < lengths[..., None]
    }


def one_token(value: float) -> jax.Array:
    return jnp.full((1, 1, 1), value, jnp.float32)


def loss_of(inputs: dict[str, Any], settings: ObjectiveSettings) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss and metrics of `inputs` as one whole step."""
    mask = jnp.asarray(inputs["mask"])
    arrays = [inputs[name] for name in ("logps", "old_logps", "ref_logps", "advantages")]
    arrays = [None if x is None else jnp.asarray(x) for x in arrays]
    return policy_loss(*arrays, loss_weights(mask, settings), mask, settings, mask.sum())


def value_and_gradient(inputs: dict[str, Any], settings: ObjectiveSettings) -> tuple[Any, jax.Array]:
    """`loss_of`, and the gradient of the loss with respect to the log-probabilities."""

    def loss(logps):
        return loss_of(inputs | {"logps": logps}, settings)

    return jax.value_and_grad(loss, has_aux=True)(jnp.asarray(inputs["logps"]))


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("loss_type", "ppo"),
        ("max_completion_length", 0),
        ("beta", -0.1),
        ("beta", float("nan")),
        ("epsilon", 0.0),
        ("epsilon", float("nan")),
        ("epsilon_high", -0.2),
        ("num_iterations", 0),
    ],
)
def test_a_bad_setting_is_named(field, value):
    with pytest.raises(ValueError, match=f"^{field} is "):
        settings_of(**{field: value})


def test_epsilon_high_defaults_to_epsilon():
    assert settings_of(epsilon=0.3).clip_above == 0.3
    assert settings_of(epsilon=0.3, epsilon_high=0.5).clip_above == 0.5


# --- token losses ---------------------------------------------------------------------------------


def test_k3_by_hand():
    # d = ref - logp = -0.5, 0.5, 0: exp(-0.5) + 0.5 - 1, exp(0.5) - 0.5 - 1, 0.
    actual = k3(jnp.array([-1.0, -1.5, -2.0]), jnp.array([-1.5, -1.0, -2.0]))
    np.testing.assert_allclose(actual, [0.10653066, 0.14872127, 0.0], rtol=1e-6, atol=1e-7)


def test_k3_averages_to_the_exact_divergence():
    policy, reference = np.array([0.2, 0.3, 0.5]), np.array([0.5, 0.3, 0.2])
    exact = (policy * np.log(policy / reference)).sum()
    estimate = (policy * np.asarray(k3(jnp.log(policy), jnp.log(reference)))).sum()
    np.testing.assert_allclose(estimate, exact, rtol=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope", "low", "high"),
    [
        (1.5, 1.0, -1.28, 0.0, 0, 1),  # good and already likelier: cut at 1 + epsilon_high
        (1.5, -1.0, 1.5, 1.5, 0, 0),  # bad and likelier: pushed back
        (0.5, 1.0, -0.5, -0.5, 0, 0),  # good and less likely: pulled up
        (0.5, -1.0, 0.8, 0.0, 1, 0),  # bad and already less likely: cut at 1 - epsilon
        (1.25, 2.0, -2.5, -2.5, 0, 0),  # above 1 + epsilon, but within epsilon_high
        (0.79, -2.0, 1.6, 0.0, 1, 0),  # epsilon_high does not widen the lower side
    ],
)
def test_clipping_by_hand(ratio, advantage, loss, slope, low, high):
    settings = settings_of(epsilon=0.2, epsilon_high=0.28)

    def of_logp(logp):
        losses, values = token_losses(one_token(logp), one_token(-2.0), jnp.array([[advantage]]), settings)
        return losses.sum(), values

    (actual, values), actual_slope = jax.value_and_grad(of_logp, has_aux=True)(-2.0 + np.log(ratio))
    np.testing.assert_allclose(actual, loss, rtol=1e-6)
    np.testing.assert_allclose(actual_slope, slope, rtol=1e-6)
    assert values["clip_ratio/low_mean"] == low
    assert values["clip_ratio/high_mean"] == high
    assert values["clip_ratio/region_mean"] == max(low, high)


def test_the_kl_term_by_hand():
    # Ratio 1 and advantage 1 give -1; k3 with ref - logp = 0.5 gives 0.14872127.
    settings = settings_of(beta=0.04)
    losses, values = token_losses(one_token(-1.5), None, jnp.ones((1, 1)), settings, one_token(-1.0))
    np.testing.assert_allclose(losses, one_token(-1.0 + 0.04 * 0.14872127), rtol=1e-6)
    np.testing.assert_allclose(values["kl"], one_token(0.14872127), rtol=1e-6)


def test_without_old_log_probabilities_the_ratio_is_one():
    inputs = random_inputs(seed=0)
    advantages = jnp.asarray(inputs["advantages"])
    on_every_token = np.broadcast_to(inputs["advantages"][..., None], inputs["logps"].shape)

    def total(logps):
        losses, values = token_losses(logps, None, advantages, settings_of())
        return losses.sum(), (losses, values)

    gradient, (losses, values) = jax.grad(total, has_aux=True)(jnp.asarray(inputs["logps"]))
    np.testing.assert_allclose(losses, -on_every_token, rtol=1e-6)
    np.testing.assert_allclose(gradient, -on_every_token, rtol=1e-6)
    assert set(values) == CLIP_METRICS
    assert all((np.asarray(value) == 0).all() for value in values.values())


def test_only_the_policy_receives_a_gradient():
    inputs = {name: jnp.asarray(x) for name, x in random_inputs(seed=1).items()}
    settings = settings_of(beta=0.04)

    def total(logps, old_logps, advantages, ref_logps):
        return token_losses(logps, old_logps, advantages, settings, ref_logps)[0].sum()

    names = ("logps", "old_logps", "advantages", "ref_logps")
    gradients = jax.grad(total, argnums=(0, 1, 2, 3))(*(inputs[name] for name in names))
    assert np.abs(gradients[0]).max() > 0
    assert all((np.asarray(gradient) == 0).all() for gradient in gradients[1:])


def test_several_updates_need_old_log_probabilities():
    with pytest.raises(ValueError, match=r"num_iterations is 2.*old_logps"):
        token_losses(one_token(-1.0), None, jnp.ones((1, 1)), settings_of(num_iterations=2))


def test_a_kl_penalty_needs_reference_log_probabilities():
    with pytest.raises(ValueError, match=r"beta is 0\.04.*ref_logps"):
        token_losses(one_token(-1.0), None, jnp.ones((1, 1)), settings_of(beta=0.04))


# --- masks and weights ----------------------------------------------------------------------------


def test_completion_mask_by_hand():
    lengths, terminated = jnp.array([[2, 4], [0, 3]]), jnp.array([[True, False], [False, True]])
    mask = completion_mask(lengths, terminated, 4, settings_of())
    expected = [[[1, 1, 0, 0], [1, 1, 1, 1]], [[0, 0, 0, 0], [1, 1, 1, 0]]]
    np.testing.assert_array_equal(mask, np.array(expected, bool))


def test_truncated_completions_can_be_left_out():
    lengths, terminated = jnp.array([[2, 4], [4, 3]]), jnp.array([[True, False], [True, True]])
    mask = completion_mask(lengths, terminated, 4, settings_of(mask_truncated_completions=True))
    expected = [[[1, 1, 0, 0], [0, 0, 0, 0]], [[1, 1, 1, 1], [1, 1, 1, 0]]]
    np.testing.assert_array_equal(mask, np.array(expected, bool))


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("grpo", [[[1 / 8, 1 / 8, 0], [1 / 12, 1 / 12, 1 / 12]], [[0, 0, 0], [1 / 4, 0, 0]]]),
        ("bnpo", [[[1 / 6, 1 / 6, 0], [1 / 6, 1 / 6, 1 / 6]], [[0, 0, 0], [1 / 6, 0, 0]]]),
        ("dapo", [[[1 / 6, 1 / 6, 0], [1 / 6, 1 / 6, 1 / 6]], [[0, 0, 0], [1 / 6, 0, 0]]]),
        ("dr_grpo", [[[1 / 20, 1 / 20, 0], [1 / 20, 1 / 20, 1 / 20]], [[0, 0, 0], [1 / 20, 0, 0]]]),
    ],
)
def test_weights_by_hand(loss_type, expected):
    # Four sequences of 2, 3, 0 and 1 tokens; max_completion_length 5.
    mask = jnp.array([[[1, 1, 0], [1, 1, 1]], [[0, 0, 0], [1, 0, 0]]], bool)
    weights = loss_weights(mask, settings_of(loss_type=loss_type, max_completion_length=5))
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_masked_truncated_completions_count_no_token():
    settings = settings_of(loss_type="dapo", mask_truncated_completions=True)
    lengths, terminated = jnp.array([[5, 20, 5]]), jnp.array([[True, False, True]])
    weights = loss_weights(completion_mask(lengths, terminated, 20, settings), settings)
    np.testing.assert_allclose(weights.max(), 1 / 10, rtol=1e-6)
    np.testing.assert_allclose(weights.sum(axis=-1), [[0.5, 0.0, 0.5]], rtol=1e-6)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_an_empty_mask_is_no_loss(loss_type):
    inputs = random_inputs(seed=2) | {"mask": np.zeros((BATCH, GROUP, LENGTH), bool)}
    settings = settings_of(loss_type=loss_type, beta=0.04)
    (loss, sums), gradient = value_and_gradient(inputs, settings)
    assert loss == 0
    assert all(value == 0 for value in sums.values())
    assert (np.asarray(gradient) == 0).all()


# --- the loss against TRL -------------------------------------------------------------------------


def trl_reference(inputs: dict[str, np.ndarray], settings: ObjectiveSettings) -> dict[str, Any]:
    """Loss, gradient and metrics by TRL's formulas, on one flat batch that is the whole optimizer step."""
    flat = {name: torch.from_numpy(x).flatten(0, 1) for name, x in inputs.items()}
    logps = flat["logps"].requires_grad_()
    mask, advantages = flat["mask"].float(), flat["advantages"].unsqueeze(1)
    ratio = torch.exp(logps - flat["old_logps"])
    low, high = 1 - settings.epsilon, 1 + (settings.epsilon_high or settings.epsilon)
    losses = -torch.min(ratio * advantages, torch.clamp(ratio, low, high) * advantages)
    kl = torch.exp(flat["ref_logps"] - logps) - (flat["ref_logps"] - logps) - 1
    losses = losses + settings.beta * kl
    if settings.loss_type == "grpo":
        loss = ((losses * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)).mean()
    elif settings.loss_type == "dr_grpo":
        loss = (losses * mask).sum() / (losses.size(0) * settings.max_completion_length)
    else:
        loss = (losses * mask).sum() / mask.sum().clamp(min=1.0)
    loss.backward()
    is_low, is_high = (ratio < low) & (advantages < 0), (ratio > high) & (advantages > 0)
    means = {"kl": kl, "clip_ratio/low_mean": is_low, "clip_ratio/high_mean": is_high}
    means |= {"clip_ratio/region_mean": is_low | is_high}
    return {
        "loss": loss.item(),
        "gradient": logps.grad.view(BATCH, GROUP, LENGTH).numpy(),
        "sums": {name: ((x.float() * mask).sum() / mask.sum()).item() for name, x in means.items()},
    }


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("epsilon_high", [None, 0.28])
@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_equals_trl_on_random_numbers(loss_type, epsilon_high, beta):
    inputs = random_inputs(seed=3)
    settings = settings_of(
        loss_type=loss_type, max_completion_length=11, epsilon_high=epsilon_high, beta=beta, num_iterations=2
    )
    expected = trl_reference(inputs, settings)
    (loss, sums), gradient = value_and_gradient(inputs, settings)
    np.testing.assert_allclose(loss, expected["loss"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gradient, expected["gradient"], rtol=1e-6, atol=1e-6)
    assert set(sums) == set(expected["sums"])
    assert sums["clip_ratio/low_mean"] > 0
    assert sums["clip_ratio/high_mean"] > 0
    for name, value in expected["sums"].items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-6, atol=1e-6)


def test_without_beta_the_kl_is_reported_and_costs_nothing():
    inputs = random_inputs(seed=4)
    with_reference, sums = loss_of(inputs, settings_of(beta=0.0))
    without_reference, fewer_sums = loss_of(inputs | {"ref_logps": None}, settings_of(beta=0.0))
    assert with_reference == without_reference
    assert sums["kl"] > 0
    assert set(fewer_sums) == CLIP_METRICS


@pytest.mark.parametrize("filler", [-np.inf, np.nan, 1e4])
def test_what_is_outside_the_mask_does_not_matter(filler):
    inputs = random_inputs(seed=5)
    outside = ~inputs["mask"]
    assert outside.any()
    settings = settings_of(beta=0.04)
    filled = inputs | {
        name: np.where(outside, np.float32(filler), inputs[name])
        for name in ("logps", "old_logps", "ref_logps")
    }
    expected = value_and_gradient(inputs, settings)
    assert np.isfinite(expected[1]).all()
    jax.tree.map(np.testing.assert_array_equal, value_and_gradient(filled, settings), expected)


# --- splitting the step ---------------------------------------------------------------------------

WIDTH, VOCAB, STEP = 5, 7, 4


def linear_policy_step(seed: int) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Parameters of a linear softmax policy, and a step of four groups with lengths from 0 to 6."""
    random = np.random.default_rng(seed)
    shape = (STEP, GROUP, LENGTH)
    lengths = jnp.asarray(random.integers(0, LENGTH + 1, shape[:2]))
    step = {
        "features": jnp.asarray(random.normal(0, 1, (*shape, WIDTH)), jnp.float32),
        "targets": jnp.asarray(random.integers(0, VOCAB, shape)),
        "old_logps": jnp.asarray(random.normal(-2, 0.5, shape), jnp.float32),
        "ref_logps": jnp.asarray(random.normal(-2, 0.5, shape), jnp.float32),
        "advantages": jnp.asarray(random.normal(0, 1, shape[:2]), jnp.float32),
        "mask": jnp.arange(LENGTH) < lengths[..., None],
    }
    return jnp.asarray(random.normal(0, 0.3, (WIDTH, VOCAB)), jnp.float32), step


@partial(jax.jit, static_argnames="settings")
def gradient_and_metrics(parameters, part, settings, total_tokens):
    """What one micro-batch adds to the gradient, the loss and the metrics of the step."""

    def loss(parameters):
        distributions = jax.nn.log_softmax(part["features"] @ parameters)
        logps = jnp.take_along_axis(distributions, part["targets"][..., None], axis=-1)[..., 0]
        arguments = (part[name] for name in ("old_logps", "ref_logps", "advantages", "weights", "mask"))
        return policy_loss(logps, *arguments, settings, total_tokens)

    (value, sums), gradient = jax.value_and_grad(loss, has_aux=True)(parameters)
    return {"loss": value, "gradient": gradient} | sums


def assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), actual, expected)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("cuts", [[2], [1, 3], [1], [1, 2, 3]])
def test_any_split_leaves_loss_gradient_and_metrics_unchanged(loss_type, cuts):
    parameters, step = linear_policy_step(seed=6)
    settings = settings_of(loss_type=loss_type, beta=0.04, num_iterations=2)
    step["weights"] = loss_weights(step["mask"], settings)
    tokens = step["mask"].sum()
    whole = gradient_and_metrics(parameters, step, settings, tokens)
    bounds = [0, *cuts, STEP]
    parts = [{name: array[start:stop] for name, array in step.items()} for start, stop in pairwise(bounds)]
    shares = [gradient_and_metrics(parameters, part, settings, tokens) for part in parts]
    assert np.abs(whole["gradient"]).max() > 1e-2
    assert_same(jax.tree.map(lambda *pieces: sum(pieces), *shares), whole)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_splitting_a_group_leaves_the_gradient_unchanged(loss_type):
    parameters, step = linear_policy_step(seed=7)
    settings = settings_of(loss_type=loss_type, beta=0.04, num_iterations=2)
    step["weights"] = loss_weights(step["mask"], settings)
    tokens = step["mask"].sum()
    halves = [
        {name: array[:, half] for name, array in step.items()} for half in (slice(0, 1), slice(1, None))
    ]
    shares = [gradient_and_metrics(parameters, half, settings, tokens) for half in halves]
    whole = gradient_and_metrics(parameters, step, settings, tokens)
    assert_same(jax.tree.map(lambda *pieces: sum(pieces), *shares), whole)


@pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_spreading_over_devices_leaves_the_gradient_unchanged(loss_type):
    parameters, step = linear_policy_step(seed=8)
    settings = settings_of(loss_type=loss_type, beta=0.04, num_iterations=2)

    def of_step(parameters, step):
        weighted = step | {"weights": loss_weights(step["mask"], settings)}
        return gradient_and_metrics(parameters, weighted, settings, step["mask"].sum())

    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    spread = jax.device_put(step, NamedSharding(mesh, PartitionSpec("data")))
    assert_same(jax.jit(of_step)(parameters, spread), of_step(parameters, step))


def test_log_probabilities_in_bfloat16_give_a_float32_loss():
    inputs = random_inputs(seed=10)
    loss, sums = loss_of(
        inputs | {"logps": jnp.asarray(inputs["logps"], jnp.bfloat16)}, settings_of(beta=0.04)
    )
    assert loss.dtype == jnp.float32
    assert all(value.dtype == jnp.float32 for value in sums.values())
