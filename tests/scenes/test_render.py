"""Pictures: the same bytes on every machine, in perspective, near things before far ones, with smooth edges.

What a thing covers is found by comparing pictures with and without it, not by the renderer's own shapes.
"""

import hashlib
from colorsys import rgb_to_hsv
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from vtzero.scenes.render import NOISE, PALETTE, render
from vtzero.scenes.world import COLOURS, JITTER, RADII, SHAPES, Draws, Scene, Thing, draw_scene

# Of the pictures drawn below; another value means that seeds no longer give the pictures they gave.
PICTURES_SHA256 = "0c43e6fcbaae6672bce544d7c8620da378c7b3bd9a6f8a1eaf53a528884b3283"
SIDE = 84
KINDS = list(product(COLOURS, SHAPES))


def stand(column=1, row=1, *, colour="red", shape="ball", size="large", shift=(0.0, 0.0)):
    return Thing(colour, shape, size, column, row, *shift)


def picture(*things, side=SIDE, noise_seed=0):
    return render(Scene(things), side, noise_seed).astype(int)


def covered(thing, side=SIDE):
    """Where a thing alone changes the picture by more than rounding."""
    return np.abs(picture(thing, side=side) - picture(side=side)).max(-1) > 1


def extent(mask):
    rows, columns = np.nonzero(mask)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def drawn_scene(index):
    draws = Draws("pictures", index)
    return draw_scene(draws, 1 + draws.below(4), distinct=False)


# --- the same everywhere ---


def test_pictures_are_the_same_on_every_machine():
    digest = hashlib.sha256()
    for index in range(60):
        digest.update(render(drawn_scene(index), SIDE, noise_seed=index).tobytes())
    assert digest.hexdigest() == PICTURES_SHA256


@pytest.mark.parametrize("side", [28, 56, 84, 140])
def test_shape_and_type(side):
    pixels = render(drawn_scene(0), side)
    assert pixels.shape == (side, side, 3)
    assert pixels.dtype == np.uint8


def test_threads_draw_the_same_pictures():
    alone = [render(drawn_scene(index), SIDE, index) for index in range(40)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda index: render(drawn_scene(index), SIDE, index), range(40)))
    np.testing.assert_array_equal(together, alone)


def test_a_scene_leaves_nothing_behind():
    before = picture()
    picture(stand(0, 0), stand(2, 2))
    np.testing.assert_array_equal(picture(), before)


# --- noise ---


def test_noise_is_small_even_and_follows_its_seed():
    many = np.stack([picture(stand(), noise_seed=seed) for seed in range(60)])
    spread = many.max(0) - many.min(0)
    assert spread.max() <= 2 * NOISE
    assert np.median(spread) == 2 * NOISE
    np.testing.assert_array_equal(many[7], picture(stand(), noise_seed=7))
    assert abs(many[0] - many[1]).mean() > 1


def test_noise_does_not_shift_colours():
    many = np.stack([picture(noise_seed=seed) for seed in range(60)])
    halves = many[:30].mean(0) - many[30:].mean(0)
    deviation = np.sqrt(((2 * NOISE + 1) ** 2 - 1) / 12)  # of even noise on whole numbers
    assert halves.std() == pytest.approx(deviation * np.sqrt(2 / 30), rel=0.05)
    assert abs(halves.mean()) < 0.05


# --- perspective ---


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("column", range(3))
def test_further_away_is_smaller_and_higher(column, shape):
    masks = [covered(stand(column, row, shape=shape)) for row in range(3)]
    areas = [mask.sum() for mask in masks]
    heights = [np.nonzero(mask)[0].mean() for mask in masks]
    assert areas[0] > areas[1] > areas[2] >= 60
    assert heights[0] > heights[1] > heights[2]


@pytest.mark.parametrize("shape", SHAPES)
def test_area_falls_with_the_square_of_the_distance(shape):
    near, far = (covered(stand(1, row, shape=shape), side=280).sum() for row in (0, 2))
    assert near / far == pytest.approx((6 / 4) ** 2, rel=0.05)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("row", range(3))
def test_columns_are_left_to_right(row, shape):
    centres = [np.nonzero(covered(stand(column, row, shape=shape)))[1].mean() for column in range(3)]
    assert centres[0] + 8 < centres[1] < centres[2] - 8


def test_things_are_where_the_camera_sees_them():
    for shape, column, row in product(SHAPES, range(3), range(3)):
        thing = stand(column, row, shape=shape)
        x, y, radius = (SIDE * number for number in thing.picture)
        left, top, right, bottom = extent(covered(thing))
        assert (left + right) / 2 == pytest.approx(x, abs=1.5)
        assert 1.6 * radius < right - left <= 2 * radius + 2
        assert top < y - 1.2 * radius
        assert y - 1 <= bottom <= y + 0.5 * radius + 1


def test_large_things_are_larger():
    for shape, row in product(SHAPES, range(3)):
        large, small = (covered(stand(1, row, shape=shape, size=size)).sum() for size in ("large", "small"))
        assert large > 1.2 * small


# --- occlusion ---


@pytest.mark.parametrize("hidden", SHAPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_near_thing_hides_the_far_one(shape, hidden):
    near = stand(1, 1, shape=shape, shift=(0.0, JITTER))
    far = stand(1, 2, shape=hidden, colour="blue", shift=(0.0, -JITTER))
    inside = covered(near) & binary_erosion(covered(near), np.ones((3, 3)))
    overlap = inside & covered(far)
    both = picture(near, far)
    assert overlap.sum() > 5
    np.testing.assert_array_equal(both[inside], picture(near)[inside])
    assert np.abs(both - picture(far)).max(-1)[overlap].mean() > 30
    np.testing.assert_array_equal(both[~covered(near)], picture(far)[~covered(near)])


def test_the_order_of_the_list_does_not_matter():
    for index in range(20):
        things = drawn_scene(index).things
        np.testing.assert_array_equal(picture(*things), picture(*reversed(things)))


def test_nothing_is_hidden_altogether():
    # The worst place: straight behind a large thing, as near to it as the jitter allows.
    for shape, hidden, (row, behind) in product(SHAPES, SHAPES, ((0, 1), (1, 2))):
        near = stand(1, row, shape=shape, shift=(0.0, JITTER))
        far = stand(1, behind, shape=hidden, colour="blue", size="small", shift=(0.0, -JITTER))
        seen = np.abs(picture(near, far) - picture(near)).max(-1) > 12
        assert seen.sum() > 0.45 * covered(far).sum()


# --- edges and colours ---


@pytest.mark.parametrize("shape", SHAPES)
def test_a_pixel_is_the_mean_of_what_it_covers(shape):
    for row in range(3):
        thing = stand(1, row, colour="blue", shape=shape)
        fine = picture(thing, side=4 * SIDE)
        mean = fine.reshape(SIDE, 4, SIDE, 4, 3).mean(axis=(1, 3))
        off, off_without = (np.abs(pixels - mean) for pixels in (picture(thing), fine[2::4, 2::4]))
        assert off.max() < 32
        assert off_without.max() > 45


def test_slanted_edges_take_many_values():
    thing = stand(1, 0, colour="blue", shape="cone")
    change, mask = picture()[..., 0] - picture(thing)[..., 0], covered(thing)
    _, top, _, bottom = extent(mask)
    # Half the height: above it, the cone's side; below it, its foot.
    changes = [change[row, np.flatnonzero(mask[row])[0]] for row in range(top, (top + bottom) // 2)]
    assert len({change // 8 for change in changes}) > 3


@pytest.mark.parametrize(("colour", "shape"), KINDS)
def test_things_have_their_colour(colour, shape):
    for row, column in product(range(3), range(3)):
        thing = stand(column, row, colour=colour, shape=shape, size="small")
        pixels = picture(thing)[covered(thing)]
        distances = {name: hue_difference(pixels, shade) for name, shade in PALETTE.items()}
        votes = dict.fromkeys(PALETTE, 0)
        for nearest in np.array(list(PALETTE))[np.argmin(list(distances.values()), axis=0)]:
            votes[nearest] += 1
        assert max(votes, key=votes.get) == colour


def test_colours_are_what_they_are_called():
    hues = {"red": 0, "orange": 30, "yellow": 55, "green": 120, "blue": 230, "purple": 285}
    for colour, shade in PALETTE.items():
        hue, *_ = rgb_to_hsv(*shade)
        assert min(hues, key=lambda name: abs((360 * hue - hues[name] + 180) % 360 - 180)) == colour


def hue_difference(pixels, shade):
    """How far each pixel is from any brightness of a colour, pale and dark pixels being far from all."""
    shade = np.array(shade) / np.linalg.norm(shade)
    return np.linalg.norm(pixels - (pixels @ shade)[:, None] * shade, axis=1)


def test_shapes_differ_in_outline():
    for row, size in product(range(3), RADII):
        masks = [covered(stand(1, row, shape=shape, size=size)) for shape in SHAPES]
        for one, other in ((0, 1), (0, 2), (1, 2)):
            shared = (masks[one] & masks[other]).sum() / (masks[one] | masks[other]).sum()
            assert shared < 0.85
