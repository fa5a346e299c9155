"""Updates and sampling on meshes of eight devices against one device. Run by `test_eight_devices.py`."""

from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.collectives import collectives, elements
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from models.torch_twin import collate, random_sample, torch_twin, twin_config, vtzero_twin

from vtzero.config import RunConfig
from vtzero.grpo.objectives import ObjectiveSettings, loss_weights
from vtzero.grpo.step import Rollout, ScoringSettings, grpo_loss
from vtzero.models.attention import blocked, cudnn, splash
from vtzero.models.qwen2_vl.weights import abstract_model
from vtzero.parallel.mesh import MeshSettings, make_mesh
from vtzero.parallel.sharding import batch_sharding, shard_batch, shard_params, state_sharding
from vtzero.sampling.decode import DecodeSettings, sample_keys
from vtzero.sampling.parameters import SamplingParameters
from vtzero.sampling.sampler import Sampler
from vtzero.training import setup
from vtzero.training.huggingface import read_config
from vtzero.training.mesh_choice import state_bytes
from vtzero.training.micro_batches import bytes_on_a_device
from vtzero.training.optimizer import OptimizerSettings, make_optimizer
from vtzero.training.setup import model_folder
from vtzero.training.state import TrainState, make_update, new_state, split_model

BATCH, GROUP, LENGTH = 8, 4, 6
BANNED = (90, 91, 92, 93)
ONE_DEVICE = (1, 1, 1)
MESHES = [(8, 1, 1), (2, 2, 2), (1, 4, 2)]
SETTINGS = DecodeSettings(max_completion_length=LENGTH, stop_ids=tuple(range(0, 90, 6)), pad_id=0)
OBJECTIVE = ObjectiveSettings(loss_type="dapo", max_completion_length=LENGTH)
# Not clipped, so that the first moments after one update are a tenth of the gradient.
OPTIMIZER = make_optimizer(OptimizerSettings(learning_rate=1e-3, max_grad_norm=0.0), total_steps=100)


@cache
def model() -> Any:
    return vtzero_twin(torch_twin(twin_config(layers=1), seed=1))


@cache
def rollout() -> Rollout:
    rng = np.random.default_rng(2)
    images = (((24, 40),), (), ((16, 24), (33, 20)), ((8, 16),)) * 2
    shape = (BATCH, GROUP, LENGTH)
    mask = np.arange(LENGTH) < rng.integers(1, LENGTH + 1, shape[:2])[..., None]
    return Rollout(
        prompts=collate([random_sample(rng, sizes) for sizes in images]),
        completion_ids=rng.integers(0, 90, shape),
        mask=mask,
        weights=loss_weights(jnp.asarray(mask), OBJECTIVE),
        advantages=rng.normal(size=shape[:2]).astype(np.float32),
        sampler_logps=np.zeros(shape, np.float32),
    )


@dataclass(frozen=True)
class Outcome:
    """What one mesh computed, as it lies on its devices."""

    state: TrainState
    shardings: TrainState
    metrics: dict[str, jax.Array]
    tokens: jax.Array
    compilations: int


@cache
def outcome(sizes: tuple[int, int, int]) -> Outcome:
    """A sampled group a prompt, then an update of the fixed rollout; `compilations` of a second update."""
    mesh = make_mesh(MeshSettings(*sizes), jax.devices()[: int(np.prod(sizes))])
    given = model(), rollout()  # made while no mesh is set, so that every mesh can take them
    with jax.set_mesh(mesh):
        return outcome_on(mesh, *given)


def outcome_on(mesh: Mesh, model: Any, rollout: Rollout) -> Outcome:
    parts, trainable, frozen = split_model(*nnx.split(model))
    state = new_state(trainable, frozen, OPTIMIZER)
    shardings = state_sharding(state, mesh)
    state = jax.device_put(jax.tree.map(jnp.copy, state), shardings)
    batch = shard_batch(rollout, mesh)

    sampler = Sampler(parts.merge, SETTINGS)
    keys = sample_keys(jax.random.key(3), 0, jnp.arange(BATCH), GROUP)
    keys = jax.device_put(keys, batch_sharding(mesh))
    parameters = SamplingParameters(temperature=0.7, banned_ids=BANNED)
    tokens = sampler((state.trainable, state.frozen), batch.prompts, keys, parameters).ids

    loss = partial(grpo_loss, objective=OBJECTIVE, scoring=ScoringSettings(BANNED, 0.7, chunk=48))
    update = make_update(parts, loss, OPTIMIZER, shardings=shardings)
    total = jnp.int32(rollout.mask.sum())
    state, metrics = update(state, batch, total)
    kept = jax.tree.map(jnp.copy, state)
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
    update(state, batch, total)
    jax.monitoring.clear_event_listeners()
    compilations = sum(event.endswith("backend_compile_duration") for event in compiled)
    return Outcome(kept, shardings, metrics, tokens, compilations)


def distances(actual: Any, expected: Any) -> dict[str, float]:
    """Of each leaf, the norm of the difference over the norm of the expected."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(actual), strict=True)
    return {
        jax.tree_util.keystr(path): float(np.linalg.norm(np.subtract(a, e)) / np.linalg.norm(np.asarray(e)))
        for (path, e), a in pairs
    }


def first_moments(state: TrainState) -> Any:
    return state.opt_state[0].mu


def test_there_are_eight_devices():
    assert jax.device_count() == 8


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_loss_gradient_and_update_equal_one_device(sizes):
    actual, expected = outcome(sizes), outcome(ONE_DEVICE)
    for name, value in expected.metrics.items():
        np.testing.assert_allclose(actual.metrics[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
    assert expected.metrics["grad_norm"] > 0.1
    for part in (first_moments, lambda state: state.trainable):
        for name, distance in distances(part(actual.state), part(expected.state)).items():
            assert distance < 1e-5, name


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_sampled_tokens_equal_one_device(sizes):
    tokens = np.asarray(outcome(ONE_DEVICE).tokens)
    assert len(np.unique(tokens)) > 10
    np.testing.assert_array_equal(outcome(sizes).tokens, tokens)


@pytest.mark.parametrize("gather", [True, False])
def test_decoding_exchanges_no_weights(gather):
    # Not even where nothing is gathered before: this compiler takes such a gather out of the loop by itself.
    mesh = make_mesh(MeshSettings(data=1, fsdp=8, tensor=1))
    tokens, exchanged = sampled_and_exchanged(mesh, replace(SETTINGS, gather_weights=gather))
    np.testing.assert_array_equal(tokens, outcome(ONE_DEVICE).tokens)
    # The drawn tokens' ids and embeddings; the width of an embedding is divided.
    assert exchanged <= BATCH * GROUP * (1 + model().config.text.hidden_size)


def sampled_and_exchanged(mesh: Mesh, settings: DecodeSettings) -> tuple[np.ndarray, int]:
    """Sampled tokens, and the elements that all collectives of the decoding loop give for one of them."""
    parts, trainable, frozen = split_model(*nnx.split(model()))
    weights = jax.device_put((trainable, frozen), shard_params((trainable, frozen), mesh))
    prompts, parameters = rollout().prompts, SamplingParameters(temperature=0.7, banned_ids=BANNED)
    with jax.set_mesh(mesh):
        sampler = Sampler(parts.merge, settings)
        keys = sample_keys(jax.random.key(3), 0, jnp.arange(BATCH), GROUP)
        keys = jax.device_put(keys, batch_sharding(mesh))
        arguments = (weights, shard_batch(prompts, mesh), keys, parameters)
        tokens = np.asarray(sampler(*arguments).ids)
        _, inside = collectives(sampler.declare(*arguments)().as_text())
    return tokens, sum(map(elements, (shape for shape, _ in inside)))


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_the_new_state_lies_where_the_old_one_did_and_compiles_nothing_anew(sizes):
    result = outcome(sizes)
    leaves = zip(jax.tree.leaves(result.state), jax.tree.leaves(result.shardings), strict=True)
    assert all(leaf.sharding.is_equivalent_to(sharding, leaf.ndim) for leaf, sharding in leaves)
    assert result.compilations == 0


def shard_shape(state: TrainState, *path: str) -> tuple[int, ...]:
    leaf = state.trainable
    for name in path:
        leaf = leaf[name]
    shards = leaf.get_value().addressable_shards
    assert len(shards) == 8
    assert len({shard.data.shape for shard in shards}) == 1
    return shards[0].data.shape


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_each_device_holds_its_share_of_each_parameter(sizes):
    _, fsdp, tensor = sizes
    state = outcome(sizes).state
    decoder = ("model", "layers")
    assert shard_shape(state, "model", "embed_tokens", "weight") == (96 // tensor, 32 // fsdp)
    assert shard_shape(state, "lm_head", "weight") == (96 // tensor, 32 // fsdp)
    assert shard_shape(state, *decoder, "self_attn", "k_proj", "weight") == (1, 16 // tensor, 32 // fsdp)
    assert shard_shape(state, *decoder, "self_attn", "k_proj", "bias") == (1, 16 // tensor)
    assert shard_shape(state, *decoder, "mlp", "down_proj", "weight") == (1, 32 // fsdp, 40 // tensor)
    assert shard_shape(state, *decoder, "input_layernorm", "weight") == (1, 32)
    assert shard_shape(state, "visual", "blocks", "attn", "qkv", "weight") == (1, 96 // tensor, 32 // fsdp)
    assert shard_shape(state, "visual", "blocks", "mlp", "fc2", "bias") == (1, 32)
    assert shard_shape(state, "visual", "patch_embed", "weight") == (32 // fsdp, 3, 2, 4, 4)
    for moment, parameter in zip(
        jax.tree.leaves(first_moments(state)), jax.tree.leaves(state.trainable), strict=True
    ):
        assert moment.sharding.shard_shape(moment.shape) == parameter.sharding.shard_shape(parameter.shape)


def test_an_axis_that_does_not_divide_is_left_out():
    config = replace(model().config, text=replace(model().config.text, vocab_size=99, intermediate_size=30))
    _, shapes = abstract_model(config)
    shardings = nnx.to_pure_dict(shard_params(shapes, make_mesh(MeshSettings(data=1, fsdp=4, tensor=2))))
    assert shardings["lm_head"]["weight"].spec == P(None, "fsdp")
    assert shardings["model"]["layers"]["mlp"]["up_proj"]["weight"].spec == P(None, "tensor", "fsdp")
    wide = make_mesh(MeshSettings(data=1, fsdp=2, tensor=4))
    mlp = nnx.to_pure_dict(shard_params(shapes, wide))["model"]["layers"]["mlp"]
    assert mlp["down_proj"]["weight"].spec == P(None, "fsdp", None)


def test_a_batch_is_divided_by_samples():
    batch = shard_batch(rollout(), make_mesh(MeshSettings(data=2, fsdp=2, tensor=2)))
    samples = BATCH // 4
    for leaf in jax.tree.leaves(replace(batch, prompts=replace(batch.prompts, positions=batch.advantages))):
        assert leaf.sharding.shard_shape(leaf.shape) == (samples, *leaf.shape[1:])
    positions = batch.prompts.positions
    assert positions.sharding.shard_shape(positions.shape) == (3, samples, positions.shape[2])
    jax.tree.map(np.testing.assert_array_equal, batch, rollout())


def test_samples_that_do_not_divide_are_an_error():
    prompts = jax.tree.map(np.asarray, rollout().prompts)
    short = replace(prompts, ids=prompts.ids[:6])
    with pytest.raises(ValueError, match=r"ids has 6 samples, .* data \* fsdp = 4"):
        shard_batch(short, make_mesh(MeshSettings(data=2, fsdp=2, tensor=2)))


@cache
def attention_inputs() -> tuple[Any, ...]:
    """Prompts of one to five tokens, and two rows of completions each: 8 query heads, 2 key heads."""
    rng = np.random.default_rng(5)

    def qkv(*lead: int) -> tuple[np.ndarray, ...]:
        return tuple(rng.normal(size=(*lead, heads, 8)).astype(np.float32) for heads in (8, 2, 2))

    mask = np.arange(5) < rng.integers(1, 6, (BATCH, 1))
    return qkv(BATCH, 5), mask, qkv(BATCH, 2, 6)


SEGMENTS = np.broadcast_to([1, 1, 2, 2, 2, 0], (BATCH, 2, 6))
SHARED_KERNELS = {
    "blocked": partial(blocked.group_attention, segments=None, whole=0, block=200),
    "blocked, packed": partial(blocked.group_attention, segments=SEGMENTS, whole=0, block=200),
    "cudnn": partial(cudnn.group_attention, segments=None, implementation="xla"),
    "cudnn, packed": partial(cudnn.group_attention, segments=SEGMENTS, implementation="xla"),
    "splash": partial(splash.group_attention, segments=None, interpret=True),
}


@cache
def attended(kernel: str, sizes: tuple[int, int, int]) -> tuple[Any, str]:
    """Values and gradients of a kernel on a mesh, and the program that computed them."""
    mesh = make_mesh(MeshSettings(*sizes), jax.devices()[: int(np.prod(sizes))])

    def total(prompt: Any, mask: jax.Array, rows: Any) -> tuple[jax.Array, Any]:
        out = SHARED_KERNELS[kernel](prompt, mask, rows)
        return sum(jnp.sum(x**2) for x in out), out

    inputs = jax.device_put(attention_inputs(), batch_sharding(mesh))
    with jax.set_mesh(mesh):
        program = jax.jit(jax.grad(total, (0, 2), has_aux=True)).lower(*inputs)
        return jax.device_get(program.compile()(*inputs)), program.as_text()


# Over 4 devices the two key heads are repeated.
@pytest.mark.parametrize("sizes", [(2, 2, 2), (2, 1, 4)], ids=str)
@pytest.mark.parametrize("kernel", SHARED_KERNELS)
def test_each_device_attends_to_its_own_samples_and_heads(kernel, sizes):
    expected, _ = attended(kernel, ONE_DEVICE)
    actual, program = attended(kernel, sizes)
    assert max(distances(actual, expected).values()) < 1e-5
    assert "manual_computation" in program


def test_a_mesh_that_is_left_open_shares_the_state_as_the_memory_asks(monkeypatch, tmp_path):
    config = RunConfig(prompts_per_step=8)
    whole = state_bytes(config, read_config(model_folder(config.model)))
    monkeypatch.setattr(setup, "device_memory", lambda: whole * 2 // 3)
    made, state = setup.set_up(config, tmp_path)
    assert dict(made.mesh.shape) == {"data": 2, "fsdp": 4, "tensor": 1}
    assert bytes_on_a_device(state) < whole / 3
