"""The static shape of a benchmark's batches, so that one compiled program asks all of it.

Knows image sizes, and decodes no image.
"""

import io

from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from vtzero.data.batches import Buckets
from vtzero.data.example import Example, ImageSource
from vtzero.data.processor import Processor
from vtzero.evaluation.benchmarks import Benchmark

MEASURED_FROM = 4096
"""Patches a prompt. Where the pixel limit allows more, the images are measured: the hub's own limit allows
65,536 patches, 300 MB a prompt, of which ordinary photographs fill a few per cent."""


def benchmark_buckets(benchmark: Benchmark, processor: Processor, prompt_length: int) -> Buckets:
    """Room for every prompt of up to `prompt_length` tokens, and no more patches than the images need."""
    patches = processor.max_patches(benchmark.images)
    if patches > MEASURED_FROM:
        patches = min(patches, _most_patches(benchmark, processor))
    return Buckets(prompt_length, patches)


def _most_patches(benchmark: Benchmark, processor: Processor) -> int:
    rows = (benchmark.examples[index] for index in range(len(benchmark.examples)))
    examples = (row for row in rows if isinstance(row, Example))
    return max((sum(patch_count(image, processor) for image in row.images) for row in examples), default=0)


def patch_count(image: ImageSource, processor: Processor) -> int:
    """The patches that an image is cut into; 0 for one that cannot be opened or is too narrow."""
    vision, limits = processor.config.vision, processor.image_processor.size
    try:
        width, height = _size(image)
        height, width = smart_resize(
            height,
            width,
            factor=vision.patch_size * vision.spatial_merge_size,
            min_pixels=limits["shortest_edge"],
            max_pixels=limits["longest_edge"],
        )
    except Exception:  # Pillow's kinds are many; preparing the image says what is wrong with it
        return 0
    return int(height * width) // vision.patch_size**2


def _size(image: ImageSource) -> tuple[int, int]:
    if isinstance(image, Image.Image):
        return image.size
    with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
        return opened.size
