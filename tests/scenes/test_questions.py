"""Questions: answers derived again from the scene and the words alone, clear by a margin, evenly spread."""

import hashlib
import math
import re
from collections import Counter
from functools import cache
from itertools import product

import pytest

from vtzero.scenes.questions import FAMILIES, ask, distance, draw_item, draw_task_scene, steps
from vtzero.scenes.world import Draws, Scene, Thing

# Of the questions drawn below; another value means that seeds no longer give the questions they gave.
QUESTIONS_SHA256 = "2dda5127b0a5c626da33af7912afef547699b888052bb1348394e5325086ada7"
ITEMS = 400


@cache
def items(task, split="train", count=ITEMS):
    return [draw_item(Draws("questions", split, task, index), task, split) for index in range(count)]


def all_items():
    return [item for task in FAMILIES for split in ("train", "test") for item in items(task, split)]


def within(count, trials, share, sigmas=4.5):
    return abs(count - trials * share) <= sigmas * (trials * share * (1 - share)) ** 0.5


def thing_called(scene, name):
    (only,) = [thing for thing in scene.things if f"{thing.colour} {thing.shape}" == name]
    return only


def floor(thing):
    """Where a thing stands, in tiles to the right of the middle column and behind the front row."""
    return thing.column - 1 + thing.shift_x, thing.row + thing.shift_z


def apart(one, other):
    return math.dist(floor(one), floor(other))


def stand(name, column, row, shift=(0.0, 0.0)):
    return Thing(*name.split(), "small", column, row, *shift)


# --- answers from the words and the scene alone ---


def test_counts_are_counts_of_a_list():
    for scene, question in items("Count") + items("Count", "test"):
        wanted = re.fullmatch(r"How many (.+)s are in the image\?", question.text).group(1).split()
        listed = [t for t in scene.things if all(word in ("object", t.colour, t.shape) for word in wanted)]
        assert question.answer == str(len(listed))
        assert list(question.subjects) == listed


def test_relations_compare_places_on_the_floor():
    pattern = r"Considering the relative positions, where is the (.+) with respect to the (.+)\?"
    for scene, question in items("Relation") + items("Relation", "test"):
        names = re.fullmatch(pattern, question.text).groups()
        first, second = (thing_called(scene, name) for name in names)
        right, behind = (a - b for a, b in zip(floor(first), floor(second), strict=True))
        answers = {"left": -right, "right": right, "above": behind, "below": -behind}
        assert answers[question.answer] >= 0.5
        assert set(question.options) in ({"left", "right"}, {"above", "below"})
        assert question.subjects == (first, second)


def test_depths_compare_distances_to_the_camera():
    pattern = r"Which object is closer to the camera taking this photo, the (.+) or the (.+)\?"
    for scene, question in items("Depth") + items("Depth", "test"):
        names = re.fullmatch(pattern, question.text).groups()
        near, far = sorted((thing_called(scene, name) for name in names), key=lambda t: floor(t)[1])
        assert question.answer == near.name
        assert floor(far)[1] - floor(near)[1] >= 0.5
        assert question.options == names


def test_distances_compare_distances_on_the_floor():
    pattern = r"Which object is closer to the (.+), the (.+) or the (.+)\?"
    for scene, question in items("Distance") + items("Distance", "test"):
        names = re.fullmatch(pattern, question.text).groups()
        anchor, *others = (thing_called(scene, name) for name in names)
        near, far = sorted(others, key=lambda thing: apart(thing, anchor))
        assert question.answer == near.name
        assert apart(far, anchor) >= 1.3 * apart(near, anchor)
        assert question.options == names[1:]
        assert [thing.name for thing in question.subjects] == list(names)


def test_the_nearer_is_fewer_steps_away():
    for _, question in items("Distance"):
        anchor, *others = question.subjects
        walked = {t.name: abs(t.column - anchor.column) + abs(t.row - anchor.row) for t in others}
        assert min(walked, key=walked.get) == question.answer
        assert len(set(walked.values())) == 2


def test_distance_and_steps():
    one, other = stand("red cube", 0, 0), stand("blue ball", 2, 1, shift=(0.1, -0.1))
    assert distance(one, other) == pytest.approx(math.hypot(2.1, 0.9))
    assert distance(one, other) == distance(other, one)
    assert steps(one, other) == steps(other, one) == 3


# --- what is not clear is not asked ---


def asked(scene, task):
    questions = [ask(Draws("asked", index), scene, task) for index in range(80)]
    return [question for question in questions if question is not None]


def test_things_side_by_side_have_no_depth():
    beside = Scene((stand("red cube", 0, 1), stand("blue ball", 1, 1, shift=(0.0, 0.1))))
    assert asked(beside, "Depth") == []
    assert {question.answer for question in asked(beside, "Relation")} == {"left", "right"}


def test_things_in_one_column_are_not_left_or_right():
    column = Scene((stand("red cube", 1, 0, shift=(0.1, 0.0)), stand("blue ball", 1, 2)))
    assert {question.answer for question in asked(column, "Relation")} == {"above", "below"}
    assert {question.answer for question in asked(column, "Depth")} == {"red cube"}


def test_equal_distances_are_not_compared():
    row = [stand("red cube", 0, 0), stand("blue ball", 1, 0), stand("green cone", 2, 0)]
    questions = asked(Scene(tuple(row)), "Distance")
    assert questions
    assert all(question.subjects[0].name != "blue ball" for question in questions)
    assert {question.answer for question in questions} == {"blue ball"}


def test_two_things_have_no_distance_to_compare():
    assert asked(Scene((stand("red cube", 0, 0), stand("blue ball", 1, 2))), "Distance") == []


# --- options ---


def test_options_hold_the_answer_once():
    for _, question in all_items():
        assert question.options.count(question.answer) == 1
        assert len(set(question.options)) == len(question.options) == (3 if question.task == "Count" else 2)


def test_count_options_ascend_from_zero_to_four():
    for _, question in items("Count"):
        numbers = [int(option) for option in question.options]
        assert numbers == sorted(numbers)
        assert set(numbers) <= {0, 1, 2, 3, 4}


@pytest.mark.parametrize("task", ["Relation", "Depth", "Distance"])
def test_the_right_option_is_as_often_first_as_second(task):
    drawn = items(task, count=2000)
    first = sum(question.options[0] == question.answer for _, question in drawn)
    assert within(first, len(drawn), 1 / 2)


def test_all_relations_are_as_frequent_in_either_place():
    drawn = [question for _, question in items("Relation", count=2000)]
    answers = Counter((question.answer, question.options.index(question.answer)) for question in drawn)
    assert set(answers) == set(product(("left", "right", "above", "below"), (0, 1)))
    assert all(within(count, 2000, 1 / 8) for count in answers.values())


def test_every_count_occurs_and_none_is_a_safe_guess():
    answers = Counter(question.answer for _, question in items("Count", count=2000))
    assert set(answers) == {"0", "1", "2", "3", "4"}
    assert max(answers.values()) < 0.37 * 2000
    assert min(answers.values()) > 0.06 * 2000
    places = Counter(question.options.index(question.answer) for _, question in items("Count", count=2000))
    assert max(places.values()) < 0.47 * 2000
    assert min(places.values()) > 0.2 * 2000


def test_every_way_to_count_occurs():
    lengths = Counter(len(question.text.split()) for _, question in items("Count"))
    assert set(lengths) == {7, 8}
    plain = Counter(question.text for _, question in items("Count"))
    assert within(plain["How many objects are in the image?"], ITEMS, 1 / 4)


# --- items ---


def test_questions_are_the_same_on_every_machine():
    text = "\n".join(
        f"{q.task}|{q.text}|{'/'.join(q.options)}|{q.answer}|{','.join(t.name for t in q.subjects)}"
        for _, q in all_items()
    )
    assert hashlib.sha256(text.encode()).hexdigest() == QUESTIONS_SHA256


def layouts(split):
    return {
        frozenset((thing.name, thing.column, thing.row) for thing in scene.things)
        for task in FAMILIES
        for scene, _ in items(task, split, 2000 if split == "train" else 600)
    }


def test_no_layout_is_in_both_splits():
    train, test = layouts("train"), layouts("test")
    assert len(train) > 6000
    assert len(test) > 1500
    assert not train & test


def test_items_are_of_their_split_and_family():
    for split in ("train", "test"):
        for task in FAMILIES:
            for scene, question in items(task, split):
                assert scene.split == split
                assert question.task == task


@pytest.mark.parametrize(
    ("task", "counts"), [("Count", {1, 2, 3, 4}), ("Relation", {2, 3}), ("Depth", {2, 3}), ("Distance", {3})]
)
def test_scenes_suit_their_family(task, counts):
    scenes = [draw_task_scene(Draws("suited", task, index), task) for index in range(200)]
    assert {len(scene.things) for scene in scenes} == counts
    if task != "Count":
        assert all(len({t.name for t in scene.things}) == len(scene.things) for scene in scenes)
