"""Log-probabilities of completions: the same whether weights are kept as they are stored or widened."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.fast_compile import FAST_COMPILE
from flax import nnx
from models.torch_twin import collate, random_sample, torch_twin, twin_config, vtzero_twin

from vtzero.grpo.scoring import group_logprobs


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_weights_stored_in_bfloat16_score_as_their_float32_copies_do(dtype):
    random = np.random.default_rng(4)
    prompts = collate([random_sample(random, images) for images in (((24, 40),), ())])
    ids = jnp.asarray(random.integers(0, 90, (2, 3, 6)))
    model = vtzero_twin(torch_twin(twin_config(), seed=5))
    model.dtype = dtype
    graphdef, params = nnx.split(model)
    stored = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    widened = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), stored)

    @partial(jax.jit, compiler_options=FAST_COMPILE)
    def score(params):
        return group_logprobs(nnx.merge(graphdef, params), prompts, ids, chunk=8)

    for kept, copied in zip(score(stored), score(widened), strict=True):
        # No product is in bfloat16 that was not: what differs is the compiler's order of float32 sums.
        np.testing.assert_allclose(kept, copied, rtol=1e-6)
