"""Pictures of scenes: perspective, far objects drawn first, anti-aliased by 4x4 samples a pixel.

Only +, -, *, / and comparisons on float64 are used, which are exact by IEEE 754, so the same scene has the
same bytes on any machine.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, UInt8

from vtzero.scenes.world import (
    CAMERA_DROP,
    FOCAL_LENGTH,
    FRONT_DISTANCE,
    HORIZON,
    WALL_DISTANCE,
    Scene,
    Thing,
)

SAMPLES = 4
NOISE = 4  # a pixel is up to this many grey levels off
PALETTE = {
    "red": (205, 40, 40),
    "green": (40, 160, 60),
    "blue": (45, 75, 210),
    "yellow": (235, 215, 50),
    "purple": (140, 50, 165),
    "orange": (245, 135, 30),
}
WALL = (196, 208, 220)
FLOOR = ((168, 160, 150), (140, 133, 125))

WHITE = np.array((245.0, 245.0, 245.0))
BLACK = np.array((25.0, 25.0, 25.0))

# Where a shape is, how light its colour is there, and how much of it is painted white (> 0) or black (< 0):
# cubes have a white lid and cones a black band, so that shapes can be told apart in any colour at 13 pixels.
Shade = tuple[
    Bool[np.ndarray, "height width"], Float[np.ndarray, "height width"], Float[np.ndarray, "height width"]
]


def render(scene: Scene, side: int, noise_seed: int = 0) -> UInt8[np.ndarray, "side side 3"]:
    """The scene as seen by its camera, `side` pixels square; light falls from the left."""
    x, y = _sample_points(side)
    canvas = _background(side).copy()
    for thing in sorted(scene.things, key=lambda t: -t.ground[1]):
        _paint(canvas, x, y, thing)
    parts = [canvas[row::SAMPLES, column::SAMPLES] for row in range(SAMPLES) for column in range(SAMPLES)]
    return _add_noise(sum(parts[1:], parts[0]) / SAMPLES**2, noise_seed)


def _sample_points(side: int) -> tuple[np.ndarray, np.ndarray]:
    centres = (np.arange(side * SAMPLES) + 0.5) / (side * SAMPLES)
    return centres[None, :], centres[:, None]


@lru_cache(maxsize=4)
def _background(side: int) -> Float[np.ndarray, "height width 3"]:
    x, y = np.broadcast_arrays(*_sample_points(side))
    distance = CAMERA_DROP / (y - HORIZON)
    across = (x - 0.5) * distance / FOCAL_LENGTH
    tile = (np.floor(across + 0.5) + np.floor(distance - FRONT_DISTANCE + 0.5)) % 2
    floor = np.where(tile[..., None] == 0, np.array(FLOOR[0], float), np.array(FLOOR[1], float))
    # The light fades to the right: a cue for where in the picture a patch lies, as in a real room.
    light = 1.12 - 0.3 * x
    is_floor = (distance < WALL_DISTANCE)[..., None]
    return np.where(is_floor, floor, np.array(WALL, float)) * light[..., None]


def _paint(canvas: np.ndarray, x: np.ndarray, y: np.ndarray, thing: Thing) -> None:
    centre, foot, radius = thing.picture
    fine = canvas.shape[0]
    top, bottom = (int(fine * edge) for edge in (foot - 2.3 * radius, foot + 0.5 * radius))
    left, right = (int(fine * edge) for edge in (centre - 1.2 * radius, centre + 1.2 * radius))
    rows, columns = slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0))
    window = (rows, columns)
    u, v = np.broadcast_arrays((x[:, columns] - centre) / radius, (foot - y[rows]) / radius)
    inside, light, paint = _SHAPES[thing.shape](u, v)
    shaded = np.array(PALETTE[thing.colour], float) * light[..., None]
    painted = np.where(paint[..., None] > 0, WHITE, BLACK)
    cover = np.abs(paint)[..., None]
    canvas[window] = np.where(inside[..., None], shaded * (1 - cover) + painted * cover, canvas[window])


def _cube(u: np.ndarray, v: np.ndarray) -> Shade:
    front = (np.abs(u + 0.12) <= 0.82) & (v >= -0.2) & (v <= 1.2)
    slant = (v - 1.2) * 0.4
    top = (v > 1.2) & (v <= 1.85) & (np.abs(u + 0.12 - slant) <= 0.82)
    rise = (u - 0.7) / 0.4
    side = (u > 0.7) & (u <= 0.96) & (v >= -0.2 + rise) & (v <= 1.2 + rise)
    light = np.where(side & ~front, 0.6, 0.95)
    return front | top | side, light, np.where(top, 0.85, 0.0)


def _ball(u: np.ndarray, v: np.ndarray) -> Shade:
    centred = v - 0.8
    inside = u * u + centred * centred <= 0.85
    bright = (u + 0.35) * (u + 0.35) + (centred - 0.35) * (centred - 0.35)
    return inside, np.maximum(1.25 - 0.35 * bright, 0.5), np.zeros_like(u)


def _cone(u: np.ndarray, v: np.ndarray) -> Shade:
    body = (v >= 0) & (v <= 2.2) & (np.abs(u) <= 0.9 - v * 0.9 / 2.2)
    base = u * u / 0.81 + (v / 0.3) * (v / 0.3) <= 1.0
    return body | base, 0.95 - 0.3 * u, np.where((v >= 0.35) & (v <= 1.0), -0.9, 0.0)


def _add_noise(pixels: np.ndarray, seed: int) -> UInt8[np.ndarray, "side side 3"]:
    bits = np.random.Philox(key=seed).random_raw(pixels.size).reshape(pixels.shape)
    noise = (bits % np.uint64(2 * NOISE + 1)).astype(np.float64) - NOISE
    return np.clip(np.floor(pixels + noise + 0.5), 0, 255).astype(np.uint8)


_SHAPES = {"cube": _cube, "ball": _ball, "cone": _cone}
