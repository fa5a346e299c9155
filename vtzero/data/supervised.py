"""Streams of supervised batches: prompts with a group of target texts each.

`AnswerStream` teaches the answers of a source, `DocumentStream` the texts about drawn scenes from which the
tiny base model is made. Both continue exactly from their saved state. With several processes each prepares
its own samples. Knows no model and no device.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image

from vtzero.data.batches import Buckets, blank_prompts, collate
from vtzero.data.example import Example, Rejected
from vtzero.data.mixture import Mixture
from vtzero.data.pipeline import GroupPipeline
from vtzero.data.processor import PreparedPrompt, Processor
from vtzero.data.prompts import PromptTemplate, question_body
from vtzero.data.sources import Source
from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.parallel.processes import ALONE, RowShare
from vtzero.scenes.blank import IMAGE_SIDE
from vtzero.scenes.documents import answered, caption, continuation
from vtzero.scenes.questions import FAMILIES, Question, draw_item
from vtzero.scenes.render import render
from vtzero.scenes.world import Draws, Scene


@dataclass(frozen=True)
class SupervisedBatch:
    """Ids, prompts, target tokens (batch, group, length) padded with the pad id, and where those are real.

    With several processes these are the process's own samples; the rows set aside are everyone's.
    """

    ids: list[str]
    prompts: Prompts
    target_ids: Int[np.ndarray, "batch group length"]
    mask: Bool[np.ndarray, "batch group length"]
    rejected: list[Rejected]


class SupervisedStream(Protocol):
    """An endless, resumable stream of batches."""

    def next_batch(self) -> SupervisedBatch:
        """The next batch."""

    def blank_batches(self) -> Mapping[str, SupervisedBatch]:
        """A batch of each shape that there will be, by name; nothing stands in it."""

    def get_state(self) -> Mapping[str, Any]:
        """Where the stream stands, in JSON's types."""

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue where `get_state` stood."""

    def close(self) -> None:
        """Stop preparing ahead."""


SftTarget = Literal["answer", "tagged", "solution"]
TURN_END = "<|im_end|>\n"
_CHAT, _THOUGHT = "<|im_start|>assistant\n", "<think>"


class TargetError(ValueError):
    """A row cannot be taught, and why."""


def target_text(prompt: PreparedPrompt, target: SftTarget) -> str:
    """What is to be said after a prompt, without what ends it.

    - "answer": the bare answer, as in the paper's supervised baseline;
    - "tagged": `<answer>…</answer>` around it;
    - "solution": the row's column `solution` as it is stored, thought and tags included.

    Tags continue a prompt that ends with `<think>`: it is closed at once, or not opened again. A space comes
    first, unless the prompt ends in white space, as the assistant's turn of a chat does.

    Raises TargetError where the row does not have it.
    """
    opened = prompt.text.endswith(_THOUGHT)
    text = prompt.answer
    if target == "tagged":
        text = f"{'</think> ' if opened else ''}<answer>{prompt.answer}</answer>"
    elif target == "solution":
        stored = prompt.example.columns.get("solution")
        text = stored.strip() if isinstance(stored, str) else ""
        text = text.removeprefix(_THOUGHT).lstrip() if opened else text
        if not text:
            raise TargetError("it has no solution (sft_target answer or tagged needs none)")
    return text if prompt.text[-1:].isspace() else f" {text}"


class AnswerStream:
    """Each prompt of a source with one target, its answer; a row whose target does not fit is set aside."""

    def __init__(
        self,
        source: Source | Mixture,
        processor: Processor,
        template: PromptTemplate,
        buckets: Buckets,
        *,
        seed: int,
        batch_size: int,
        length: int,
        target: SftTarget = "answer",
        share: RowShare = ALONE,
    ):
        """`length`: tokens that a target may have, its end included."""
        self._processor, self._buckets = processor, buckets
        self._batch_size, self._length, self._target = batch_size, length, target
        self._own = len(share.rows(batch_size))
        self._pipeline = GroupPipeline(
            source,
            processor,
            template,
            buckets,
            seed=seed,
            share=share,
            fault=self._without_target,
            prefetch=2 * self._own,
        )

    def next_batch(self) -> SupervisedBatch:
        """The next batch; for each row that is set aside another is drawn.

        Raises ValueError as `GroupPipeline.next_batch` does.
        """
        drawn = self._pipeline.next_batch(self._batch_size)
        targets = [[self.tokens(prompt)] for prompt in drawn.prompts]
        tokens, mask = _pad(targets, self._length, self._processor.pad_id)
        ids = [prompt.id for prompt in drawn.prompts]
        return SupervisedBatch(ids, drawn.arrays, tokens, mask, drawn.rejected)

    def blank_batches(self) -> Mapping[str, SupervisedBatch]:
        return {"": _blank(self._processor, self._own, self._buckets, 1, self._length)}

    def _without_target(self, prompt: PreparedPrompt) -> Rejected | None:
        try:
            self.tokens(prompt)
        except TargetError as error:
            return Rejected(prompt.id, str(error))
        return None

    def tokens(self, prompt: PreparedPrompt) -> list[int]:
        """The target's token ids: the text, and its end.

        A chat's turn ends as its template writes it, `<|im_end|>` and a line break, which the paper's code
        counts too; any other text with the tokenizer's end.

        Raises TargetError for a target that the row does not have, or that does not fit.
        """
        text = target_text(prompt, self._target)
        if fault := self._processor.fault_in(text):
            raise TargetError(f"its target {fault}")
        chat = prompt.text.endswith(_CHAT)
        tokens = self._processor.encode(text + TURN_END) if chat else _ended(self._processor, text)
        if len(tokens) > self._length:
            reason = f"its target has {len(tokens)} tokens, the bucket holds {self._length}"
            raise TargetError(f"{reason} (raise max_completion_length)")
        return tokens

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
        share: RowShare = ALONE,
    ):
        self._processor, self._template, self._seed, self._share = processor, template, seed, share
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

    def blank_batches(self) -> Mapping[str, SupervisedBatch]:
        patches = len(self._row("caption", KINDS["caption"], 0, 0)[0].patches)
        return {
            name: _blank(
                self._processor,
                len(self._own(kind)),
                Buckets(kind.prompt_length, patches),
                kind.group,
                kind.target_length,
            )
            for name, kind in KINDS.items()
        }

    def _own(self, kind: Kind) -> list[int]:
        """The rows of a batch of this kind that this process makes."""
        return self._share.rows(int(kind.prompts * self._prompts_per_step))

    def get_state(self) -> Mapping[str, Any]:
        return {"next": self._next}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._next = state["next"]

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def batch(self, index: int) -> SupervisedBatch:
        """This process's part of batch `index` of the stream."""
        first = index < FIRST_SHARE * self._max_steps
        cycle = FIRST_CYCLE if first else LAST_CYCLE
        name = cycle[index % len(cycle)]
        kind = KINDS[name]
        rows = [self._row(name, kind, index, row) for row in self._own(kind)]
        prompts, targets = [prompt for prompt, _ in rows], [texts for _, texts in rows]
        buckets = Buckets(kind.prompt_length, len(prompts[0].patches))
        tokens, mask = encode_targets(self._processor, targets, kind.target_length)
        arrays = collate(prompts, buckets, self._processor.pad_id)
        return SupervisedBatch([prompt.id for prompt in prompts], arrays, tokens, mask, [])

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


def _blank(processor: Processor, batch: int, buckets: Buckets, group: int, length: int) -> SupervisedBatch:
    prompts = blank_prompts(batch, buckets, processor.config.vision.patch_dim)
    shape = (batch, group, length)
    return SupervisedBatch([], prompts, np.zeros(shape, np.int32), np.zeros(shape, bool), [])


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
    tokens = [[_ended(processor, text) for text in texts] for texts in targets]
    for row, texts in zip(tokens, targets, strict=True):
        for ids, text in zip(row, texts, strict=True):
            if len(ids) > length:
                raise ValueError(f"a target has {len(ids)} tokens, the bucket holds {length}: {text!r}")
    return _pad(tokens, length, processor.pad_id)


def _ended(processor: Processor, text: str) -> list[int]:
    return [*processor.encode(text), processor.tokenizer.eos_token_id]


def _pad(
    tokens: Sequence[Sequence[Sequence[int]]], length: int, pad_id: int
) -> tuple[Int[np.ndarray, "batch group length"], Bool[np.ndarray, "batch group length"]]:
    ids = np.full((len(tokens), len(tokens[0]), length), pad_id, np.int32)
    mask = np.zeros(ids.shape, bool)
    for row, targets in enumerate(tokens):
        for place, target in enumerate(targets):
            ids[row, place, : len(target)] = target
            mask[row, place, : len(target)] = True
    return ids, mask


def _text(name: str, draws: Draws, scene: Scene, question: Question) -> str:
    if name == "caption":
        return caption(draws, scene)
    return (answered if name == "answered" else continuation)(draws, scene, question)


def _example(identity: str, question: Question, picture: np.ndarray) -> Example:
    images = (Image.fromarray(picture),)
    return Example(identity, question.text, question.answer, images, question.options, question.task)
