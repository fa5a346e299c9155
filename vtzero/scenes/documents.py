"""What the tiny base model is taught: short texts about scenes, and answers in many formats.

Like the text a real base model has read, the mixture holds quick answers and answers that look first, with
and without tags, finished and not; the format that is rewarded is rare in it. Shares are chosen so that
greedy decoding answers at once and without tags, while one sample in three first lists what it sees.
"""

from vtzero.scenes.questions import Question, steps
from vtzero.scenes.world import COLUMNS, ROWS, Draws, Scene, Thing

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
    return draws.weighted(CONTINUATIONS).format(**_words(scene, question))


def caption(draws: Draws, scene: Scene) -> str:
    """One short document about the picture alone."""
    thing = draws.choice(scene.things)
    words = {"listing": listing(scene), "thing": thing.name, "place": place(thing)}
    return draws.weighted(CAPTIONS).format(**words)


def answered(draws: Draws, scene: Scene, question: Question) -> str:
    """One document that asks the question and answers it, at once or after looking."""
    return draws.weighted(ANSWERS).format(question=question.text, **_words(scene, question))


def listing(scene: Scene) -> str:
    """Every object with its place, from left to right and from front to back."""
    return ", ".join(f"{thing.name} {place(thing)}" for thing in scene.things)


def look(scene: Scene, question: Question) -> str:
    """The listing, and for a question of distance the steps between the objects it names."""
    seen = f"{listing(scene)}."
    if question.task != "Distance":
        return seen
    anchor, *others = question.subjects
    walked = ", ".join(f"{other.name} {NUMBERS[steps(other, anchor)]}" for other in others)
    return f"{seen} Steps: {walked}."


def place(thing: Thing) -> str:
    """The thing's tile in words: column, then row."""
    return f"{COLUMNS[thing.column]} {ROWS[thing.row]}"


def _words(scene: Scene, question: Question) -> dict[str, str]:
    return {"answer": question.answer, "listing": listing(scene), "look": look(scene, question)}
