"""AdamW, clipping and schedules against torch's."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from flax.traverse_util import flatten_dict
from models.torch_twin import torch_twin, twin_config
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer
from transformers import get_constant_schedule_with_warmup as constant_with_warmup
from transformers import get_cosine_schedule_with_warmup as cosine_with_warmup
from transformers import get_linear_schedule_with_warmup as linear_with_warmup

from vtzero.models.qwen2_vl.config import parse_config
from vtzero.models.qwen2_vl.weights import abstract_model, hub_name, parameter_names
from vtzero.training.optimizer import OptimizerSettings, decays, make_optimizer, make_schedule

STEPS, UPDATES = 8, 5
SHAPES = {"weight": (7, 5), "bias": (7,), "norm": (5,)}
SETTINGS = OptimizerSettings(
    learning_rate=0.03, warmup_steps=2, weight_decay=0.1, adam_beta2=0.95, max_grad_norm=1.0
)


def random_tree(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, scale, shape).astype(np.float32) for name, shape in SHAPES.items()}


def gradient_of_update(index: int) -> dict[str, np.ndarray]:
    """Norms on both sides of 1, so that some updates are clipped and some are not."""
    return random_tree(100 + index, scale=(1.0, 0.01, 3.0)[index % 3])


def torch_parameters(settings: OptimizerSettings) -> dict[str, np.ndarray]:
    parameters = {name: torch.tensor(value, requires_grad=True) for name, value in random_tree(0).items()}
    groups = [
        {"params": [parameters["weight"]]},
        {"params": [parameters["bias"], parameters["norm"]], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
    )
    warmup, after = settings.warmup_steps, STEPS - settings.warmup_steps
    schedule = LambdaLR(adam, lambda t: (t + 1) / (warmup + 1) if t < warmup else 1 - (t - warmup) / after)
    for index in range(UPDATES):
        for name, value in gradient_of_update(index).items():
            parameters[name].grad = torch.tensor(value)
        if settings.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(parameters.values(), settings.max_grad_norm)
        adam.step()
        schedule.step()
    return {name: value.detach().numpy() for name, value in parameters.items()}


def our_parameters(settings: OptimizerSettings) -> dict[str, np.ndarray]:
    optimizer = make_optimizer(settings, STEPS)
    parameters: Any = jax.tree.map(jnp.asarray, random_tree(0))
    state = optimizer.init(parameters)
    update = jax.jit(optimizer.update)
    for index in range(UPDATES):
        updates, state = update(gradient_of_update(index), state, parameters)
        parameters = optax.apply_updates(parameters, updates)
    return parameters


@pytest.mark.parametrize(
    "settings",
    [SETTINGS, replace(SETTINGS, max_grad_norm=0.0), replace(SETTINGS, warmup_steps=0, weight_decay=0.0)],
    ids=["clipped", "not clipped", "no warm-up, no decay"],
)
def test_five_updates_equal_torch(settings):
    expected, actual = torch_parameters(settings), our_parameters(settings)
    start = random_tree(0)
    for name in SHAPES:
        # Of the distance moved, not of the parameter, whose size would hide a wrong learning rate.
        moved = np.linalg.norm(expected[name] - start[name])
        assert moved > 0.05
        assert np.linalg.norm(actual[name] - expected[name]) < 1e-5 * moved
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-6, atol=1e-7)


def test_weight_decay_spares_what_transformers_trainer_spares():
    twin = torch_twin(twin_config(), seed=0)
    expected = {hub_name(name) for name in Trainer.get_decay_parameter_names(None, twin)}
    config = parse_config(twin.config.to_dict())
    _, params = abstract_model(config)
    decayed = flatten_dict(nnx.to_pure_dict(decays(params)))
    assert {name for name, place in parameter_names(config).items() if decayed[place.path]} == expected


def test_weight_decay_pulls_weights_alone():
    optimizer = make_optimizer(replace(SETTINGS, warmup_steps=0, lr_scheduler_type="constant"), STEPS)
    parameters = random_tree(1)
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    updates, _ = optimizer.update(zeros, optimizer.init(parameters), parameters)
    np.testing.assert_allclose(updates["weight"], -0.03 * 0.1 * parameters["weight"], rtol=1e-6)
    assert not updates["bias"].any()
    assert not updates["norm"].any()


# --- schedules ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "transformers_schedule"),
    [
        ("constant", lambda adam: constant_with_warmup(adam, 0)),
        ("linear", lambda adam: linear_with_warmup(adam, 0, STEPS)),
        ("cosine", lambda adam: cosine_with_warmup(adam, 0, STEPS)),
    ],
)
def test_decay_equals_transformers(name, transformers_schedule):
    adam = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.03)
    theirs = transformers_schedule(adam)
    ours = make_schedule(OptimizerSettings(learning_rate=0.03, lr_scheduler_type=name), STEPS)
    for step in range(STEPS + 1):
        np.testing.assert_allclose(ours(step), theirs.get_last_lr()[0], rtol=1e-6, atol=1e-9)
        adam.step()
        theirs.step()


@pytest.mark.parametrize(
    ("name", "after"), [("constant", [4, 4]), ("linear", [4, 2]), ("cosine", [4, 2])], ids=str
)
def test_warm_up_rises_in_equal_steps_from_above_zero(name, after):
    settings = OptimizerSettings(learning_rate=4.0, lr_scheduler_type=name, warmup_steps=3)
    schedule = make_schedule(settings, total_steps=9)
    np.testing.assert_allclose([schedule(step) for step in (0, 1, 2, 3, 6)], [1, 2, 3, *after], rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr_scheduler_type", "step"),
        ("learning_rate", -1.0),
        ("learning_rate", float("nan")),
        ("warmup_steps", -1),
        ("weight_decay", -0.1),
        ("max_grad_norm", -1.0),
        ("adam_beta1", 1.0),
        ("adam_beta2", -0.1),
    ],
)
def test_values_out_of_range_are_errors_that_name_the_field(field, value):
    with pytest.raises(ValueError, match=rf"^{field} is "):
        replace(SETTINGS, **{field: value})
