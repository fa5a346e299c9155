"""Text, one image and several images in one batch: one compiled program, and no sample sees another."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from fixtures.data_files import gsm8k_row, sat_row, stored, write_published
from fixtures.tiny_folder import make_tiny_folder
from flax import nnx

from vtzero.config import build_config
from vtzero.data.batches import Buckets, collate
from vtzero.data.pipeline import GroupPipeline
from vtzero.data.processor import Processor
from vtzero.data.prompts import prompt_template
from vtzero.grpo.scoring import group_logprobs
from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.training.huggingface import load_model
from vtzero.training.setup import training_source

BATCH, GROUP, LENGTH = 6, 2, 5
TEMPLATE = prompt_template("r1_v")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_tiny_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def processor(folder):
    return Processor.from_folder(folder)


@pytest.fixture(scope="module")
def buckets(processor):
    return Buckets(prompt_length=320, patches=processor.max_patches(2))


@pytest.fixture(scope="module")
def batches(processor, buckets, tmp_path_factory):
    """Batches of a mixture of questions about one scene, about two, and about none."""
    data = tmp_path_factory.mktemp("data")
    sizes = [(60, 90), (100, 40), (28, 28), (112, 112)]
    sat = [
        sat_row(i, image_bytes=[stored(40 * i + k, sizes[(i + k) % 4]) for k in range(1 + i % 2)])
        for i in range(6)
    ]
    write_published(data / "SAT.parquet", "sat", sat)
    write_published(data / "train.parquet", "gsm8k", [gsm8k_row(i) for i in range(1, 6)])
    specs = [f"sat={data}/SAT.parquet", f"gsm8k={data}/train.parquet"]
    source = training_source(build_config({"data": specs, "data_weights": [2, 1], "max_images": 2}))
    stream = GroupPipeline(source, processor, TEMPLATE, buckets, seed=1)
    drawn = [stream.next_batch(BATCH) for _ in range(4)]
    stream.close()
    return drawn


@pytest.fixture(scope="module")
def completions():
    return np.random.default_rng(0).integers(0, 250, (BATCH, GROUP, LENGTH)).astype(np.int32)


class Scorer:
    """Log-probabilities under the tiny model; `traces` counts the programs compiled for each bucket."""

    def __init__(self, folder: Path):
        self.traces: Counter[int] = Counter()
        self._graphdef, self._params = load_model(
            folder, dtype=np.float32, parameter_dtype=np.float32, remat="none"
        )
        self._score = jax.jit(self._logprobs)

    def __call__(self, prompts: Prompts, completions: np.ndarray) -> np.ndarray:
        return np.asarray(self._score(self._params, prompts, completions))

    def _logprobs(self, params, prompts, completions):
        self.traces[prompts.patches.shape[1]] += 1
        return group_logprobs(nnx.merge(self._graphdef, params), prompts, completions)[0]


@pytest.fixture(scope="module")
def score(folder):
    return Scorer(folder)


def images_of(batch):
    return [int(prompt.segments.max(initial=0)) for prompt in batch.prompts]


def test_every_mixture_of_images_and_text_runs_the_same_program(batches, completions, buckets, score):
    kinds = {tuple(sorted(images_of(batch))) for batch in batches}
    assert len(kinds) > 1
    assert {count for kind in kinds for count in kind} == {0, 1, 2}
    for batch in batches:
        assert np.isfinite(score(batch.arrays, completions)).all()
    assert score.traces[buckets.patches] == 1


def test_text_alone_runs_it_too(batches, completions, processor, buckets, score):
    text = [p for batch in batches for p in batch.prompts if not len(p.patches)][:BATCH]
    score(batches[0].arrays, completions)
    score(collate(text, buckets, processor.pad_id), completions)
    assert score.traces[buckets.patches] == 1


def test_permuting_samples_leaves_each_ones_logprobs(batches, completions, processor, buckets, score):
    for seed, batch in enumerate(batches):
        order = np.random.default_rng(seed).permutation(BATCH)
        permuted = collate([batch.prompts[i] for i in order], buckets, processor.pad_id)
        expected = score(batch.arrays, completions)[order]
        np.testing.assert_allclose(score(permuted, completions[order]), expected, rtol=0, atol=1e-6)


def test_a_samples_neighbours_do_not_matter(batches, completions, processor, buckets, score):
    """Each sample among five copies of another, text beside images and images beside text."""
    batch = batches[0]
    expected = score(batch.arrays, completions)
    for place, prompt in enumerate(batch.prompts):
        among = [batch.prompts[(place + 1) % BATCH]] * BATCH
        among[place] = prompt
        found = score(collate(among, buckets, processor.pad_id), completions)
        np.testing.assert_allclose(found[place], expected[place], rtol=0, atol=1e-6)


def test_a_larger_bucket_changes_nothing(batches, completions, processor, buckets, score):
    wide = Buckets(buckets.prompt_length + 40, buckets.patches + 32)
    for batch in batches[:2]:
        found = score(collate(batch.prompts, wide, processor.pad_id), completions)
        np.testing.assert_allclose(found, score(batch.arrays, completions), rtol=0, atol=1e-5)


def test_the_pictures_matter(batches, completions, score):
    """So that the comparisons above could fail."""
    batch = batches[0]
    place = images_of(batch).index(2)
    prompt = batch.prompts[place]
    blank = batch.arrays.patches.copy()
    second = prompt.segments == 2
    blank[place, : len(second)][second] += 0.5
    changed = score(replace(batch.arrays, patches=blank), completions)
    difference = np.abs(changed - score(batch.arrays, completions)).max(axis=(1, 2))
    assert difference[place] > 1e-4
    assert np.delete(difference, place).max() == 0
