"""Questions about a scene in CV-Bench's four families, with answers computed from its geometry.

A question is asked only where its answer is clear by a margin; words follow SAT and CV-Bench.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from vtzero.scenes.world import COLOURS, SHAPES, Draws, Scene, Split, Thing, draw_scene

FAMILIES = ("Count", "Relation", "Depth", "Distance")
COUNT_LIMIT = 4
DISTANCE_RATIO = 1.3
RELATION_MARGIN = 0.5  # tiles


@dataclass(frozen=True)
class Question:
    """A question of `task`, its options in the order shown, and the option that is right.

    `subjects` are the objects it speaks of (Count: those counted), for explanations.
    """

    task: str
    text: str
    options: tuple[str, ...]
    answer: str
    subjects: tuple[Thing, ...]


def ask(draws: Draws, scene: Scene, task: str) -> Question | None:
    """A question of the given family about the scene, or None if the scene has no clear one."""
    return _FAMILIES[task](draws, scene)


def draw_item(draws: Draws, task: str, split: Split) -> tuple[Scene, Question]:
    """A scene of the split and a clear question of the family about it."""
    while True:
        scene = draw_task_scene(draws, task)
        if scene.split == split and (question := ask(draws, scene, task)) is not None:
            return scene, question


def draw_task_scene(draws: Draws, task: str) -> Scene:
    """A scene of the kind that the family asks about: repeated kinds to count, distinct ones to compare."""
    if task == "Count":
        return draw_scene(draws, 1 + draws.below(COUNT_LIMIT), distinct=False)
    return draw_scene(draws, 3 if task == "Distance" else 2 + draws.below(2), distinct=True)


def _count(draws: Draws, scene: Scene) -> Question:
    near = draws.choice(scene.things)
    colour = near.colour if draws.number() < 0.7 else draws.choice(COLOURS)
    shape = near.shape if draws.number() < 0.7 else draws.choice(SHAPES)
    kind = draws.choice(("all", "colour", "shape", "both"))
    wanted: dict[str, tuple[str, Callable[[Thing], bool]]] = {
        "all": ("objects", lambda t: True),
        "colour": (f"{colour} objects", lambda t: t.colour == colour),
        "shape": (f"{shape}s", lambda t: t.shape == shape),
        "both": (f"{colour} {shape}s", lambda t: (t.colour, t.shape) == (colour, shape)),
    }
    words, matches = wanted[kind]
    counted = tuple(t for t in scene.things if matches(t))
    wrong = draws.shuffled([n for n in range(COUNT_LIMIT + 1) if n != len(counted)])[:2]
    options = tuple(str(n) for n in sorted([*wrong, len(counted)]))
    return Question("Count", f"How many {words} are in the image?", options, str(len(counted)), counted)


def _relation(draws: Draws, scene: Scene) -> Question | None:
    first, second = draws.shuffled(scene.things)[:2]
    beside = draws.number() < 0.5
    axis, options = (0, ("left", "right")) if beside else (1, ("below", "above"))
    difference = first.ground[axis] - second.ground[axis]
    if abs(difference) < RELATION_MARGIN:
        return None
    text = f"Considering the relative positions, where is the {first.name} with respect to the {second.name}?"
    answer = options[difference > 0]
    return Question("Relation", text, tuple(draws.shuffled(options)), answer, (first, second))


def _depth(draws: Draws, scene: Scene) -> Question | None:
    first, second = draws.shuffled(scene.things)[:2]
    if abs(first.ground[1] - second.ground[1]) < RELATION_MARGIN:
        return None
    answer = min(first, second, key=lambda t: t.ground[1]).name
    text = f"Which object is closer to the camera taking this photo, the {first.name} or the {second.name}?"
    return Question("Depth", text, (first.name, second.name), answer, (first, second))


def _distance(draws: Draws, scene: Scene) -> Question | None:
    if len(scene.things) < 3:
        return None
    anchor, first, second = draws.shuffled(scene.things)[:3]
    near, far = sorted((first, second), key=lambda t: distance(t, anchor))
    if distance(far, anchor) < DISTANCE_RATIO * distance(near, anchor):
        return None
    if steps(far, anchor) <= steps(near, anchor):
        return None
    text = f"Which object is closer to the {anchor.name}, the {first.name} or the {second.name}?"
    return Question("Distance", text, (first.name, second.name), near.name, (anchor, first, second))


def distance(one: Thing, other: Thing) -> float:
    """Distance on the floor between two objects, in tiles."""
    return math.hypot(one.ground[0] - other.ground[0], one.ground[1] - other.ground[1])


def steps(one: Thing, other: Thing) -> int:
    """Tiles to walk from one object to the other, along rows and columns."""
    return abs(one.column - other.column) + abs(one.row - other.row)


_FAMILIES: dict[str, Callable[[Draws, Scene], Question | None]] = {
    "Count": _count,
    "Relation": _relation,
    "Depth": _depth,
    "Distance": _distance,
}
