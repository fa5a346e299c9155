"""Scenes: which objects stand where, and where a pinhole camera sees them.

Geometry only: no pictures, no words beyond the names of colours and shapes. A scene is drawn from a
stream of `random.Random.random()`, the one method whose sequence Python promises to keep, with
elementary arithmetic alone, so that a seed gives the same scene on any machine.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")
Split = Literal["train", "test"]

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("cube", "ball", "cone")
COLUMNS = ("left", "middle", "right")
ROWS = ("front", "center", "back")

# The camera, in units of one floor tile and of the picture's side: it looks down into a room, so that three
# columns fill the front edge, objects of the back row are still 13 pixels wide at 84 pixels, and rows stand
# far enough apart that none is hidden altogether. The horizon is above the picture.
FOCAL_LENGTH = 1.24
FRONT_DISTANCE = 4.0
WALL_DISTANCE = 7.6
HORIZON = -0.71
CAMERA_DROP = 6.36
RADII = {"small": 0.34, "large": 0.42}
JITTER = 0.12
HELD_OUT_SHARE = 10  # one layout in ten


class Draws:
    """Choices made from one reproducible stream of numbers in [0, 1)."""

    def __init__(self, *seed: object):
        self._stream = random.Random("/".join(map(str, seed)))

    def number(self) -> float:
        """A number in [0, 1)."""
        return self._stream.random()

    def below(self, count: int) -> int:
        """An integer in [0, count)."""
        return int(self.number() * count)

    def choice(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """All items in random order (Fisher-Yates)."""
        mixed = list(items)
        for last in range(len(mixed) - 1, 0, -1):
            other = self.below(last + 1)
            mixed[last], mixed[other] = mixed[other], mixed[last]
        return mixed

    def weighted(self, weights: dict[T, float]) -> T:
        """A key, with probability proportional to its weight."""
        left = self.number() * sum(weights.values())
        for key, weight in weights.items():
            left -= weight
            if left < 0:
                return key
        return key


@dataclass(frozen=True)
class Thing:
    """One object on the floor; `column` and `row` count tiles from the left and from the camera."""

    colour: str
    shape: str
    size: str
    column: int
    row: int
    shift_x: float
    shift_z: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def ground(self) -> tuple[float, float]:
        """(right of the camera, away from the camera), in tiles."""
        return self.column - 1 + self.shift_x, FRONT_DISTANCE + self.row + self.shift_z

    @property
    def radius(self) -> float:
        """Half the object's width, in tiles."""
        return RADII[self.size]

    @property
    def picture(self) -> tuple[float, float, float]:
        """(x, y, radius) in units of the picture's side; (x, y) is where the thing touches the floor."""
        x, distance = self.ground
        scale = FOCAL_LENGTH / distance
        return 0.5 + x * scale, HORIZON + CAMERA_DROP / distance, self.radius * scale


@dataclass(frozen=True)
class Scene:
    """Objects sorted from left to right, and within a column from front to back."""

    things: tuple[Thing, ...]

    @property
    def split(self) -> Split:
        """Train or test by a hash of the layout, so that no layout is ever in both."""
        layout = ";".join(f"{t.name} {t.column} {t.row}" for t in self.things)
        digest = hashlib.sha256(layout.encode()).digest()
        return "test" if digest[0] % HELD_OUT_SHARE == 0 else "train"


def draw_scene(draws: Draws, count: int, *, distinct: bool) -> Scene:
    """`count` objects on different tiles; with `distinct` (at most three), none shares a colour or shape."""
    tiles = draws.shuffled([(c, r) for c in range(len(COLUMNS)) for r in range(len(ROWS))])[:count]
    chosen = _distinct(draws, count) if distinct else _repeating(draws, count)
    things = [_thing(draws, kind, tile) for kind, tile in zip(chosen, tiles, strict=True)]
    return Scene(tuple(sorted(things, key=lambda t: (t.column, t.row))))


def _distinct(draws: Draws, count: int) -> list[tuple[str, str]]:
    colours, shapes = draws.shuffled(COLOURS)[:count], draws.shuffled(SHAPES)[:count]
    return list(zip(colours, shapes, strict=True))


def _repeating(draws: Draws, count: int) -> list[tuple[str, str]]:
    kinds = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    # A few kinds, repeated: otherwise nearly every count would be 0 or 1.
    pool = draws.shuffled(kinds)[: 1 + draws.below(3)]
    return [draws.choice(pool) for _ in range(count)]


def _thing(draws: Draws, kind: tuple[str, str], tile: tuple[int, int]) -> Thing:
    shift_x, shift_z = ((2 * draws.number() - 1) * JITTER for _ in range(2))
    return Thing(*kind, draws.choice(tuple(RADII)), *tile, shift_x, shift_z)
