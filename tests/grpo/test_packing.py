"""Packed rows against the grid: the same numbers and gradients, and layouts that hold what they say."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.fast_compile import FAST_COMPILE
from flax import nnx
from models.torch_twin import VOCABULARY, collate, random_sample, torch_twin, twin_config, vtzero_twin

from vtzero.grpo.packing import Cut, Packed, choose_layout, layouts
from vtzero.grpo.scoring import banned_mask, group_logprobs

GROUP, LENGTH = 4, 16


def random_lengths(rng: np.random.Generator, batch: int, longest: int) -> np.ndarray:
    return rng.integers(1, longest + 1, (batch, GROUP)).astype(np.int32)


@pytest.mark.parametrize("turn", range(5))
def test_every_token_lies_in_a_slot_of_its_own_and_comes_back(turn):
    seed = np.random.SeedSequence().entropy
    print("turn", turn, "seed", seed)
    rng = np.random.default_rng(seed)
    lengths = random_lengths(rng, 3, LENGTH)
    packing = Packed(4, 2 * LENGTH).arrange(lengths, LENGTH)
    source = np.asarray(packing.source)
    inside = np.arange(LENGTH) < lengths[..., None]
    for number in range(3):
        places = source[number][source[number] >= 0]
        assert sorted(places) == np.flatnonzero(inside[number].reshape(-1)).tolist()
    grid = jnp.asarray(rng.integers(0, 99, (3, GROUP, LENGTH)))
    packed = packing.pack(grid, fill=-7)
    assert (np.asarray(packed)[source < 0] == -7).all()
    np.testing.assert_array_equal(np.asarray(packing.unpack(packed))[inside], np.asarray(grid)[inside])
    assert int(packing.is_first.sum()) == 3 * GROUP
    tokens = [(np.asarray(packing.segments) == member + 1).sum() for member in range(GROUP)]
    np.testing.assert_array_equal(tokens, lengths.sum(0))


def test_four_of_half_the_length_share_a_row_of_twice_the_length():
    assert choose_layout(np.full((2, 8), 36), layouts(8, 72)) == Packed(2, 144)
    assert choose_layout(np.full((2, 8), 37), layouts(8, 72)) is None
    assert choose_layout(np.full((2, 8), 9), layouts(8, 72)) == Packed(1, 72)


def test_one_group_that_does_not_fit_decides_for_all():
    lengths = np.full((5, 8), 3)
    lengths[4] = 70
    assert choose_layout(lengths, layouts(8, 72)) is None


def test_layouts_are_smaller_than_the_grid_and_hold_one_completion_of_any_length():
    assert layouts(8, 700) == (Packed(2, 1400), Packed(1, 1400), Packed(1, 700))
    assert layouts(8, 8) == ()
    for group, length in ((2, 200), (5, 72), (16, 700), (3, 64)):
        for layout in layouts(group, length):
            assert layout.length >= length
            assert layout.slots < group * length


def test_a_group_without_room_is_an_error():
    with pytest.raises(ValueError, match=r"lengths \[9, 9\] do not fit 1 rows of 16 slots"):
        Packed(1, 16).arrange(np.array([[9, 9]]), 16)


def test_a_grid_is_cut_behind_its_longest_completion():
    cuts = (Cut(8, 36), Cut(8, 18))
    assert choose_layout(np.full((2, 8), 36), cuts) == Cut(8, 36)
    assert choose_layout(np.array([[1] * 7 + [18]]), cuts) == Cut(8, 18)
    assert choose_layout(np.array([[1] * 7 + [37]]), cuts) is None
    assert Cut(8, 18).arrange(np.full((2, 8), 18), 72).share == 0.25
    with pytest.raises(ValueError, match="a completion has 19 tokens, which a cut to 18 loses"):
        Cut(8, 18).arrange(np.full((2, 8), 19), 72)


def test_the_smaller_of_cut_and_packed_rows_is_taken():
    allowed = (Cut(8, 36), *layouts(8, 72))
    assert choose_layout(np.full((1, 8), 30), allowed) == Cut(8, 36)
    assert choose_layout(np.array([[2] * 7 + [60]]), allowed) == Packed(1, 144)


@pytest.fixture(scope="module")
def model():
    return vtzero_twin(torch_twin(twin_config(), seed=3))


@pytest.mark.parametrize("layout", [Packed(2, 2 * LENGTH), Packed(3, 24), Cut(GROUP, 13)])
def test_packed_and_cut_rows_score_and_teach_as_the_grid_does(model, layout):
    rng = np.random.default_rng()
    lengths = np.array([[3, layout.length if layout.rows == GROUP else 16, 1, 7], [5, 5, 5, 5]])
    ids = jnp.asarray(rng.integers(0, 90, (2, GROUP, LENGTH)).astype(np.int32))
    weights = jnp.asarray(rng.normal(size=ids.shape), jnp.float32)
    mask = jnp.arange(LENGTH) < lengths[..., None]
    prompts = collate([random_sample(rng, images) for images in (((24, 40),), ((16, 24), (33, 20)))])
    graphdef, params = nnx.split(model)

    @partial(jax.jit, compiler_options=FAST_COMPILE)
    def scored(params, packing):
        def loss(params):
            banned = banned_mask((90, 91), VOCABULARY)
            logps, entropy = group_logprobs(
                nnx.merge(graphdef, params), prompts, ids, packing=packing, banned=banned, temperature=0.8
            )
            return jnp.where(mask, logps * weights, 0.0).sum(), (logps, entropy)

        return jax.value_and_grad(loss, has_aux=True)(params)

    grid, packed = scored(params, None), scored(params, layout.arrange(lengths, LENGTH))
    for one, other in zip(grid[0][1], packed[0][1], strict=True):
        np.testing.assert_allclose(np.asarray(other)[mask], np.asarray(one)[mask], atol=1e-5, rtol=0)
    for one, other in zip(jax.tree.leaves(grid[1]), jax.tree.leaves(packed[1]), strict=True):
        np.testing.assert_allclose(other, one, atol=2e-5 * max(1.0, float(jnp.abs(one).max())), rtol=0)
