"""Sampling from logits whose vocabulary lies on many devices. Run by `test_eight_devices.py`."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vtzero.parallel.mesh import MeshSettings, make_mesh
from vtzero.parallel.sharding import BATCH_AXES
from vtzero.sampling.filters import (
    apply_min_p,
    apply_top_k,
    apply_top_k_top_p,
    apply_top_p,
    ban_ids,
    draw,
    filter_logits,
    log_probability,
)
from vtzero.sampling.parameters import SamplingParameters

BATCH, GROUP, VOCAB = 4, 2, 8192
MESHES = [(2, 1, 4), (1, 2, 4), (1, 1, 8)]
BANNED = (3, 5000, VOCAB - 1)
COLLECTIVE = re.compile(
    r"= (.*?) (?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)


def rows(*values):
    return np.resize(np.array(values), (BATCH, GROUP))


def logits(kind):
    plain = np.random.default_rng(0).normal(0, 2, (BATCH, GROUP, VOCAB)).astype(np.float32)
    # The greatest of the tied logits stand on several devices.
    return {"plain": plain, "tied": np.clip(np.round(plain * 2) / 2, -4, 4)}[kind]


TOP_K, TOP_P = rows(1, 7, 50, 0, 3000, VOCAB), rows(0.9, 0.5, 1.0, 0.99, 0.1).astype(np.float32)
TEMPERATURE = rows(1.0, 0.7, 0.0).astype(np.float32)
KEYS = jax.random.split(jax.random.key(1), (BATCH, GROUP))
IDS = np.random.default_rng(2).integers(0, VOCAB, (BATCH, GROUP))
PARAMETERS = SamplingParameters(TEMPERATURE, TOP_K, TOP_P, 0.01, banned_ids=BANNED)

PROGRAMS = {
    "top-k": (apply_top_k, TOP_K),
    "top-p": (apply_top_p, TOP_P),
    "top-k, then top-p": (apply_top_k_top_p, TOP_K, TOP_P),
    "min-p": (apply_min_p, 0.05),
    "ban": (lambda scores: ban_ids(scores, BANNED),),
    "ban of a traced array": (ban_ids, np.array([*BANNED, -1])),
    "all filters": (filter_logits, PARAMETERS),
    "draw": (draw, KEYS, TEMPERATURE),
    "greedy": (draw, KEYS, 0.0),
    "log-probability": (log_probability, IDS),
}


def on_mesh(values, mesh: Mesh):
    """Logits with samples over `data` and `fsdp` and the vocabulary over `tensor`; the rest by samples."""

    def put(leaf):
        shape = jnp.shape(leaf)
        spec = {(BATCH, GROUP, VOCAB): P(BATCH_AXES, None, "tensor"), (BATCH, GROUP): P(BATCH_AXES)}
        return jax.device_put(leaf, NamedSharding(mesh, spec.get(shape, P())))

    return jax.tree.map(put, values)


def compiled_on_mesh(function, arguments, sizes):
    mesh = make_mesh(MeshSettings(*sizes))
    arguments = on_mesh(arguments, mesh)
    with jax.set_mesh(mesh):
        return jax.jit(function).lower(*arguments).compile(), arguments


def elements_exchanged(compiled):
    """The elements of the largest array that any collective of the program yields."""
    results = COLLECTIVE.findall(compiled.as_text())
    shapes = re.findall(r"\[([\d,]*)\]", " ".join(results))
    return max((math.prod(int(size) for size in shape.split(",") if size) for shape in shapes), default=0)


@pytest.mark.parametrize("sizes", MESHES, ids=str)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_sharded_vocabulary_gives_the_same_and_is_not_gathered(name, sizes):
    function, *others = PROGRAMS[name]
    compiled, _ = compiled_on_mesh(function, (logits("plain"), *others), sizes)
    for kind in ("plain", "tied"):
        scores = logits(kind)
        expected = jax.jit(function)(scores, *others)
        actual = compiled(*on_mesh((scores, *others), make_mesh(MeshSettings(*sizes))))
        if name == "log-probability":
            # Floats, summed in another order.
            np.testing.assert_allclose(actual, expected, rtol=2e-6)
        else:
            np.testing.assert_array_equal(actual, expected)
    # A number of each row from each device, at most; and the filtered logits stay where they lay.
    assert elements_exchanged(compiled) <= BATCH * GROUP * 8
    if expected.ndim == 3:
        assert actual.sharding.is_equivalent_to(on_mesh(scores, make_mesh(MeshSettings(*sizes))).sharding, 3)


def test_a_sort_would_gather_the_vocabulary():
    compiled, _ = compiled_on_mesh(jnp.sort, (logits("plain"),), (2, 1, 4))
    assert elements_exchanged(compiled) >= VOCAB
