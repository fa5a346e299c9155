"""Scenes: the same on every machine, on distinct tiles, seen in perspective, in one split or the other."""

import hashlib
from collections import Counter
from itertools import product

import numpy as np
import pytest

from vtzero.scenes.world import (
    COLOURS,
    COLUMNS,
    JITTER,
    RADII,
    ROWS,
    SHAPES,
    Draws,
    Scene,
    Thing,
    draw_scene,
)

# Of the scenes drawn below; another value means that seeds no longer give the scenes they gave.
SCENES_SHA256 = "d9c2dd58964890d3fc3fe08f4619244200565745613176c5a796bdaa75b7efab"
NUMBERS = ["0x1.059b017e31bacp-2", "0x1.fc52f16a25ae4p-1", "0x1.674a98cf33accp-3"]


def stand(column=1, row=0, *, size="small", colour="red", shape="cube", shift=(0.0, 0.0)):
    return Thing(colour, shape, size, column, row, *shift)


def sample_scenes(count, *, seed="scenes"):
    for index in range(count):
        draws = Draws(seed, index)
        distinct = draws.number() < 0.5
        yield draw_scene(draws, 1 + draws.below(3 if distinct else 9), distinct=distinct)


def described(scene):
    return ";".join(
        f"{t.colour} {t.shape} {t.size} {t.column} {t.row} {t.shift_x.hex()} {t.shift_z.hex()}"
        for t in scene.things
    )


def within(count, trials, share, sigmas=4.5):
    """Whether a count of successes is as near to its expectation as chance allows."""
    return abs(count - trials * share) <= sigmas * (trials * share * (1 - share)) ** 0.5


# --- draws ---


def test_a_seed_gives_the_same_numbers_on_every_machine():
    draws = Draws("train", 0, 7)
    assert [draws.number().hex() for _ in range(3)] == NUMBERS


def test_every_part_of_a_seed_counts():
    seeds = [("train", 0, 1), ("train", 1, 0), ("test", 0, 1), ("train", 0, 11), ("train", 0, 1, 1)]
    assert len({Draws(*seed).number() for seed in seeds}) == len(seeds)


def test_integers_and_choices_are_even():
    draws = Draws("even")
    counts = Counter(draws.below(5) for _ in range(10_000))
    assert sorted(counts) == [0, 1, 2, 3, 4]
    assert all(within(count, 10_000, 1 / 5) for count in counts.values())
    chosen = Counter(draws.choice("abc") for _ in range(10_000))
    assert all(within(chosen[letter], 10_000, 1 / 3) for letter in "abc")


def test_every_order_is_as_likely():
    draws = Draws("orders")
    orders = Counter("".join(draws.shuffled("abcd")) for _ in range(12_000))
    assert len(orders) == 24
    assert all(within(count, 12_000, 1 / 24) for count in orders.values())


def test_weights_are_shares():
    draws = Draws("weights")
    weights = {"a": 1.0, "b": 3.0, "never": 0.0, "c": 4.0}
    counts = Counter(draws.weighted(weights) for _ in range(10_000))
    assert all(within(counts[key], 10_000, weight / 8) for key, weight in weights.items() if weight)
    assert counts["never"] == 0


# --- scenes ---


def test_scenes_are_the_same_on_every_machine():
    text = "\n".join(described(scene) for scene in sample_scenes(200))
    assert hashlib.sha256(text.encode()).hexdigest() == SCENES_SHA256


def test_things_stand_on_different_tiles_near_their_middle():
    for scene in sample_scenes(400):
        tiles = [(thing.column, thing.row) for thing in scene.things]
        assert len(set(tiles)) == len(tiles)
        assert tiles == sorted(tiles)
        for thing in scene.things:
            assert thing.column in range(len(COLUMNS))
            assert thing.row in range(len(ROWS))
            assert max(abs(thing.shift_x), abs(thing.shift_z)) <= JITTER


@pytest.mark.parametrize("count", [1, 2, 3])
def test_distinct_things_differ_in_colour_and_in_shape(count):
    for index in range(100):
        things = draw_scene(Draws("distinct", count, index), count, distinct=True).things
        assert len({thing.colour for thing in things}) == count
        assert len({thing.shape for thing in things}) == len(things) == count


def test_other_scenes_repeat_a_few_kinds():
    scenes = [draw_scene(Draws("repeating", index), 4, distinct=False) for index in range(300)]
    kinds = Counter(len({thing.name for thing in scene.things}) for scene in scenes)
    assert set(kinds) == {1, 2, 3}
    assert all(len(scene.things) == 4 for scene in scenes)


def test_every_kind_size_and_tile_occurs():
    things = [thing for scene in sample_scenes(1500) for thing in scene.things]
    assert {thing.name for thing in things} == {f"{c} {s}" for c, s in product(COLOURS, SHAPES)}
    assert {(t.size, t.column, t.row) for t in things} == set(product(RADII, range(3), range(3)))


# --- the camera ---


@pytest.mark.parametrize("size", RADII)
@pytest.mark.parametrize("column", range(3))
def test_further_away_is_smaller_and_higher(column, size):
    near, middle, far = (stand(column, row, size=size).picture for row in range(3))
    assert near[2] > middle[2] > far[2]
    assert near[1] > middle[1] > far[1]


def test_one_row_behind_is_higher_whatever_the_jitter():
    for sizes, columns in product(product(RADII, repeat=2), product(range(3), repeat=2)):
        near = stand(columns[0], 0, size=sizes[0], shift=(0.0, JITTER)).picture
        far = stand(columns[1], 1, size=sizes[1], shift=(0.0, -JITTER)).picture
        assert near[1] > far[1]


def test_straight_lines_on_the_floor_are_straight_in_the_picture():
    generator = np.random.default_rng(3)
    for _ in range(50):
        start, end, share = generator.uniform(0, 2, 2), generator.uniform(0, 2, 2), generator.uniform()
        points = [
            np.array(stand(*place).picture[:2]) for place in (start, end, start + share * (end - start))
        ]
        across, along = points[1] - points[0], points[2] - points[0]
        assert abs(across[0] * along[1] - across[1] * along[0]) < 1e-12


def test_parallel_lines_meet_on_the_horizon():
    tops = []
    for column in range(3):
        (x0, y0, r0), (x1, y1, r1) = stand(column, 0).picture, stand(column, 2).picture
        reach = r0 / (r0 - r1)  # where the line through both has shrunk everything to nothing
        tops.append((x0 + reach * (x1 - x0), y0 + reach * (y1 - y0)))
    np.testing.assert_allclose(tops, [tops[0]] * 3, atol=1e-9)
    assert tops[0][0] == pytest.approx(0.5)
    assert tops[0][1] < 0


def test_width_in_the_picture_is_that_of_points_beside_the_thing():
    for column, row in product(range(3), repeat=2):
        x, y, radius = stand(column, row, size="large").picture
        edge = stand(column, row, shift=(RADII["large"], 0.0)).picture
        assert edge[0] - x == pytest.approx(radius)
        assert edge[1] == y


def test_everything_stands_inside_the_picture():
    for column, row, shift_x, shift_z in product(range(3), range(3), (-JITTER, JITTER), (-JITTER, JITTER)):
        x, y, radius = stand(column, row, size="large", shift=(shift_x, shift_z)).picture
        assert x - radius > 0
        assert x + radius < 1
        assert y - 2 * radius > 0
        assert y < 1


# --- splits ---


def test_sizes_and_jitter_do_not_change_the_split():
    for index, scene in enumerate(sample_scenes(300)):
        moved = [
            stand(
                t.column, t.row, size="large", colour=t.colour, shape=t.shape, shift=(0.01 * index % 0.1, 0.0)
            )
            for t in scene.things
        ]
        assert Scene(tuple(moved)).split == scene.split


def test_one_layout_in_ten_is_held_out():
    layouts = {
        frozenset((t.name, t.column, t.row) for t in scene.things): scene.split
        for scene in sample_scenes(6000)
    }
    held_out = Counter(layouts.values())["test"]
    assert len(layouts) > 4000
    assert within(held_out, len(layouts), 26 / 256)
