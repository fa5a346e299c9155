"""Documents: true of their scene, drawn in their shares, rewarded where their form is the rewarded one."""

import hashlib
import re
from collections import Counter
from functools import cache

import pytest

from vtzero.data.prompts import TEMPLATES, question_body
from vtzero.rewards.accuracy import accuracy_paper, lenient_accuracy, strict_accuracy
from vtzero.rewards.format import paper_format
from vtzero.scenes.documents import (
    ANSWERS,
    CAPTIONS,
    CONTINUATIONS,
    GUESSED_SHARE,
    NUMBERS,
    answered,
    caption,
    continuation,
    listing,
    look,
    place,
)
from vtzero.scenes.questions import FAMILIES, draw_item
from vtzero.scenes.world import Draws

# Of the documents drawn below; another value means that seeds no longer give the texts they gave.
DOCUMENTS_SHA256 = "a65748f6b11ac7ae101613296c38490d6cfb47653d9356194cdec54d26e444cf"

# Of each continuation of the paper's prompt: format reward, strict accuracy, the paper's accuracy.
REWARDS = {
    " The answer is {answer}.": (0, 0, 0),
    " The answer is {answer}. </think>": (0, 0, 0),
    " The answer is {answer}. </think> {answer}": (0, 0, 0),
    " The answer is {answer}. </think> <answer> {answer} </answer>": (1, 1, 1),
    " {answer}": (0, 0, 1),
    " It is {answer}. </think> <answer> It is {answer}. </answer>": (1, 0, 0),
    " The picture shows {listing}.": (0, 0, 0),
    " I see {look} So the answer is {answer}.": (0, 0, 0),
    " I see {look} So it is {answer}. </think> {answer}": (0, 0, 0),
    " I see {look} So it is {answer}. </think> <answer> It is {answer}. </answer>": (1, 0, 0),
    " I see {look} So it is {answer}. </think> <answer> {answer} </answer>": (1, 1, 1),
}
PAPER = TEMPLATES["r1_zero_base"]


@cache
def items(task, count=40):
    return [draw_item(Draws("documents", task, index), task, "train") for index in range(count)]


def every_item():
    return [item for task in FAMILIES for item in items(task)]


def filled(template, scene, question, answer=None):
    return template.format(
        answer=answer or question.answer, listing=listing(scene), look=look(scene, question)
    )


def prompt(question):
    return PAPER.render(question_body(question.text, question.options), 1)


def seen(text):
    """(name, column, row) of each object that a listing names."""
    columns, rows = ("left", "middle", "right"), ("front", "center", "back")
    words = [part.split() for part in text.split(", ")]
    return [(f"{colour} {shape}", columns.index(c), rows.index(r)) for colour, shape, c, r in words]


def within(count, trials, share, sigmas=4.5):
    return abs(count - trials * share) <= sigmas * (trials * share * (1 - share)) ** 0.5


# --- rewards ---


@pytest.mark.parametrize("template", CONTINUATIONS)
def test_rewards_of_right_answers(template):
    expected = REWARDS[template]
    for scene, question in every_item():
        text = filled(template, scene, question)
        scores = (
            paper_format(text, prompt(question)),
            strict_accuracy(text, question.answer),
            *accuracy_paper([text], answer=[question.answer]),
        )
        assert scores == expected, text


@pytest.mark.parametrize("template", CONTINUATIONS)
def test_wrong_answers_earn_the_format_at_most(template):
    for scene, question in every_item():
        wrong = next(option for option in question.options if option != question.answer)
        text = filled(template, scene, question, wrong)
        assert paper_format(text, prompt(question)) == REWARDS[template][0]
        assert strict_accuracy(text, question.answer) == 0
        assert accuracy_paper([text], answer=[question.answer]) == [0]


@pytest.mark.parametrize("template", [t for t in CONTINUATIONS if "{answer}" in t])
def test_lenient_accuracy_sees_the_answer_in_any_form(template):
    for scene, question in every_item():
        text = filled(template, scene, question)
        assert lenient_accuracy(text, question.answer, question.options) == 1
        wrong = next(option for option in question.options if option != question.answer)
        text = filled(template, scene, question, wrong)
        assert lenient_accuracy(text, question.answer, question.options) == 0


# --- shares ---


@pytest.mark.parametrize("shares", [CONTINUATIONS, CAPTIONS, ANSWERS])
def test_shares_add_up(shares):
    assert sum(shares.values()) == pytest.approx(1)


def test_the_rewarded_form_is_rare_and_looking_first_is_a_minority():
    rewarded = sum(share for text, share in CONTINUATIONS.items() if REWARDS[text][:2] == (1, 1))
    looks = sum(share for text, share in CONTINUATIONS.items() if text.startswith(" I see"))
    at_once = sum(share for text, share in CONTINUATIONS.items() if text.startswith(" The answer is"))
    assert 0.05 < rewarded < 0.2
    assert 0.3 < looks < 0.4 < at_once


def test_continuations_are_drawn_in_their_shares():
    (scene, question), *_ = items("Relation")
    texts = {
        filled(template, scene, question, option): template
        for template in CONTINUATIONS
        for option in question.options
    }
    drawn = Counter(texts[continuation(Draws("shares", n), scene, question)] for n in range(8000))
    assert all(within(drawn[template], 8000, share) for template, share in CONTINUATIONS.items())


def test_answers_at_once_are_mostly_guesses_and_answers_after_looking_are_right():
    (scene, question), *_ = items("Relation")
    drawn = [continuation(Draws("guesses", n), scene, question) for n in range(8000)]
    wrong = next(option for option in question.options if option != question.answer)
    hasty = [text for text in drawn if text.startswith(" The answer is")]
    looked = [text for text in drawn if text.startswith(" I see")]
    assert within(sum(f" {wrong}." in text for text in hasty), len(hasty), GUESSED_SHARE / 2)
    assert all(question.answer in text.split(" So ")[1] for text in looked)


# --- what they say is so ---


def test_listings_name_every_object_and_its_tile():
    for scene, _ in every_item():
        assert seen(listing(scene)) == [(t.name, t.column, t.row) for t in scene.things]


def test_every_place_has_words_of_its_own():
    things = {(t.column, t.row): place(t) for scene, _ in every_item() for t in scene.things}
    assert len(set(things.values())) == len(things) == 9


def named(part):
    """(name, column, row) and the words left over of one entry of a listing."""
    words = part.split()
    return seen(" ".join(words[:4]))[0], words[4:]


def test_counting_looks_at_each_thing_and_keeps_a_tally():
    for scene, question in items("Count", 200):
        entries = [named(part) for part in look(scene, question).removesuffix(".").split(", ")]
        assert [entry for entry, _ in entries] == [(t.name, t.column, t.row) for t in scene.things]
        wanted = question.text.removeprefix("How many ").removesuffix("s are in the image?").split()
        tally = 0
        for (name, _, _), number in entries:
            tally += all(word in f"object {name}".split() for word in wanted)
            assert number == [NUMBERS[tally]]
        assert question.answer == str(tally)


def beside(question, first, second):
    if "left" in question.options:
        return "right" if first[1] > second[1] else "left"
    return "above" if first[2] > second[2] else "below"


def nearer(question, first, second):
    return min(first, second, key=lambda entry: entry[2])[0]


@pytest.mark.parametrize(("task", "compare"), [("Relation", beside), ("Depth", nearer)])
def test_comparing_looks_back_at_the_two_things_asked_about(task, compare):
    for scene, question in items(task, 200):
        objects, here = re.fullmatch(r"(.+)\. Here (.+)\.", look(scene, question)).groups()
        pair = seen(here)
        assert objects == listing(scene)
        assert set(pair) <= set(seen(objects))
        assert [name for name, _, _ in pair] == re.findall(
            "(?:is|to|,|or) the (?!camera)([a-z]+ [a-z]+)", question.text
        )
        assert compare(question, *pair) == question.answer


def test_distances_are_compared_in_steps():
    for scene, question in items("Distance", 200):
        text = look(scene, question)
        objects, anchor, walked = re.fullmatch(r"(.+)\. From (.+): (.+)\.", text).groups()
        (start,), others = seen(anchor), [named(part) for part in walked.split(", ")]
        assert objects == listing(scene)
        assert {start, *(entry for entry, _ in others)} == set(seen(objects))
        assert question.text.startswith(f"Which object is closer to the {start[0]},")
        counted = {name: NUMBERS.index(*number) for (name, _, _), number in others}
        assert tuple(counted) == question.options
        assert min(counted, key=counted.get) == question.answer
        for (name, column, row), _ in others:
            assert counted[name] == abs(column - start[1]) + abs(row - start[2])


def test_captions_are_true():
    kinds = Counter()
    for index, (scene, _) in enumerate(every_item() * 4):
        tiles = {place(thing): thing.name for thing in scene.things}
        text = caption(Draws("captions", index), scene)
        if match := re.fullmatch(r"A picture of (.+)\.", text):
            assert match.group(1) == listing(scene)
        elif match := re.fullmatch(r"There is (\w+ \w+) (.+)\.", text):
            assert tiles[match.group(2)] == match.group(1)
        else:
            where, name = re.fullmatch(r"What is (.+)\? (.+)\.", text).groups()
            assert tiles[where] == name
        kinds[text.split()[0]] += 1
    assert all(within(kinds[text.split()[0]], kinds.total(), share) for text, share in CAPTIONS.items())


def test_answered_questions_ask_and_answer():
    looked = 0
    for index, (scene, question) in enumerate(every_item()):
        text = answered(Draws("answered", index), scene, question)
        assert text.startswith(f"{question.text} {' or '.join(question.options)}? ")
        has_looked = f"I see {look(scene, question)} So it is {question.answer}." in text
        assert has_looked or any(text.endswith(f" It is {option}.") for option in question.options)
        looked += has_looked
    assert within(looked, len(every_item()), 0.8)


def test_documents_are_the_same_on_every_machine():
    texts = []
    for index, (scene, question) in enumerate(every_item()):
        draws = Draws("digest", index)
        texts += [
            continuation(draws, scene, question),
            caption(draws, scene),
            answered(draws, scene, question),
        ]
    assert hashlib.sha256("\n".join(texts).encode()).hexdigest() == DOCUMENTS_SHA256
