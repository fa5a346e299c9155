"""Answers to a person's question: the tokens of training, rewards by name, figures, mistakes."""

import re
import secrets
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.fast_compile import fast_compile
from fixtures.tiny_folder import make_tiny_folder
from flax import nnx
from PIL import Image

from vtzero.data.batches import Buckets, collate
from vtzero.data.example import Example
from vtzero.data.prompts import prompt_template
from vtzero.inference.answers import Answerer, Asking, drawing_parameters, few_lengths
from vtzero.inference.lines import AnswerLines
from vtzero.inference.models import ModelSettings, resolved
from vtzero.inference.rewards import Verdict
from vtzero.sampling.decode import DecodeSettings, growing_lengths, sample_keys
from vtzero.sampling.sampler import Sampler
from vtzero.training.huggingface import load_model

LENGTH = 40
QUESTION = "Which object is closer, the cube or the sphere?"
ASKING = Asking(prompt_template="r1_zero_base", num_generations=3)


def picture(path: Path, width: int, height: int) -> Path:
    pixels = np.random.default_rng(width).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_folder(tmp_path_factory.mktemp("tiny"), seed=5)


@pytest.fixture(scope="module")
def image(folder):
    return picture(folder / "first.png", 80, 60)


@pytest.fixture(scope="module")
def answerer(folder):
    chosen = resolved(ModelSettings(model=str(folder), max_completion_length=LENGTH))
    with fast_compile():
        made = Answerer(chosen)
        made.answer("What?", ASKING)
    return made


def as_in_training(answerer, folder, asking, seed):
    """The ids that a rollout draws with these keys: in a padded batch, its cache growing as there."""
    graphdef, state = load_model(folder)
    processor = answerer.processor
    settings = DecodeSettings(
        LENGTH, processor.stop_ids, processor.pad_id, "policy", growing_lengths(LENGTH, 2)
    )
    template = prompt_template(asking.prompt_template)
    questions = [Example("0", QUESTION, "", asking.images), Example("1", "How many cubes?", "1")]
    prompts = [processor.prepare(example, template) for example in questions]
    arrays = jax.tree.map(jnp.asarray, collate(prompts, Buckets(300, 64), processor.pad_id))
    keys = sample_keys(jax.random.key(seed), 0, jnp.arange(2), asking.count)
    with fast_compile():
        sampler = Sampler(partial(nnx.merge, graphdef), settings)
    drawn = sampler((state,), arrays, keys, drawing_parameters(asking, processor.config.vision_token_ids))
    return [drawn.ids[0, place, : drawn.lengths[0, place]].tolist() for place in range(asking.count)]


def test_answers_are_the_tokens_that_training_draws_with_the_same_keys(answerer, folder, image, capsys):
    seed = secrets.randbelow(2**32)
    for values in ({}, {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.2}, {"temperature": 0.0}):
        asking = replace(ASKING, images=(image,), seed=seed, **values)
        answers = answerer.answer(QUESTION, asking)["answers"]
        assert [one["ids"] for one in answers] == as_in_training(answerer, folder, asking, seed), seed
        for number, one in enumerate(answers, 1):
            assert len(one["ids"]) == len(one["logps"]) == one["length"]
            assert one["text"] == answerer.processor.decode(one["ids"])
            ended = one["ids"][-1] in answerer.processor.stop_ids
            assert one["truncated"] == (not ended)
            assert f"[{number}]" in capsys.readouterr().out or number > 1


def test_what_is_printed_is_the_text_and_its_figures(answerer, image, capsys):
    figures = answerer.answer(QUESTION, replace(ASKING, images=(image,), answer="red"))
    shown = capsys.readouterr().out
    assert shown.count("accuracy_strict 0") == 4
    assert shown.count("cut short") == sum(one["truncated"] for one in figures["answers"])
    assert "mean of 3" in shown.splitlines()[-1]
    assert figures["mean_length"] == np.mean([one["length"] for one in figures["answers"]])
    assert figures["prompt"].startswith("<|vision_start|>")
    assert figures["image_tokens"] == [6]


def test_questions_and_pictures_of_about_the_same_size_compile_nothing_anew(answerer, image, tmp_path):
    asking = replace(ASKING, images=(image,))
    answerer.answer(QUESTION, asking)
    compiled = answerer._sampler.compilations
    other = picture(tmp_path / "other.png", 70, 100)
    answerer.answer(QUESTION + " Or both?", replace(asking, images=(other,), seed=9, temperature=0.3))
    assert answerer._sampler.compilations == compiled


def test_an_own_reward_is_named_and_its_failure_told(answerer, tmp_path, capsys):
    own = tmp_path / "mine.py"
    own.write_text(
        "def tokens(completions, completion_lengths, terminated, **columns):\n    return completion_lengths\n"
        "def bad(completions, **columns):\n    raise RuntimeError('\\x1b[31mno')\n"
    )
    asking = replace(ASKING, rewards=("format_paper", f"{own}:tokens", f"{own}:bad"))
    figures = answerer.answer("What?", asking)
    for one in figures["answers"]:
        assert one["rewards"] == {"format_paper": 0.0, "tokens": one["length"], "bad": None}
        assert "no" in one["reward_failures"][0]
    assert figures["mean_rewards"]["tokens"] == figures["mean_length"]
    shown = capsys.readouterr().out
    assert "bad no score" in shown
    assert "\x1b" not in shown


def test_the_majority_is_told_right_or_wrong(answerer, capsys):
    greedy = replace(ASKING, temperature=0.0)  # all agree
    said = answerer.answer("What?", greedy)["majority"]
    assert said is not None
    capsys.readouterr()
    for answer, right in ((said, True), ("something else", False)):
        figures = answerer.answer("What?", replace(greedy, answer=answer, rewards=()))
        assert (figures["votes"], figures["majority_is_right"]) == (3, right)
        assert f"3 of 3 say {said!r}, which is {'right' if right else 'wrong'}" in capsys.readouterr().out


def test_hostile_text_is_written_out(answerer, capsys):
    said = "a\x1b[31m\u202e\r🙂b"
    ids = answerer.processor.encode(said)
    for raw in (False, True):
        lines = AnswerLines(answerer.processor, 1, raw=raw)
        for end in range(len(ids) + 1):
            lines.grow(ids[:end], [-1.0] * end, whole=end == len(ids))
        lines.end(len(ids), False, 1.0, Verdict())
        shown = capsys.readouterr().out
        assert not set("\x1b\u202e\r") & set(shown)
        assert "\\x1b" in shown
        assert "\\u202e" in shown or raw
    lines = AnswerLines(answerer.processor, 2, raw=False)
    lines.grow(ids, [], whole=True)
    assert capsys.readouterr().out == "[2] a\\x1b[31m\\u202e\\r🙂b"


@pytest.mark.parametrize(
    ("changes", "question", "words"),
    [
        ({}, " ", "the question is empty"),
        ({"answer": ""}, "What?", "the answer is empty"),
        ({}, "What is <|image_pad|>?", "contains the special token <|image_pad|>"),
        ({}, "What? " * 2000, "more than 1,024; raise --max-prompt-length"),
        ({"images": (Path("none.png"),)}, "What?", "none.png cannot be read: No such file"),
        ({"images": (Path(__file__),)}, "What?", "it is none of"),
        ({"rewards": ("nice",)}, "What?", "reward 'nice': no such name"),
        ({"rewards": ("accuracy_strict",)}, "What?", "needs the right answer; give it with --answer"),
        ({"rewards": ("length", "length")}, "What?", "'length' is named twice"),
        ({"rewards": ("soft_overlong",)}, "What?", "soft_punish_cache"),
    ],
)
def test_a_question_that_cannot_be_asked(answerer, changes, question, words, capsys):
    with pytest.raises(ValueError, match=re.escape(words)):
        answerer.answer(question, replace(ASKING, **changes))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_generations": 0}, "num_generations is 0"),
        ({"num_generations": 5000}, "from 1 to 1,024"),
        ({"seed": -1}, "seed is -1"),
        ({"temperature": float("nan")}, "temperature must be finite"),
        ({"min_p": 1.0}, "min_p must be in"),
        ({"top_k": 2**40}, "top_k"),
        ({"prompt_template": "r2"}, "r1_zero_base"),
    ],
)
def test_a_value_out_of_range_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        replace(ASKING, **changes)


def test_a_greedy_question_has_one_answer_unless_more_are_asked_for():
    asking = Asking(prompt_template="r1_zero_base")
    assert asking.count == 4
    assert replace(asking, temperature=0.0).count == 1
    assert replace(asking, temperature=0.0, num_generations=3).count == 3


def test_the_cache_has_few_lengths():
    assert few_lengths(72) == (72,)
    assert few_lengths(200) == (200,)
    assert few_lengths(700) == (128, 700)
    assert few_lengths(4096) == (128, 512, 2048, 4096)
