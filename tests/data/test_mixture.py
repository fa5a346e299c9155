"""Draws from several sources: exact shares, whole epochs, seeded, sliced by process, continued exactly."""

import json
from collections import Counter

import jax
import numpy as np
import pytest
from fixtures.data_files import gsm8k_row, sat_row, write_published
from fixtures.tiny_folder import make_tiny_folder

from vtzero.data.batches import Buckets
from vtzero.data.example import Example, Rejected
from vtzero.data.mixture import EndlessRows, Mixture, alone, block_of, counts_of, open_mixture
from vtzero.data.pipeline import GroupPipeline
from vtzero.data.processor import Processor
from vtzero.data.prompts import prompt_template


class Numbers:
    """Rows by number; those of `bad` cannot be read."""

    def __init__(self, length, bad=()):
        self.length, self.bad = length, set(bad)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index in self.bad:
            return Rejected(str(index), "no answer")
        return Example(str(index), "Where?", "left")

    def __repr__(self):
        return f"{self.length} numbers"


def mixture(lengths, weights, bad=()):
    names = [chr(ord("a") + number) for number in range(len(lengths))]
    rows = tuple(Numbers(length, bad if number == 0 else ()) for number, length in enumerate(lengths))
    return Mixture(rows, tuple(names), block_of(weights, names))


def drawn(rows, count, start=0):
    return [rows[index].row.id for index in range(start, start + count)]


# --- shares ---


@pytest.mark.parametrize(
    ("weights", "block"),
    [
        ([1, 1], (1, 1)),
        ([0.7, 0.3], (7, 3)),
        ([2, 1, 1], (2, 1, 1)),
        ([1 / 3, 2 / 3], (1, 2)),
        ([0.123, 0.877], (123, 877)),
        ([1, np.pi], (241, 759)),
        ([5], (1,)),
    ],
)
def test_blocks_hold_the_shares(weights, block):
    assert block_of(weights, "abc") == block


def test_a_share_too_small_for_a_block_is_named():
    with pytest.raises(ValueError, match="data_weights: the share of b is below 1 in 1000"):
        block_of([1, 0.0003], "ab")


@pytest.mark.parametrize("weights", [(1, 1), (7, 3), (1, 4)])
def test_every_block_has_the_shares_in_an_order_of_its_own(weights):
    rows = EndlessRows(mixture((50, 60), weights), seed=3)
    length = sum(weights)
    blocks = [[rows[block * length + place].source for place in range(length)] for block in range(40)]
    assert all(Counter(block) == {0: weights[0], 1: weights[1]} for block in blocks)
    assert len({tuple(block) for block in blocks}) > 1


def test_each_source_is_read_whole_every_epoch_in_another_order():
    rows = EndlessRows(mixture((6, 9), (2, 1)), seed=1)
    ids = drawn(rows, 3 * 27)
    for name, length in (("a", 6), ("b", 9)):
        own = [id for id in ids if id.startswith(f"{name}/")]
        epochs = [own[start : start + length] for start in range(0, len(own) - length + 1, length)]
        assert all(sorted(epoch) == sorted(f"{name}/{i}" for i in range(length)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs) >= 3


def test_sources_of_one_length_are_read_in_different_orders():
    rows = EndlessRows(mixture((30, 30), (1, 1)), seed=5)
    ids = [id.split("/") for id in drawn(rows, 60)]
    first, second = ([number for name, number in ids if name == wanted] for wanted in "ab")
    assert sorted(first) == sorted(second)
    assert first != second


def test_the_seed_decides_the_order():
    mixed = mixture((20, 30), (1, 2))
    assert drawn(EndlessRows(mixed, 1), 50) == drawn(EndlessRows(mixed, 1), 50)
    assert drawn(EndlessRows(mixed, 1), 50) != drawn(EndlessRows(mixed, 2), 50)


def test_any_position_can_be_read_first():
    mixed = mixture((20, 30), (3, 2))
    whole = drawn(EndlessRows(mixed, 1), 400)
    fresh = EndlessRows(mixed, 1)
    assert [fresh[index].row.id for index in (399, 7, 250)] == [whole[399], whole[7], whole[250]]
    assert drawn(EndlessRows(mixed, 1), 50, start=350) == whole[350:]


def test_a_source_alone_keeps_its_ids():
    rows = EndlessRows(alone(Numbers(5)), seed=1)
    assert sorted(drawn(rows, 5)) == ["0", "1", "2", "3", "4"]


# --- opened by name ---


@pytest.fixture
def files(tmp_path):
    kinds = ("other", "goal_aim")
    sat = [sat_row(i, images=1 + (i % 4 == 3), question_type=kinds[i % 2]) for i in range(12)]
    write_published(tmp_path / "SAT.parquet", "sat", sat)
    write_published(tmp_path / "gsm8k.parquet", "gsm8k", [gsm8k_row(index + 1) for index in range(5)])
    return [f"sat={tmp_path}/SAT.parquet", f"gsm8k={tmp_path}/gsm8k.parquet"]


def test_sources_are_told_apart_by_their_names(files):
    mixed = open_mixture(files, [3, 1])
    assert (mixed.names, mixed.block, len(mixed)) == (("sat", "gsm8k"), (3, 1), 17)
    ids = {id.partition(":")[0] for id in drawn(EndlessRows(mixed, 0), 20)}
    assert ids == {"sat/SAT.parquet", "gsm8k/gsm8k.parquet"}
    assert open_mixture(files).block == (1, 1)


def test_two_files_of_one_data_set_are_told_apart(files):
    other = files[1].replace("gsm8k.parquet", "[g]sm8k.parquet")
    assert open_mixture([files[1], other]).names == (files[1], other)


def test_a_source_named_twice_is_refused(files):
    with pytest.raises(ValueError, match="is named twice; give it once, with a larger weight"):
        open_mixture([files[0], files[0]])


def test_filters_meet_the_sources_that_have_what_they_filter(files):
    mixed = open_mixture(files, max_images=1, question_types=["goal_aim"], limit=10)
    assert [len(source) for source in mixed.sources] == [3, 5]
    sat, gsm8k = counts_of(mixed)
    assert (sat.first, sat.other_types, sat.too_many_images, sat.kept) == (10, 5, 2, 3)
    assert (gsm8k.first, gsm8k.kept) == (5, 5)
    with pytest.raises(ValueError, match=r"there is no question type 'nothing'; there are goal_aim or other"):
        open_mixture(files, question_types=["goal_aim", "nothing"])


# --- in the pipeline ---


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return Processor.from_folder(make_tiny_folder(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def pipeline(processor):
    opened = []

    def build(source, *, seed=3, **options):
        buckets = Buckets(prompt_length=300, patches=64)
        template = prompt_template("r1_v")
        opened.append(GroupPipeline(source, processor, template, buckets, seed=seed, **options))
        return opened[-1]

    yield build
    for stream in opened:
        stream.close()


def ids(batch):
    return [prompt.id for prompt in batch.prompts]


@pytest.mark.parametrize("batches_before", [0, 1, 3, 7])
def test_a_fresh_pipeline_continues_from_the_state(files, pipeline, batches_before):
    mixed = open_mixture(files, [0.6, 0.4])
    whole = pipeline(mixed)
    for _ in range(batches_before):
        whole.next_batch(4)
    state = json.loads(json.dumps(whole.get_state()))
    resumed = pipeline(open_mixture(files, [0.6, 0.4]))
    resumed.next_batch(3)
    resumed.set_state(state)
    for _ in range(5):
        one, other = whole.next_batch(4), resumed.next_batch(4)
        assert ids(one) == ids(other)
        for ours, theirs in zip(jax.tree.leaves(one.arrays), jax.tree.leaves(other.arrays), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_images_and_text_share_a_batch(files, pipeline):
    stream = pipeline(open_mixture(files))
    batches = [stream.next_batch(6) for _ in range(4)]
    assert all({len(prompt.patches) > 0 for prompt in batch.prompts} == {True, False} for batch in batches)
    assert len({tuple(leaf.shape for leaf in jax.tree.leaves(batch.arrays)) for batch in batches}) == 1
