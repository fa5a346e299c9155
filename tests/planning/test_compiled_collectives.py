"""Collectives of programs that the TPU compiler made, against what their mathematics must exchange."""

from functools import partial
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vtzero.parallel.mesh import MeshSettings, make_mesh
from vtzero.planning.chips import open_slice
from vtzero.planning.collectives import exchanges

pytestmark = pytest.mark.skipif(find_spec("libtpu") is None, reason="needs libtpu, which needs no TPU")

WIDTH, TOKENS, SAMPLES = 1024, 256, 8
PARTIAL_SUM = SAMPLES // 2 * TOKENS * WIDTH * 2  # a device's share of the batch, in bfloat16
WEIGHT = WIDTH * WIDTH // 2 * 2  # a device's part along tensor, whole along fsdp, in bfloat16


def network(weights, x, unroll=1):
    """Layers of two products, the first cut by columns and the second by rows."""

    def layer(x, pair):
        up, down = (weight.astype(jnp.bfloat16) for weight in pair)
        return x + jnp.einsum("bsf,df->bsd", jax.nn.silu(jnp.einsum("bsd,fd->bsf", x, up)), down), None

    return jax.lax.scan(layer, x, weights, unroll=unroll)[0]


def compiled(function, layers):
    mesh = make_mesh(MeshSettings(1, 2, 2), list(open_slice("v5e:2x2").devices))

    def shape(dtype, spec, *axes):
        return jax.ShapeDtypeStruct(axes, dtype, sharding=NamedSharding(mesh, P(*spec)))

    up = shape(jnp.float32, (None, "tensor", "fsdp"), layers, WIDTH, WIDTH)
    down = shape(jnp.float32, (None, "fsdp", "tensor"), layers, WIDTH, WIDTH)
    x = shape(jnp.bfloat16, (("data", "fsdp"),), SAMPLES, TOKENS, WIDTH)
    with jax.set_mesh(mesh):
        return exchanges(jax.jit(function).lower((up, down), x).compile().as_text())


def received(found, *kinds):
    return sum(one.total for one in found if one.kind in kinds)


@pytest.mark.parametrize("unroll", [1, 2, 6])
def test_every_layer_gathers_its_weights_and_adds_up_one_partial_result(unroll):
    found = compiled(partial(network, unroll=unroll), layers := 6)
    # Half of each weight comes from the one other device of fsdp.
    assert received(found, "all-gather") == layers * 2 * WEIGHT / 2
    assert received(found, "all-reduce") == pytest.approx(layers * PARTIAL_SUM, rel=1e-3)


def test_loops_in_loops_multiply_and_gradients_are_scattered():
    def gradients(weights, x):
        def add(total, part):
            loss = jax.grad(lambda weights: jnp.square(network(weights, part).astype(jnp.float32)).sum())
            return jax.tree.map(jnp.add, total, loss(weights)), None

        parts = jnp.moveaxis(x.reshape(SAMPLES // 2, 2, TOKENS, WIDTH), 1, 0)
        total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, weights), parts)
        return jax.tree.map(jnp.subtract, weights, total)

    found = compiled(gradients, 6)
    assert max(one.times for one in found) == 2 * 6
    # What a device keeps of a gradient, received once from the one other.
    assert received(found, "reduce-scatter") == 2 * 6 * 2 * WEIGHT / 2
    # Half the samples at a time, forwards and backwards.
    assert received(found, "all-reduce") == pytest.approx(2 * 6 * 2 * PARTIAL_SUM / 2, rel=1e-3)
