"""The drawn scenes as a source named `scenes`: every item is drawn when it is read, so no file is needed.

Knows how an item becomes an Example; what an item holds stands in `vtzero.scenes.dataset`.
"""

from PIL import Image

from vtzero.data.example import Example
from vtzero.data.sources import Source, register_source
from vtzero.scenes.dataset import SPLITS, scene_item
from vtzero.scenes.questions import FAMILIES
from vtzero.scenes.world import Split

LENGTHS: dict[Split, int] = {"train": 100_000, "test": 2_000}
"""Items that each split shows; there are as many as one asks for, and these are an epoch."""

_SEED = 0


class ScenesSource:
    """The items of one split by number, drawn with seed 0; the families take turns."""

    def __init__(self, split: Split):
        self._split = split

    def __len__(self) -> int:
        return LENGTHS[self._split]

    def __getitem__(self, index: int, /) -> Example:
        index = range(len(self))[index]
        item = scene_item(self._split, index, _SEED)
        return Example(
            id=f"scenes-{self._split}-{index}",
            question=item.question.text,
            answer=item.question.answer,
            images=(Image.fromarray(item.picture),),
            options=item.question.options,
            task=item.question.task,
        )

    def tasks(self, count: int) -> list[str]:
        """The families of the first items."""
        return [FAMILIES[index % len(FAMILIES)] for index in range(count)]

    def image_counts(self, count: int) -> list[int]:
        """One picture an item."""
        return [1] * count

    def __repr__(self) -> str:
        return f"scenes ({self._split})"


@register_source("scenes")
def open_scenes(split: str) -> Source:
    """The source of a split, "train" or "test"; ValueError when there is no such split."""
    for known in SPLITS:
        if split == known:
            return ScenesSource(known)
    raise ValueError(f"scenes: there is no split {split!r}; use one of {', '.join(SPLITS)}")
