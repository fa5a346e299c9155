"""The source named `scenes`: drawn when read, the same in every thread, ready for the pipeline."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fixtures.tiny_folder import make_tiny_folder

from vtzero.data.batches import Buckets
from vtzero.data.example import Example
from vtzero.data.pipeline import GroupPipeline
from vtzero.data.processor import Processor
from vtzero.data.prompts import TEMPLATES
from vtzero.data.sources import SOURCES, open_source
from vtzero.scenes.dataset import scene_item
from vtzero.scenes.questions import FAMILIES

PAPER = TEMPLATES["r1_zero_base"]


@pytest.mark.parametrize(("split", "length"), [("train", 100_000), ("test", 2_000)])
def test_lengths(split, length):
    source = open_source("scenes", split=split)
    assert len(source) == length
    assert source[-1].id == f"scenes-{split}-{length - 1}"
    with pytest.raises(IndexError):
        source[length]


@pytest.mark.parametrize("split", ["train", "test"])
def test_examples_are_the_drawn_items(split):
    source = open_source("scenes", split=split)
    for index in (0, 1, 2, 3, 1998, 1999):
        example, item = source[index], scene_item(split, index)
        assert isinstance(example, Example)
        assert example.id == f"scenes-{split}-{index}"
        assert (example.question, example.answer) == (item.question.text, item.question.answer)
        assert example.options == item.question.options
        assert example.task == item.question.task == FAMILIES[index % 4]
        (image,) = example.images
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), item.picture)


def test_it_is_registered_by_name():
    assert "scenes" in SOURCES
    assert repr(open_source("scenes", split="test")) == "scenes (test)"


def test_train_is_the_default_split_and_limit_keeps_the_first():
    source = open_source("scenes", limit=6)
    assert [example.id for example in source] == [f"scenes-train-{index}" for index in range(6)]
    assert len(open_source("scenes", split="test", limit=10**6)) == 2_000


def test_one_image_passes_the_limit_of_images():
    assert isinstance(open_source("scenes", max_images=1)[0], Example)


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match="scenes: there is no split 'validation'; use one of train, test"):
        open_source("scenes", split="validation")


def test_families_are_balanced():
    tasks = Counter(example.task for example in open_source("scenes", split="test", limit=120))
    assert tasks == dict.fromkeys(FAMILIES, 30)


def test_threads_read_the_same_examples():
    source = open_source("scenes", limit=60)
    alone = [(example.id, example.answer, example.images[0].tobytes()) for example in source]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(source.__getitem__, range(60)))
    assert [(example.id, example.answer, example.images[0].tobytes()) for example in together] == alone


def test_the_pipeline_prepares_scenes(tmp_path):
    processor = Processor.from_folder(make_tiny_folder(tmp_path), max_pixels=84 * 84)
    pipeline = GroupPipeline(
        open_source("scenes"), processor, PAPER, Buckets(1024, 36), seed=3, num_threads=2
    )
    batch = pipeline.next_batch(12)
    pipeline.close()
    assert batch.rejected == []
    assert len({prompt.id for prompt in batch.prompts}) == 12
    for prompt in batch.prompts:
        item = scene_item("train", int(prompt.id.removeprefix("scenes-train-")))
        options = item.question.options
        choices = f"{', '.join(options[:-1])} or {options[-1]}"
        assert f"User: Answer in natural language. {item.question.text} Choose" in prompt.text
        assert f"between the following options: {choices} \nAssistant:" in prompt.text
        assert prompt.answer == item.question.answer
        assert prompt.patches.shape[0] == 36
