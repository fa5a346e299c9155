"""What the backward pass keeps of each layer: the same gradients whatever it is, and less memory."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.fast_compile import FAST_COMPILE
from flax import nnx
from models.torch_twin import collate, random_sample, torch_twin, twin_config, vtzero_twin

from vtzero.models.layers import Remat, scan_layers
from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.models.qwen2_vl.model import Qwen2VL

LAYERS = 8  # more than are unrolled


@pytest.fixture(scope="module")
def twin():
    return torch_twin(twin_config(layers=LAYERS), seed=1)


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(2)
    return collate([random_sample(rng, sizes) for sizes in (((24, 40),), ((16, 24), (33, 20)))])


@pytest.fixture(scope="module")
def completions():
    return jnp.asarray(np.random.default_rng(3).integers(0, 90, (2, 3, 40)))


def compiled_gradient(model: Qwen2VL, prompts: Prompts, completions: jax.Array):
    graphdef, params = nnx.split(model)

    def loss(params, prompts, completions):
        hidden = nnx.merge(graphdef, params).read_groups(prompts, completions)
        return sum((part**3).mean() for part in hidden)

    lowered = jax.jit(jax.grad(loss)).lower(params, prompts, completions)
    return lowered.compile(compiler_options=FAST_COMPILE), params


def test_policies_change_memory_and_no_gradient(twin, prompts, completions):
    memory, gradients = {}, {}
    for remat in get_args(Remat):
        compiled, params = compiled_gradient(vtzero_twin(twin, remat=remat), prompts, completions)
        memory[remat] = compiled.memory_analysis().temp_size_in_bytes
        gradients[remat] = compiled(params, prompts, completions)
    assert memory["none"] > 1.2 * memory["dots"] > 1.2**2 * memory["full"]
    for remat in ("full", "dots"):
        pairs = zip(jax.tree.leaves(gradients[remat]), jax.tree.leaves(gradients["none"]), strict=True)
        for actual, expected in pairs:
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def flops(remat: Remat) -> float:
    """Of the gradient of the decoder's layers, as XLA counts them before any optimisation."""
    model = vtzero_twin(torch_twin(twin_config(layers=1), seed=1), remat=remat)
    graphdef, params = nnx.split(model.model)
    ids = jnp.zeros((1, 3, 50), jnp.int32)
    embeddings = jnp.zeros((1, 1, 32))

    def loss(params, embeddings):
        mask = jnp.ones((1, 1), bool)
        positions = jnp.zeros((3, 1, 1), jnp.int32)
        completions = jnp.zeros((1, 3, 50, 32))
        hidden = nnx.merge(graphdef, params).read_groups(embeddings, positions, mask, completions, ids)
        return hidden[1].sum()

    return jax.jit(jax.grad(loss)).lower(params, embeddings).cost_analysis()["flops"]


def test_kept_products_are_not_computed_again():
    assert flops("none") < flops("dots") < flops("full")


def test_an_unknown_policy_is_named():
    with pytest.raises(ValueError, match="remat is True; it must be one of none, full, dots"):
        scan_layers(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), jnp.zeros(2), lambda _, x: (x, None), remat=True)
