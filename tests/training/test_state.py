"""Updates with the real model and GRPO's loss: splits, frozen parts, donation, several of one rollout."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from fixtures.fast_compile import FAST_COMPILE, fast_compile
from flax import nnx
from flax.traverse_util import flatten_dict
from models.torch_twin import collate, random_sample, torch_twin, twin_config, vtzero_twin

from vtzero.grpo.objectives import ObjectiveSettings, k3, loss_weights
from vtzero.grpo.scoring import banned_mask, group_logprobs
from vtzero.grpo.step import Rollout, ScoringSettings, grpo_loss
from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.models.qwen2_vl.model import Qwen2VL
from vtzero.training.optimizer import OptimizerSettings, make_optimizer
from vtzero.training.state import (
    FROZEN_PARTS,
    TrainState,
    accumulate,
    follow,
    make_reference_sync,
    make_update,
    new_state,
    split_batch,
    split_model,
)

BATCH, GROUP, LENGTH = 4, 3, 5
BANNED = (90, 91, 92, 93)
LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo")
SCORING = ScoringSettings(BANNED, temperature=0.7, chunk=8)
OPTIMIZER = make_optimizer(OptimizerSettings(learning_rate=1e-3, weight_decay=0.1), total_steps=100)


def objective_of(loss_type: str = "dapo", **changes: Any) -> ObjectiveSettings:
    return ObjectiveSettings(loss_type=loss_type, max_completion_length=LENGTH + 2, **changes)


ITERATED = objective_of(beta=0.04, num_iterations=2)


@pytest.fixture(scope="module")
def model():
    return vtzero_twin(torch_twin(twin_config(layers=1), seed=1))


@pytest.fixture(scope="module")
def rollout(model):
    """Prompts with none to two images; old, reference and sampler log-probabilities off the policy's."""
    rng = np.random.default_rng(2)
    images = (((24, 40),), (), ((16, 24), (33, 20)), ((8, 16),))
    prompts = collate([random_sample(rng, sizes) for sizes in images])
    shape = (BATCH, GROUP, LENGTH)
    ids = jnp.asarray(rng.integers(0, 90, shape))
    lengths = rng.integers(1, LENGTH + 1, shape[:2])
    mask = jnp.asarray(np.arange(LENGTH) < lengths[..., None])
    logps = logprobs_of(model, prompts, ids)
    noise = jnp.asarray(rng.normal(0, 0.3, (3, *shape)), jnp.float32)
    return Rollout(
        prompts=prompts,
        completion_ids=ids,
        mask=mask,
        weights=loss_weights(mask, ITERATED),
        advantages=jnp.asarray(rng.normal(size=shape[:2]), jnp.float32),
        sampler_logps=logps + noise[0],
        old_logps=logps + noise[1],
        ref_logps=logps + noise[2],
    )


@partial(jax.jit, static_argnums=0, compiler_options=FAST_COMPILE)
def _logprobs(graphdef: Any, state: Any, prompts: Prompts, ids: jax.Array) -> jax.Array:
    banned = banned_mask(BANNED, 96)
    return group_logprobs(nnx.merge(graphdef, state), prompts, ids, banned=banned, temperature=0.7, chunk=8)[
        0
    ]


def logprobs_of(model: Qwen2VL, prompts: Prompts, ids: jax.Array) -> jax.Array:
    return _logprobs(*nnx.split(model), prompts, ids)


def loss_of(settings: ObjectiveSettings) -> Callable:
    return partial(grpo_loss, objective=settings, scoring=SCORING)


def paths_of(params: Any) -> set[tuple[str, ...]]:
    return set(flatten_dict(nnx.to_pure_dict(params)))


def distances(actual: Any, expected: Any) -> dict[str, float]:
    """Of each leaf, the norm of the difference over the norm of the expected."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(actual), strict=True)
    return {
        jax.tree_util.keystr(path): float(np.linalg.norm(np.subtract(a, e)) / np.linalg.norm(e))
        for (path, e), a in pairs
    }


# --- splitting the step ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def accumulated(model):
    """`accumulated(rollout, count)`: gradient and metrics over `count` micro-batches."""
    parts, trainable, frozen = split_model(*nnx.split(model))

    @partial(jax.jit, static_argnums=2, compiler_options=FAST_COMPILE)
    def run(trainable: Any, rollout: Rollout, count: int) -> Any:
        total = rollout.mask.sum()
        loss = loss_of(ITERATED)
        return accumulate(
            lambda t, part: loss(parts.merge(t, frozen), part, total), trainable, rollout, count
        )

    return lambda rollout, count: run(trainable, rollout, count)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_any_number_of_micro_batches_gives_the_same_gradient_and_metrics(
    accumulated, rollout, loss_type, count
):
    # The type of the loss reaches it through the weights alone, so that one compiled program serves all.
    weighted = replace(rollout, weights=loss_weights(rollout.mask, objective_of(loss_type)))
    gradient, metrics = accumulated(weighted, 1)
    split_gradient, split_metrics = accumulated(weighted, count)
    for name, distance in distances(split_gradient, gradient).items():
        assert distance < 1e-5, name
    assert metrics.keys() == split_metrics.keys()
    for name, value in metrics.items():
        np.testing.assert_allclose(split_metrics[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_types_of_loss_give_different_gradients(accumulated, rollout):
    gradients = [
        accumulated(replace(rollout, weights=loss_weights(rollout.mask, objective_of(kind))), 1)[0]
        for kind in ("grpo", "dr_grpo", "dapo")
    ]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert min(distances(gradients[one], gradients[other]).values()) > 1e-2


def test_a_split_deals_rows_out_and_keeps_each_row_together(rollout):
    parts = split_batch(rollout, 2)
    for part in range(2):
        taken = jax.tree.map(lambda leaf, part=part: leaf[part], parts)
        rows = slice(part, None, 2)
        np.testing.assert_array_equal(taken.prompts.positions, rollout.prompts.positions[:, rows])
        np.testing.assert_array_equal(taken.prompts.patches, rollout.prompts.patches[rows])
        np.testing.assert_array_equal(taken.completion_ids, rollout.completion_ids[rows])
        np.testing.assert_array_equal(taken.ref_logps, rollout.ref_logps[rows])


def test_a_batch_that_does_not_divide_is_an_error(rollout):
    with pytest.raises(ValueError, match="4 prompts a step do not divide into 3 micro-batches"):
        split_batch(rollout, 3)


# --- frozen parts ---------------------------------------------------------------------------------

FREEZES = [("vision",), ("merger",), ("llm",), ("vision", "merger"), ("vision", "llm")]


@pytest.mark.parametrize("freeze", FREEZES, ids="+".join)
def test_frozen_parts_have_no_gradient_and_no_optimizer_state(model, rollout, freeze):
    graphdef, params = nnx.split(model)
    parts, trainable, frozen = split_model(graphdef, params, freeze)
    everything = paths_of(params)
    expected = {path for path in everything if any(FROZEN_PARTS[part](path) for part in freeze)}
    assert expected
    assert paths_of(frozen) == expected
    assert paths_of(trainable) == everything - expected

    state = jax.eval_shape(partial(new_state, optimizer=OPTIMIZER), trainable, frozen)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert len(moments) == 2 * len(everything - expected)
    assert sum(leaf.size for leaf in moments) == 2 * sum(leaf.size for leaf in jax.tree.leaves(trainable))

    def gradient(trainable: Any) -> Any:
        loss = loss_of(ITERATED)
        return jax.grad(lambda t: loss(parts.merge(t, frozen), rollout, rollout.mask.sum())[0])(trainable)

    assert paths_of(jax.eval_shape(gradient, trainable)) == everything - expected


def flops(function: Callable, *arguments: Any) -> float:
    """As XLA counts them, before any optimisation."""
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


@pytest.mark.parametrize("remat", ["none", "full", "dots"])
def test_a_frozen_vision_encoder_costs_no_backward_pass(model, rollout, remat):
    graphdef, params = nnx.split(nnx.eval_shape(lambda: Qwen2VL(model.config, rngs=nnx.Rngs(0), remat=remat)))
    prompts = rollout.prompts

    def gradient_flops(freeze: tuple[str, ...]) -> float:
        parts, trainable, frozen = split_model(graphdef, params, freeze)
        loss = loss_of(ITERATED)

        def gradient(trainable: Any, frozen: Any, rollout: Rollout) -> Any:
            return jax.grad(lambda t: loss(parts.merge(t, frozen), rollout, rollout.mask.sum())[0])(trainable)

        return flops(gradient, trainable, frozen, rollout)

    def vision(params: Any) -> jax.Array:
        visual = nnx.merge(graphdef, params).visual
        return visual(prompts.patches, prompts.patch_positions, prompts.segments)

    forward = flops(vision, params)
    saved = gradient_flops(()) - gradient_flops(("vision", "merger"))
    # The backward pass of a linear layer is two products of the forward's size, the first layer's only one.
    assert saved > 1.7 * forward


def update_flops(model: Qwen2VL, rollout: Rollout, freeze: tuple[str, ...]) -> float:
    """Of the whole update as it is compiled: loss, gradient and optimizer."""
    graphdef, params = nnx.split(model)
    parts, trainable, frozen = split_model(graphdef, params, freeze)
    state = jax.eval_shape(partial(new_state, optimizer=OPTIMIZER), trainable, frozen)
    update = make_update(parts, loss_of(ITERATED), OPTIMIZER)
    compiled = update.lower(state, rollout, rollout.mask.sum()).compile(compiler_options=FAST_COMPILE)
    return compiled.cost_analysis()["flops"]


def test_frozen_parts_make_the_compiled_update_cheaper(model, rollout):
    everything = update_flops(model, rollout, ())
    vision = update_flops(model, rollout, ("vision",))
    whole_tower = update_flops(model, rollout, ("vision", "merger"))
    llm = update_flops(model, rollout, ("llm",))
    assert whole_tower < vision < 0.8 * everything
    # The gradient still passes through the decoder to the pictures. What is spared is the gradient of its
    # matrices, one product for each of them and each row of prompts and completions.
    matrices = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model.model.layers)) if leaf.ndim == 3)
    rows = BATCH * (rollout.prompts.ids.shape[1] + GROUP * LENGTH)
    assert everything - llm > 2 * rows * matrices


def test_unknown_parts_and_nothing_left_to_train_are_errors(model):
    graphdef, params = nnx.split(model)
    with pytest.raises(ValueError, match=r"freeze names 'visual'; the parts are vision, merger, llm"):
        split_model(graphdef, params, ["visual"])
    with pytest.raises(ValueError, match="nothing is left to train"):
        split_model(graphdef, params, ["vision", "merger", "llm"])


# --- the update -----------------------------------------------------------------------------------


def fresh_state(model: Qwen2VL, freeze: tuple[str, ...]) -> tuple[Any, TrainState]:
    """Copies of the model's parameters, since an update takes its state's memory."""
    graphdef, params = nnx.split(model)
    parts, trainable, frozen = split_model(graphdef, jax.tree.map(jnp.copy, params), freeze)
    return parts, new_state(trainable, frozen, OPTIMIZER)


@pytest.mark.parametrize("freeze", [("vision", "merger"), ("llm",), ("vision", "llm")], ids="+".join)
def test_updates_leave_frozen_bytes_alone_and_move_the_rest(model, rollout, freeze):
    parts, state = fresh_state(model, freeze)
    frozen, trainable = jax.tree.map(np.asarray, (state.frozen, state.trainable))
    with fast_compile():
        update = make_update(parts, loss_of(ITERATED), OPTIMIZER, micro_batches=2)
    for _ in range(5):
        state, _ = update(state, rollout, rollout.mask.sum())
    assert state.step == 5
    jax.tree.map(np.testing.assert_array_equal, state.frozen, frozen)
    assert all(distance > 1e-4 for distance in distances(state.trainable, trainable).values())


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.6, 1.0])
def test_a_reference_follows_as_trls_does(alpha):
    rng = np.random.default_rng(11)
    old, new = ({"a": rng.normal(size=(3, 4)), "b": rng.normal(size=5)} for _ in range(2))
    old, new = jax.tree.map(np.float32, (old, new))
    state = TrainState(jnp.int32(7), jax.tree.map(jnp.asarray, new), {}, {}, jax.tree.map(jnp.asarray, old))
    moved = follow(make_reference_sync(alpha), state)
    for name, before in old.items():
        expected = torch.tensor(before).mul_(1.0 - alpha).add_(torch.tensor(new[name]), alpha=alpha)
        np.testing.assert_allclose(moved.reference[name], expected, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(moved.trainable[name], new[name])
    if alpha == 1:
        jax.tree.map(np.testing.assert_array_equal, moved.reference, new)


def test_an_update_carries_the_reference_along(model, rollout):
    graphdef, params = nnx.split(model)
    parts, trainable, frozen = split_model(graphdef, jax.tree.map(jnp.copy, params))
    state = jax.jit(partial(new_state, optimizer=OPTIMIZER, moving_reference=True))(trainable, frozen)
    start = jax.tree.map(np.array, state.trainable)
    with fast_compile():
        update = make_update(parts, loss_of(ITERATED), OPTIMIZER)
    state, _ = update(state, rollout, rollout.mask.sum())
    jax.tree.map(np.testing.assert_array_equal, state.reference, start)
    assert min(distances(state.trainable, start).values()) > 1e-5
    followed = follow(make_reference_sync(1.0), state)
    jax.tree.map(np.testing.assert_array_equal, followed.reference, state.trainable)


@pytest.fixture
def compilations():
    """The names of what XLA compiles from here on."""
    compiled: list[str] = []

    def note(event: str, seconds: float, **details: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield compiled
    jax.monitoring.unregister_event_duration_listener(note)


def test_several_updates_of_one_rollout(model, rollout, compilations):
    """Old log-probabilities, a reference, donation and compilation, along three updates."""
    parts, state = fresh_state(model, ())
    own = logprobs_of(model, rollout.prompts, rollout.completion_ids)
    rollout = replace(rollout, old_logps=own, ref_logps=own, sampler_logps=own)
    total = rollout.mask.sum()
    update = make_update(parts, loss_of(ITERATED), OPTIMIZER)

    before = state
    state, first = update(before, rollout, total)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((before.trainable, before.opt_state)))
    moved = nnx.merge(parts.graphdef, *jax.tree.map(jnp.copy, (state.trainable, state.frozen)))
    known = len(compilations)
    assert known > 0
    state, second = update(state, rollout, total)
    state, _ = update(state, rollout, total)
    assert len(compilations) == known
    assert state.step == 3

    # The policy that drew: no ratio differs from 1, and its divergence from itself is 0.
    assert first["clip_ratio/region_mean"] == 0
    assert abs(first["kl"]) < 1e-6
    assert first["sampling/sampling_logp_difference/max"] < 1e-5
    # The policy after the first update, against the log-probabilities of the one that drew.
    differences = logprobs_of(moved, rollout.prompts, rollout.completion_ids) - own
    expected = np.asarray(k3(differences, jnp.zeros_like(differences)))[rollout.mask].mean()
    assert expected > 1e-4
    np.testing.assert_allclose(second["kl"], expected, rtol=1e-3)
    assert second["loss"] < first["loss"]


# --- what is not finite ---------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_an_update_that_is_not_finite_is_skipped_and_the_next_is_what_it_would_have_been(
    model, rollout, wrong
):
    """One advantage of one micro-batch spoils the sum; parameters and moments keep their bytes."""
    parts, state = fresh_state(model, ())
    total = rollout.mask.sum()
    update = make_update(parts, loss_of(ITERATED), OPTIMIZER, micro_batches=2)
    spoilt = replace(rollout, advantages=rollout.advantages.at[1, 2].set(wrong))
    state, sound = update(state, rollout, total)
    kept = jax.tree.map(np.asarray, (state.trainable, state.frozen))
    moments = jax.tree.map(np.asarray, optax.tree_utils.tree_get(state.opt_state, "mu"))
    state, skipped = update(state, spoilt, total)
    assert (sound["skipped_updates"], skipped["skipped_updates"]) == (0, 1)
    assert not np.isfinite(skipped["loss"])
    assert state.step == 2
    jax.tree.map(np.testing.assert_array_equal, (state.trainable, state.frozen), kept)
    jax.tree.map(np.testing.assert_array_equal, optax.tree_utils.tree_get(state.opt_state, "mu"), moments)
    # Adam counts the updates that were made, the schedule every step, as the metrics do.
    counts = dict(optax.tree_utils.tree_get_all_with_path(state.opt_state, "count"))
    assert sorted(int(count) for count in counts.values()) == [1, 2]
    state, last = update(state, rollout, total)
    assert last["skipped_updates"] == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.trainable))
