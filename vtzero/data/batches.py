"""Prepared prompts -> one padded batch of static shape. Knows arrays only: no files, no tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vtzero.data.example import Rejected
from vtzero.data.processor import PreparedPrompt
from vtzero.models.qwen2_vl.inputs import Prompts


@dataclass(frozen=True)
class Buckets:
    """The static shape of a batch: tokens a prompt, patches a sample (0 for text alone)."""

    prompt_length: int
    patches: int

    def __post_init__(self) -> None:
        if self.prompt_length < 1 or self.patches < 0:
            raise ValueError(f"a bucket needs at least one token and no negative number of patches: {self}")


def fits(prompt: PreparedPrompt, buckets: Buckets) -> Rejected | None:
    """None when the prompt fits; else the reason, and the way out."""
    tokens, patches = len(prompt.ids), len(prompt.patches)
    if tokens > buckets.prompt_length:
        limit = f"the bucket holds {buckets.prompt_length}"
        way_out = "raise max_prompt_length or lower max_pixels" if patches else "raise max_prompt_length"
        return Rejected(prompt.id, f"prompt has {tokens} tokens, {limit} ({way_out})")
    if patches > buckets.patches:
        images = int(prompt.segments.max())
        limit = f"the bucket holds {buckets.patches}"
        if images == 1 and buckets.patches:
            return Rejected(prompt.id, f"prompt has {patches} image patches, {limit} (lower max_pixels)")
        what = f"{images} image{'s' if images > 1 else ''} of {patches} patches"
        return Rejected(prompt.id, f"prompt has {what}, {limit} (raise max_images or lower max_pixels)")
    return None


def collate(prompts: Sequence[PreparedPrompt], buckets: Buckets, pad_id: int) -> Prompts:
    """Right-pad prompts to the bucket; numpy arrays, int32 and float32, of the shapes of `Prompts`.

    Padded tokens are `pad_id` with mask False; padded patches are zeros of segment 0.

    Raises ValueError when there are no prompts, or one does not fit.
    """
    if not prompts:
        raise ValueError("a batch needs at least one prompt")
    for prompt in prompts:
        if rejected := fits(prompt, buckets):
            raise ValueError(f"{rejected.id}: {rejected.reason}")
    length, patches = buckets.prompt_length, buckets.patches
    ids = _pad([prompt.ids for prompt in prompts], length, pad_id)
    lengths = np.array([len(prompt.ids) for prompt in prompts])
    positions = _pad([prompt.positions.T for prompt in prompts], length).transpose(2, 0, 1)
    return Prompts(
        ids=ids,
        mask=_pad([np.ones(count, bool) for count in lengths], length),
        positions=positions,
        start=_array([prompt.start for prompt in prompts]),
        patches=_pad([prompt.patches for prompt in prompts], patches),
        patch_positions=_pad([prompt.patch_positions for prompt in prompts], patches),
        segments=_pad([prompt.segments for prompt in prompts], patches),
    )


def blank_prompts(batch: int, buckets: Buckets, patch_dim: int) -> Prompts:
    """A batch of the shapes of `collate`'s in which nothing stands."""
    length, patches = buckets.prompt_length, buckets.patches
    blank: Any = {
        "ids": np.zeros((batch, length), np.int32),
        "mask": np.zeros((batch, length), bool),
        "positions": np.zeros((3, batch, length), np.int32),
        "start": np.zeros(batch, np.int32),
        "patches": np.zeros((batch, patches, patch_dim), np.float32),
        "patch_positions": np.zeros((batch, patches, 2), np.int32),
        "segments": np.zeros((batch, patches), np.int32),
    }
    return Prompts(**blank)


# `Prompts` is typed with jax's arrays, for the model; on the host its leaves are numpy's: hence Any.
def _pad(rows: Sequence[np.ndarray], length: int, value: int = 0) -> Any:
    """Stack arrays of one dtype whose first axes differ, each filled up to `length` with `value`."""
    padded = np.full((len(rows), length, *rows[0].shape[1:]), value, rows[0].dtype)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded


def _array(values: Sequence[int]) -> Any:
    return np.asarray(values, np.int32)
