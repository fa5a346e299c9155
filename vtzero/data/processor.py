"""From an Example to what Qwen2-VL reads: text, token ids, patches, positions; and from ids back to text.

Text goes through transformers' tokenizer and images through its PIL image processor, neither of which needs
torch. Everything here is a pure function of the example, safe to call from several threads. Knows no batches.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vtzero.data.example import Example, ImageSource, Rejected
from vtzero.data.images import open_image
from vtzero.data.prompts import PromptTemplate, question_body
from vtzero.models.qwen2_vl.config import Qwen2VLConfig, parse_config
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
        self.stop_ids = _stop_ids(stop_ids, tokenizer.eos_token_id)
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
        config = parse_config(_read_json(folder / "config.json"))
        settings = _image_settings(folder)
        size = _pixel_limits(settings, min_pixels, max_pixels)
        images = Qwen2VLImageProcessorPil(
            **{name: settings[name] for name in _IMAGE_KEYS if name in settings}, size=size
        )
        return cls(_read_tokenizer(folder), images, config, stop_ids=_generation_stop_ids(folder))

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

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " length"]) -> str:
        """The text of token ids, without special tokens."""
        return str(self._encoder.decode([int(number) for number in ids], skip_special_tokens=True))

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


_IMAGE_KEYS = (
    "do_resize",
    "resample",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_convert_rgb",
    "patch_size",
    "temporal_patch_size",
    "merge_size",
)


def _read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise FileNotFoundError(f"{folder}: neither tokenizer.json nor vocab.json is there")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust library raises bare ones
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{folder}: its tokenizer files cannot be read ({reason}); fetch them again"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a Hugging Face folder of a Qwen2-VL is expected")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a JSON object")
    return content


def _image_settings(folder: Path) -> dict[str, Any]:
    """`preprocessor_config.json`, or the part of `processor_config.json` to which transformers 5 moved it."""
    moved = folder / "processor_config.json"
    if moved.is_file() and isinstance(nested := _read_json(moved).get("image_processor"), dict):
        return nested
    return _read_json(folder / "preprocessor_config.json")


def _pixel_limits(
    settings: Mapping[str, Any], min_pixels: int | None, max_pixels: int | None
) -> dict[str, int]:
    """Limits by transformers 5's names: the call's, else the hub's keys, else `size`, else the default."""
    size = settings.get("size") or {}
    given = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    limits = {}
    for name, key in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        choices = (given[name], settings.get(name), size.get(key), size.get(name))
        chosen = next(
            (choice for choice in choices if choice is not None), Qwen2VLImageProcessorPil.size[key]
        )
        limits[key] = int(chosen)
    if not 0 < limits["shortest_edge"] <= limits["longest_edge"]:
        raise ValueError(
            f"min_pixels is {limits['shortest_edge']} and max_pixels {limits['longest_edge']}; "
            "min_pixels must be positive and no more than max_pixels"
        )
    return limits


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
    for token, number in expected.items():
        if vocabulary.get(token) != number:
            raise ValueError(
                f"the tokenizer has {token} as {vocabulary.get(token)}, but config.json as {number}"
            )


def _generation_stop_ids(folder: Path) -> list[int]:
    path = folder / "generation_config.json"
    ids = _read_json(path).get("eos_token_id") if path.is_file() else None
    return [] if ids is None else ids if isinstance(ids, list) else [ids]


def _stop_ids(first: Sequence[int], own: int | None) -> tuple[int, ...]:
    ids = dict.fromkeys([*first, *([] if own is None else [own])])
    if not ids:
        raise ValueError(
            "no token ends a completion: generation_config.json and the tokenizer name no eos token"
        )
    return tuple(int(number) for number in ids)
