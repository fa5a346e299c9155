"""What the tiny base model is taught: short texts about scenes, and answers in many formats.

Like the text a real base model has read, the mixture holds quick answers and answers that look first, with
and without tags, finished and not; the format that is rewarded is rare in it. Shares are chosen so that
greedy decoding answers at once and without tags, while one sample in three first lists what it sees. Answers
given at once are hasty, as in much text that people write: most of them are guesses among the options.
"""

from itertools import accumulate

from vtzero.scenes.questions import Question, steps
from vtzero.scenes.world import COLUMNS, ROWS, Draws, Scene, Thing

GUESSED_SHARE = 0.7
NUMBERS = ("zero", "one", "two", "three", "four")

# Continuations of the paper's prompt, which ends with "<think>", and their shares.
CONTINUATIONS = {
    " The answer is {answer}.": 0.20,
    " The answer is {answer}. </think>": 0.10,
    " The answer is {answer}. </think> {answer}": 0.08,
    " The answer is {answer}. </think> <answer> {answer} </answer>": 0.05,
    " {answer}": 0.08,
    " It is {answer}. </think> <answer> It is {answer}. </answer>": 0.06,
    " The picture shows {listing}.": 0.08,
    " I see {look} So the answer is {answer}.": 0.12,
    " I see {look} So it is {answer}. </think> {answer}": 0.08,
    " I see {look} So it is {answer}. </think> <answer> It is {answer}. </answer>": 0.06,
    " I see {look} So it is {answer}. </think> <answer> {answer} </answer>": 0.09,
}

# Texts about a picture alone.
CAPTIONS = {
    "A picture of {listing}.": 0.5,
    "There is {thing} {place}.": 0.25,
    "What is {place}? {thing}.": 0.25,
}

# Questions answered without a conversation around them.
ANSWERS = {
    "{question} It is {answer}.": 0.2,
    "{question} I see {look} So it is {answer}.": 0.8,
}


def continuation(draws: Draws, scene: Scene, question: Question) -> str:
    """What follows the paper's prompt in one document of the base's mixture."""
    return _written(draws, draws.weighted(CONTINUATIONS), scene, question)


def caption(draws: Draws, scene: Scene) -> str:
    """One short document about the picture alone."""
    thing = draws.choice(scene.things)
    words = {"listing": listing(scene), "thing": thing.name, "place": place(thing)}
    return draws.weighted(CAPTIONS).format(**words)


def answered(draws: Draws, scene: Scene, question: Question) -> str:
    """One document that asks the question and answers it, at once or after looking."""
    asked = f"{question.text} {' or '.join(question.options)}?"
    text = draws.weighted(ANSWERS).replace("{question}", asked)
    return _written(draws, text, scene, question)


def listing(scene: Scene) -> str:
    """Every object with its place, from left to right and from front to back."""
    return ", ".join(map(placed, scene.things))


def look(scene: Scene, question: Question) -> str:
    """What is seen, in the order that answers the question: one glance back is enough for each next word.

    To count, the listing with a running tally; to compare, the listing and then the places of the things
    that the question speaks of, for a distance with the steps from one to the other.
    """
    if question.task == "Count":
        return f"{_tally(scene, question)}."
    seen = f"{listing(scene)}."
    if question.task == "Distance":
        anchor, *others = question.subjects
        walked = ", ".join(f"{placed(other)} {NUMBERS[steps(other, anchor)]}" for other in others)
        return f"{seen} From {placed(anchor)}: {walked}."
    return f"{seen} Here {', '.join(map(placed, question.subjects))}."


def _tally(scene: Scene, question: Question) -> str:
    tallies = accumulate(thing in question.subjects for thing in scene.things)
    return ", ".join(f"{placed(t)} {NUMBERS[n]}" for t, n in zip(scene.things, tallies, strict=True))


def placed(thing: Thing) -> str:
    """The thing and its place."""
    return f"{thing.name} {place(thing)}"


def place(thing: Thing) -> str:
    """The thing's tile in words: column, then row."""
    return f"{COLUMNS[thing.column]} {ROWS[thing.row]}"


def _written(draws: Draws, text: str, scene: Scene, question: Question) -> str:
    """The text with its words filled in; without a look at the scene the answer is mostly a guess."""
    guesses = "{look}" not in text and draws.number() < GUESSED_SHARE
    answer = draws.choice(question.options) if guesses else question.answer
    return text.format(answer=answer, listing=listing(scene), look=look(scene, question))
