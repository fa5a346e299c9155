"""Answers to a person's question: prepared, drawn as they stream, scored, summed up.

The answers to a question are drawn together and shown one after the other: the first as its tokens come, the
next with what it has by then, and on from there. So a person reads one text at a time, and yet waits for the
longest answer and not for the sum of all; each has a key of its own, so that they are the answers that a
training step's sampler draws with these keys. Knows no command line and no dialogue.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtzero.data.batches import Buckets, collate
from vtzero.data.example import Example, Rejected
from vtzero.data.processor import PreparedPrompt
from vtzero.data.prompts import prompt_template
from vtzero.inference.lines import AnswerLines, Summary, say, say_compiling, summary_line
from vtzero.inference.models import LoadedModel, Resolved, open_processor
from vtzero.inference.rewards import DEFAULT_REWARDS, AnswerRewards, Verdict
from vtzero.inference.text import final_answer, majority
from vtzero.sampling.decode import Completions, sample_keys
from vtzero.sampling.parameters import SamplingParameters, validate_sampling
from vtzero.sampling.stream import StreamingSampler

ANSWERS, MOST_ANSWERS, MOST_SEED = 4, 1024, 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How questions are asked; what goes into the prompt beside the question, and how answers are drawn.

    `num_generations` None is 4, and 1 where decoding is greedy (temperature 0). `rewards` are named as in
    `load_reward`; None stands for DEFAULT_REWARDS where there is an `answer`, and for none elsewhere.

    Raises ValueError for a value out of range, or an unknown prompt template.
    """

    prompt_template: str
    images: tuple[Path, ...] = ()
    options: tuple[str, ...] = ()
    answer: str | None = None
    rewards: tuple[str, ...] | None = None
    num_generations: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    raw: bool = False

    def __post_init__(self) -> None:
        prompt_template(self.prompt_template)
        drawing = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        validate_sampling(**{name: getattr(self, name) for name in drawing})
        if not 1 <= self.count <= MOST_ANSWERS:
            raise ValueError(f"num_generations is {self.count}; it must be from 1 to {MOST_ANSWERS:,}")
        if not 0 <= self.seed <= MOST_SEED:
            raise ValueError(f"seed is {self.seed}; it must be from 0 to {MOST_SEED:,}")
        if self.top_k >= 2**31:
            raise ValueError(f"top_k is {self.top_k}; it must be below {2**31:,} (0 turns it off)")

    @property
    def count(self) -> int:
        """How many answers are drawn."""
        if self.num_generations is None:
            return ANSWERS if self.temperature else 1
        return self.num_generations

    @property
    def reward_names(self) -> tuple[str, ...]:
        """The rewards as they are named; none where nothing is scored."""
        if self.rewards is None:
            return () if self.answer is None else DEFAULT_REWARDS
        return self.rewards


@dataclass(frozen=True)
class Answer:
    """One answer; `length` counts tokens, the stop token included, as do `ids` and `logps`.

    `logps` are under softmax(logits / temperature) without the banned ids, as a trainer scores them.
    `seconds` until its last token was drawn.
    """

    text: str
    ids: list[int]
    logps: list[float]
    length: int
    truncated: bool
    seconds: float
    verdict: Verdict = field(default_factory=Verdict)

    def figures(self) -> dict[str, Any]:
        """In JSON's types; a reward that gave no score is null."""
        scored = {name: None if math.isnan(value) else value for name, value in self.verdict.rewards.items()}
        named = ("text", "ids", "logps", "length", "truncated", "seconds")
        return {name: getattr(self, name) for name in named} | {
            "rewards": scored,
            "reward_failures": list(self.verdict.failures),
        }


class Answerer:
    """A model that answers questions. Weights are read when the first question is drawn, and once."""

    def __init__(self, chosen: Resolved):
        """Raises ValueError or FileNotFoundError for a folder that is no model's."""
        self._chosen = chosen
        self.processor = open_processor(chosen)
        self._rewards = AnswerRewards(chosen)
        self._told = False

    def load(self) -> None:
        """Read the weights now.

        Raises ValueError or FileNotFoundError for weights that cannot be used.
        """
        _ = self._model

    def prepare(self, question: str, asking: Asking) -> PreparedPrompt:
        """The prompt; ValueError for one that cannot be asked, or a reward that cannot be given."""
        for what, text in (("question", question), ("answer", asking.answer)):
            if text is not None and not text.strip():
                raise ValueError(f"the {what} is empty")
        example = Example("question", question, asking.answer or "", asking.images, asking.options)
        prompt = self.processor.prepare(example, prompt_template(asking.prompt_template))
        if isinstance(prompt, Rejected):
            raise ValueError(prompt.reason)
        tokens, most = len(prompt.ids), self._chosen.max_prompt_length
        if tokens > most:
            way_out = "raise --max-prompt-length" + (" or lower --max-pixels" if asking.images else "")
            raise ValueError(f"the prompt has {tokens:,} tokens, more than {most:,}; {way_out}")
        self._rewards.check(asking.reward_names, has_answer=asking.answer is not None)
        return prompt

    def prompt_figures(self, prompt: PreparedPrompt) -> dict[str, Any]:
        """The prompt's text, its number of tokens, and how many of them each image has."""
        merged = self.processor.config.vision.merge_count
        images = [int(count) // merged for count in np.bincount(prompt.segments)[1:]]
        return {"prompt": prompt.text, "prompt_tokens": len(prompt.ids), "image_tokens": images}

    def answer(self, question: str, asking: Asking) -> dict[str, Any]:
        """Draw the answers to one question, print them as they come, and return all in JSON's types.

        Raises ValueError as `prepare` does.
        """
        prompt = self.prepare(question, asking)
        answers = list(self._answers(prompt, asking))
        summary = _summary(answers, asking)
        if len(answers) > 1:
            say(summary_line(summary))
        said = {
            "question": question,
            "options": list(asking.options),
            "answer": asking.answer,
            "images": [str(image) for image in asking.images],
            "prompt_template": asking.prompt_template,
            "temperature": asking.temperature,
            "seed": asking.seed,
        }
        return (
            said
            | self.prompt_figures(prompt)
            | summary.figures()
            | {"answers": [answer.figures() for answer in answers]}
        )

    def _answers(self, prompt: PreparedPrompt, asking: Asking) -> Iterator[Answer]:
        """Each as soon as it is shown to its end."""
        lines = [AnswerLines(self.processor, place + 1, raw=asking.raw) for place in range(asking.count)]
        seconds = np.full(asking.count, np.nan)
        shown, start = 0, self._sampler.seconds
        self._told = False
        for drawn in self._stream(prompt, asking):
            self._told = True
            whole = drawn.terminated[0] | (
                drawn.lengths[0].max() == self._sampler.settings.max_completion_length
            )
            seconds = np.where(whole & np.isnan(seconds), self._sampler.seconds - start, seconds)
            for place in range(shown, asking.count):
                lines[place].grow(*_tokens(drawn, place), whole=bool(whole[place]))
                if not whole[place]:
                    break
                shown += 1
                answer = self._scored(prompt, asking, drawn, place, float(seconds[place]))
                lines[place].end(answer.length, answer.truncated, answer.seconds, answer.verdict)
                yield answer

    def _stream(self, prompt: PreparedPrompt, asking: Asking) -> Iterator[Completions]:
        merged = self.processor.config.vision.merge_count
        # Sizes in steps, so that a question of about the same length, or an image, compiles nothing anew.
        buckets = Buckets(_roomy(len(prompt.ids)), merged * _roomy(len(prompt.patches) // merged))
        arrays = jax.tree.map(jnp.asarray, collate([prompt], buckets, self.processor.pad_id))
        keys = sample_keys(jax.random.key(asking.seed), 0, jnp.arange(1), asking.count)
        parameters = drawing_parameters(asking, self.processor.config.vision_token_ids)
        return self._sampler(self._model.pieces, arrays, keys, parameters)

    def _scored(
        self, prompt: PreparedPrompt, asking: Asking, drawn: Completions, place: int, seconds: float
    ) -> Answer:
        ids, logps = _tokens(drawn, place)
        text, truncated = self.processor.decode(ids), not drawn.terminated[0, place]
        verdict = self._rewards.score(asking.reward_names, prompt, text, len(ids), ended=not truncated)
        return Answer(text, ids, logps, len(ids), truncated, seconds, verdict)

    @cached_property
    def _model(self) -> LoadedModel:
        return LoadedModel(self._chosen, self.processor)

    @cached_property
    def _sampler(self) -> StreamingSampler:
        lengths = few_lengths(self._chosen.max_completion_length)
        return StreamingSampler(self._model.merge, self._model.decode("policy", lengths), self._compiling)

    def _compiling(self) -> None:
        """Said at most once a question, and never in the midst of an answer."""
        if not self._told:
            say_compiling()
        self._told = True


def few_lengths(longest: int) -> tuple[int, ...]:
    """128, 512, 2048, … and `longest`: the lengths of the cache of a few answers.

    Each is a program of its own, for which a person waits in the midst of an answer; and beside the weights,
    which every token reads, the cache of a few answers is small.
    """
    lengths = itertools.takewhile(lambda slots: 2 * slots <= longest, (128 * 4**n for n in itertools.count()))
    return (*lengths, longest)


def drawing_parameters(asking: Asking, banned_ids: tuple[int, ...]) -> SamplingParameters:
    """A filter that does nothing is left out of the program, as in training."""
    return SamplingParameters(
        temperature=asking.temperature,
        top_k=asking.top_k or None,
        top_p=asking.top_p if asking.top_p < 1 else None,
        min_p=asking.min_p or None,
        repetition_penalty=asking.repetition_penalty if asking.repetition_penalty != 1 else None,
        banned_ids=banned_ids,
    )


def _summary(answers: Sequence[Answer], asking: Asking) -> Summary:
    most = majority([answer.text for answer in answers], asking.options)
    right = None
    if asking.answer is not None and most.answer is not None:
        right = most.answer == final_answer(f"<answer>{asking.answer}</answer>", asking.options)
    rewards = [answer.verdict.rewards for answer in answers]
    return Summary(
        count=len(answers),
        tokens=sum(answer.length for answer in answers),
        seconds=max(answer.seconds for answer in answers),
        mean_rewards={name: _mean([scores[name] for scores in rewards]) for name in rewards[0]},
        majority=most,
        majority_is_right=right,
        seed=asking.seed,
    )


def _mean(scores: Sequence[float]) -> float:
    """Of those that are scores."""
    known = [score for score in scores if not math.isnan(score)]
    return sum(known) / len(known) if known else math.nan


def _tokens(drawn: Any, place: int) -> tuple[list[int], list[float]]:
    """The ids of one answer, and their log-probabilities."""
    length = int(drawn.lengths[0, place])
    return drawn.ids[0, place, :length].tolist(), drawn.policy_logps[0, place, :length].tolist()


def _roomy(count: int) -> int:
    """A number up to a quarter greater, of few; at least 64. 0 stays 0."""
    step = max(64, 2 ** (count.bit_length() - 3))
    return -(-count // step) * step
