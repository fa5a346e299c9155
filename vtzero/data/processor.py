"""From an Example to what Qwen2-VL reads: text, token ids, patches, positions; and from ids back to text.

Text goes through transformers' tokenizer and images through its PIL image processor, neither of which needs
torch. Everything here is a pure function of the example, safe to call from several threads. Knows no batches.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vtzero.data.example import Example, ImageSource, Rejected
from vtzero.data.images import open_image
from vtzero.data.processor_files import read_image_processor, read_network, read_stop_ids, read_tokenizer
from vtzero.data.prompts import PromptTemplate, question_body
from vtzero.models.qwen2_vl.config import Qwen2VLConfig
from vtzero.models.qwen2_vl.rope import Grid, patch_positions, prompt_positions

_LONGEST_TEXT = 200_000
"""Characters: over a second to tokenize, and several times the context of the model."""
_GREATEST_RATIO = 200
"""Transformers' smart_resize refuses more."""


@dataclass(frozen=True, eq=False)
class PreparedPrompt:
    """One prompt as arrays, unpadded; the fields match those of `Prompts`.

    `text` holds one `<|image_pad|>` an image; `ids` holds one for each image token. `segments` numbers the
    images from 1. `start` is the M-RoPE position of the first completion token.
    """

    example: Example
    text: str
    ids: Int[np.ndarray, " prompt"]
    positions: Int[np.ndarray, "3 prompt"]
    start: int
    patches: Float[np.ndarray, "patches patch_dim"]
    patch_positions: Int[np.ndarray, "patches 2"]
    segments: Int[np.ndarray, " patches"]

    @property
    def id(self) -> str:
        return self.example.id

    @property
    def answer(self) -> str:
        return self.example.answer

    @property
    def options(self) -> tuple[str, ...]:
        return self.example.options

    @property
    def task(self) -> str:
        return self.example.task


class Processor:
    """Prepares prompts for one model and reads its completions."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        image_processor: Qwen2VLImageProcessorPil,
        config: Qwen2VLConfig,
        *,
        stop_ids: Sequence[int] = (),
    ):
        """`stop_ids` come before the tokenizer's own end-of-sequence id.

        Raises ValueError when the tokenizer or the image processor does not belong to the model's config, or
        when no token ends a completion.
        """
        _check_sizes(image_processor, config)
        _check_tokens(tokenizer, config)
        self.config = config
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.stop_ids = _stop_ids(stop_ids, tokenizer.eos_token_id, config.text.vocab_size)
        self.pad_id: int = self.stop_ids[-1] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self._encoder = tokenizer.backend_tokenizer
        # Set once: transformers sets these on every call, which the shared Rust object forbids among threads.
        self._encoder.no_truncation()
        self._encoder.no_padding()
        added = tokenizer.added_tokens_decoder.items()
        self._special = {number for number, token in added if token.special} | set(config.vision_token_ids)

    @classmethod
    def from_folder(
        cls, folder: str | Path, *, min_pixels: int | None = None, max_pixels: int | None = None
    ) -> "Processor":
        """Read tokenizer, image settings, model config and stop ids from a Hugging Face folder.

        `min_pixels` and `max_pixels` bound the area to which images are resized; None keeps the folder's own.

        Raises FileNotFoundError or ValueError naming the file that is missing or wrong.
        """
        folder = Path(folder)
        config = read_network(folder)
        images = read_image_processor(folder, min_pixels, max_pixels)
        tokenizer, stop_ids = read_tokenizer(folder), read_stop_ids(folder)
        try:
            return cls(tokenizer, images, config, stop_ids=stop_ids)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None

    def prepare(self, example: Example, template: PromptTemplate) -> PreparedPrompt | Rejected:
        """Render, tokenize, cut into patches; Rejected for a bad image or text that no prompt can hold."""
        body = question_body(example.question, example.options)
        for what, said in (("the question or an option", body), ("the answer", example.answer)):
            if fault := self.fault_in(said):
                return Rejected(example.id, f"{what} {fault}")
        try:
            patches, grids = self._cut(example.images)
        except ValueError as error:
            return Rejected(example.id, str(error))
        text = template.render(body, len(grids))
        ids = self._expand(self.encode(text), grids)
        merge = self.config.vision.spatial_merge_size
        positions, start = prompt_positions(ids, grids, self.config.image_token_id, merge)
        places = [patch_positions(grid, merge) for grid in grids]
        return PreparedPrompt(
            example=example,
            text=text,
            ids=ids,
            positions=positions,
            start=start,
            patches=patches,
            patch_positions=np.concatenate([np.zeros((0, 2), np.int32), *places]),
            segments=np.repeat(
                np.arange(1, len(grids) + 1, dtype=np.int32), [np.prod(grid) for grid in grids]
            ),
        )

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, special tokens recognised, none added."""
        return list(self._encoder.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " length"], *, special: bool = False) -> str:
        """The text of token ids; special tokens are left out, or with `special` written as they are named."""
        numbers = [int(number) for number in ids]
        return str(self._encoder.decode(numbers, skip_special_tokens=not special))

    def max_patches(self, images: int = 1) -> int:
        """The most patches that a number of images of ordinary shape can have under `max_pixels`."""
        vision = self.config.vision
        block = (vision.patch_size * vision.spatial_merge_size) ** 2
        return images * vision.merge_count * (self.image_processor.size["longest_edge"] // block)

    def fault_in(self, text: str) -> str | None:
        """Why a text of a data set cannot be tokenized as text, as "contains the ..."; None where it can.

        A special token that it spells out would be read as one.
        """
        if len(text) > _LONGEST_TEXT:
            return f"has {len(text)} characters, more than {_LONGEST_TEXT}"
        if re.search("[\ud800-\udfff]", text):
            return "contains half of a surrogate pair, which is no character"
        found = self._special.intersection(self.encode(text))
        named = self.tokenizer.convert_ids_to_tokens(min(found)) if found else None
        return f"contains the special token {named}" if found else None

    def _cut(
        self, images: Sequence[ImageSource]
    ) -> tuple[Float[np.ndarray, "patches patch_dim"], list[Grid]]:
        if not images:
            return np.zeros((0, self.config.vision.patch_dim), np.float32), []
        opened = [_opened(image, number, len(images)) for number, image in enumerate(images, 1)]
        encoded = self.image_processor(images=opened, return_tensors="np")
        grids: list[Grid] = [(int(t), int(h), int(w)) for t, h, w in encoded["image_grid_thw"]]
        return np.asarray(encoded["pixel_values"], np.float32), grids

    def _expand(self, ids: Sequence[int], grids: Sequence[Grid]) -> Int[np.ndarray, " prompt"]:
        """Repeat each image's placeholder once for every token that the merger gives for it."""
        array = np.asarray(ids, np.int32)
        counts = np.ones(len(array), np.int64)
        counts[array == self.config.image_token_id] = [
            np.prod(grid) // self.config.vision.merge_count for grid in grids
        ]
        return np.repeat(array, counts)


def _opened(source: ImageSource, number: int, count: int) -> Image.Image:
    """The decoded image; raises ValueError that says which of several it is."""
    try:
        image = open_image(source)
        short, long = sorted(image.size)
        if long > _GREATEST_RATIO * short:
            shape = f"{image.width}x{image.height}"
            raise ValueError(f"the image's aspect ratio is beyond {_GREATEST_RATIO} ({shape} pixels)")
    except ValueError as error:
        raise ValueError(f"image {number} of {count}: {error}" if count > 1 else str(error)) from error
    return image


def _check_sizes(images: Qwen2VLImageProcessorPil, config: Qwen2VLConfig) -> None:
    vision = config.vision
    sizes = {
        "patch_size": (images.patch_size, vision.patch_size),
        "temporal_patch_size": (images.temporal_patch_size, vision.temporal_patch_size),
        "merge_size": (images.merge_size, vision.spatial_merge_size),
    }
    for name, (ours, theirs) in sizes.items():
        if ours != theirs:
            raise ValueError(f"{name} is {ours} in preprocessor_config.json, but {theirs} in config.json")


def _check_tokens(tokenizer: PreTrainedTokenizerFast, config: Qwen2VLConfig) -> None:
    expected = {
        "<|image_pad|>": config.image_token_id,
        "<|video_pad|>": config.video_token_id,
        "<|vision_start|>": config.vision_start_token_id,
        "<|vision_end|>": config.vision_end_token_id,
    }
    vocabulary = tokenizer.get_vocab()
    if (last := max(vocabulary.values(), default=0)) >= config.text.vocab_size:
        raise ValueError(
            f"the tokenizer has a token {last}, but config.json a vocab_size of {config.text.vocab_size}"
        )
    for token, number in expected.items():
        if vocabulary.get(token) != number:
            raise ValueError(
                f"the tokenizer has {token} as {vocabulary.get(token)}, but config.json as {number}"
            )


def _stop_ids(first: Sequence[int], own: int | None, vocabulary: int) -> tuple[int, ...]:
    ids = dict.fromkeys([*first, *([] if own is None else [own])])
    if not ids:
        raise ValueError(
            "no token ends a completion: generation_config.json and the tokenizer name no eos token"
        )
    if (last := max(ids)) >= vocabulary:
        raise ValueError(f"token {last} ends a completion, but config.json has a vocab_size of {vocabulary}")
    return tuple(int(number) for number in ids)
