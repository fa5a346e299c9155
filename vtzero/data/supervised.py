"""Streams of supervised batches: prompts with a group of target texts each.

`AnswerStream` teaches the answers of a source, `DocumentStream` the texts about drawn scenes from which the
tiny base model is made. Both continue exactly from their saved state. Knows no model and no device.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image

from vtzero.data.batches import Buckets, collate
from vtzero.data.example import Example, Rejected
from vtzero.data.pipeline import GroupPipeline
from vtzero.data.processor import PreparedPrompt, Processor
from vtzero.data.prompts import PromptTemplate, question_body
from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.scenes.blank import IMAGE_SIDE
from vtzero.scenes.documents import answered, caption, continuation
from vtzero.scenes.questions import FAMILIES, Question, draw_item
from vtzero.scenes.render import render
from vtzero.scenes.world import Draws, Scene


@dataclass(frozen=True)
class SupervisedBatch:
    """Prompts, target token ids (batch, group, length) padded with the pad id, and where they are real."""

    prompts: Prompts
    target_ids: Int[np.ndarray, "batch group length"]
    mask: Bool[np.ndarray, "batch group length"]
    rejected: list[Rejected]


class SupervisedStream(Protocol):
    """An endless, resumable stream of batches."""

    def next_batch(self) -> SupervisedBatch:
        """The next batch."""

    def get_state(self) -> Mapping[str, Any]:
        """Where the stream stands, in JSON's types."""

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue where `get_state` stood."""

    def close(self) -> None:
        """Stop preparing ahead."""


class AnswerStream:
    """Each prompt of a pipeline with its answer, and the stop token, as the one target."""

    def __init__(self, pipeline: GroupPipeline, processor: Processor, batch_size: int, length: int):
        self._pipeline, self._processor = pipeline, processor
        self._batch_size, self._length = batch_size, length

    def next_batch(self) -> SupervisedBatch:
        batch = self._pipeline.next_batch(self._batch_size)
        targets = [[f" {prompt.answer}"] for prompt in batch.prompts]
        ids, mask = encode_targets(self._processor, targets, self._length)
        return SupervisedBatch(batch.arrays, ids, mask, batch.rejected)

    def get_state(self) -> Mapping[str, Any]:
        return self._pipeline.get_state()

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._pipeline.set_state(state)

    def close(self) -> None:
        self._pipeline.close()


@dataclass(frozen=True)
class Kind:
    """One kind of batch: prompts for each of `prompts_per_step`, targets a prompt, padded lengths."""

    prompts: float
    group: int
    prompt_length: int
    target_length: int


# Short captions teach to see, answered questions to reason from a listing, and questions under the paper's
# prompt the mixture of formats. Lengths were measured on 3,000 documents of each kind.
KINDS = {
    "caption": Kind(prompts=3, group=2, prompt_length=12, target_length=28),
    "answered": Kind(prompts=1.5, group=2, prompt_length=12, target_length=76),
    "question": Kind(prompts=1, group=3, prompt_length=112, target_length=76),
}
FIRST_CYCLE = ("caption", "caption", "answered", "caption", "answered", "caption", "answered", "question")
LAST_CYCLE = ("caption", "answered", "answered", "question")
FIRST_SHARE = 0.4
PICTURE = PromptTemplate("picture", "", "base")


class DocumentStream:
    """Batches of scene documents; batch k is a pure function of (seed, k), prepared ahead by one thread."""

    def __init__(
        self,
        processor: Processor,
        template: PromptTemplate,
        *,
        seed: int,
        prompts_per_step: int,
        max_steps: int,
    ):
        self._processor, self._template, self._seed = processor, template, seed
        self._prompts_per_step, self._max_steps = prompts_per_step, max_steps
        self._pool = ThreadPoolExecutor(1)
        self._ahead: dict[int, Future[SupervisedBatch]] = {}
        self._next = 0

    def next_batch(self) -> SupervisedBatch:
        for index in range(self._next, self._next + 3):
            if index not in self._ahead:
                self._ahead[index] = self._pool.submit(self.batch, index)
        batch = self._ahead.pop(self._next).result()
        self._next += 1
        return batch

    def get_state(self) -> Mapping[str, Any]:
        return {"next": self._next}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._next = state["next"]

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def batch(self, index: int) -> SupervisedBatch:
        """Batch `index` of the stream."""
        first = index < FIRST_SHARE * self._max_steps
        cycle = FIRST_CYCLE if first else LAST_CYCLE
        name = cycle[index % len(cycle)]
        kind = KINDS[name]
        rows = [
            self._row(name, kind, index, row) for row in range(int(kind.prompts * self._prompts_per_step))
        ]
        prompts, targets = [prompt for prompt, _ in rows], [texts for _, texts in rows]
        buckets = Buckets(kind.prompt_length, len(prompts[0].patches))
        ids, mask = encode_targets(self._processor, targets, kind.target_length)
        return SupervisedBatch(collate(prompts, buckets, self._processor.pad_id), ids, mask, [])

    def _row(self, name: str, kind: Kind, index: int, row: int) -> tuple[PreparedPrompt, list[str]]:
        draws = Draws("train", self._seed, "documents", index, row)
        scene, question = draw_item(draws, draws.choice(FAMILIES), "train")
        picture = render(scene, IMAGE_SIDE, draws.below(1 << 30))
        example = _example(f"documents-{index}-{row}", question, picture)
        template = self._template if name == "question" else PICTURE
        prepared = self._processor.prepare(example, template)
        if isinstance(prepared, Rejected):
            raise ValueError(f"{prepared.id}: {prepared.reason}")
        return prepared, [_text(name, draws, scene, question) for _ in range(kind.group)]


def corpus(template: PromptTemplate, count: int = 3000) -> list[str]:
    """Texts of every kind, on which the tiny tokenizer is trained."""
    texts = []
    for index in range(count):
        draws = Draws("train", "tokenizer", index)
        scene, question = draw_item(draws, draws.choice(FAMILIES), "train")
        texts.append(template.render(question_body(question.text, question.options), 0))
        texts += [_text(name, draws, scene, question) for name in KINDS]
    return texts


def encode_targets(
    processor: Processor, targets: Sequence[Sequence[str]], length: int
) -> tuple[Int[np.ndarray, "batch group length"], Bool[np.ndarray, "batch group length"]]:
    """Token ids of target texts, each ended by the tokenizer's end and padded; and where they are real.

    Raises ValueError for a text that is too long.
    """
    ids = np.full((len(targets), len(targets[0]), length), processor.pad_id, np.int32)
    mask = np.zeros(ids.shape, bool)
    for row, texts in enumerate(targets):
        for place, text in enumerate(texts):
            tokens = [*processor.encode(text), processor.tokenizer.eos_token_id]
            if len(tokens) > length:
                raise ValueError(f"a target has {len(tokens)} tokens, the bucket holds {length}: {text!r}")
            ids[row, place, : len(tokens)] = tokens
            mask[row, place, : len(tokens)] = True
    return ids, mask


def _text(name: str, draws: Draws, scene: Scene, question: Question) -> str:
    if name == "caption":
        return caption(draws, scene)
    return (answered if name == "answered" else continuation)(draws, scene, question)


def _example(identity: str, question: Question, picture: np.ndarray) -> Example:
    images = (Image.fromarray(picture),)
    return Example(identity, question.text, question.answer, images, question.options, question.task)
