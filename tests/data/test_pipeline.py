"""The stream of batches: every row each epoch, the same for the same seed, resumable to the batch."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from fixtures.tiny_folder import make_tiny_folder
from PIL import Image

from vtzero.data.batches import Buckets
from vtzero.data.example import Example, Rejected
from vtzero.data.mixture import Mixture
from vtzero.data.pipeline import GroupPipeline, RejectedRowsError
from vtzero.data.processor import Processor
from vtzero.data.prompts import prompt_template
from vtzero.parallel.processes import RowShare

BUCKETS = Buckets(prompt_length=160, patches=16)


class Questions:
    """Rows by number; those of `bad` cannot be read, and those of `long` do not fit the bucket."""

    def __init__(self, length, bad=(), long=()):
        self.length, self.bad, self.long = length, set(bad), set(long)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index in self.bad:
            return Rejected(str(index), "no answer")
        question = "Where? " * (100 if index in self.long else 1)
        return Example(str(index), question, "left", (Image.new("RGB", (30, 30), (index, 0, 0)),))

    def __repr__(self):
        return "questions"


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return Processor.from_folder(make_tiny_folder(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def pipeline(processor):
    opened = []

    def build(source, *, seed=3, **options):
        stream = GroupPipeline(
            source, processor, prompt_template("r1_zero_base"), BUCKETS, seed=seed, **options
        )
        opened.append(stream)
        return stream

    yield build
    for stream in opened:
        stream.close()


def ids(batch):
    return [prompt.id for prompt in batch.prompts]


def assert_same(one, other):
    assert ids(one) == ids(other)
    assert one.rejected == other.rejected
    for ours, theirs in zip(jax.tree.leaves(one.arrays), jax.tree.leaves(other.arrays), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_each_epoch_shows_every_row_in_another_order(pipeline):
    stream = pipeline(Questions(12))
    epochs = [[row for _ in range(3) for row in ids(stream.next_batch(4))] for _ in range(3)]
    for epoch in epochs:
        assert sorted(epoch, key=int) == [str(i) for i in range(12)]
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_arrays_belong_to_the_prompts(pipeline):
    batch = pipeline(Questions(6)).next_batch(4)
    assert batch.arrays.ids.shape == (4, 160)
    for row, prompt in enumerate(batch.prompts):
        np.testing.assert_array_equal(batch.arrays.ids[row, : len(prompt.ids)], prompt.ids)
        np.testing.assert_array_equal(batch.arrays.patches[row, : len(prompt.patches)], prompt.patches)


def test_seeds_differ_and_repeat(pipeline):
    orders = [ids(pipeline(Questions(20), seed=seed).next_batch(10)) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("threads", [(0, 0), (1, 2), (4, 16)], ids=str)
def test_prefetching_changes_nothing(pipeline, threads):
    source = Questions(11, bad=[2, 5], long=[7])
    plain = pipeline(source, num_threads=0, prefetch=0)
    ahead = pipeline(source, num_threads=threads[0], prefetch=threads[1])
    for _ in range(5):
        assert_same(plain.next_batch(3), ahead.next_batch(3))


@pytest.mark.parametrize("batches_before", [0, 1, 2, 5])
@pytest.mark.parametrize("threads", [(0, 0), (4, 16)], ids=str)
def test_a_fresh_pipeline_continues_from_the_state(pipeline, batches_before, threads):
    source = Questions(11, bad=[2, 5], long=[7])
    options = {"num_threads": threads[0], "prefetch": threads[1]}
    whole = pipeline(source, **options)
    for _ in range(batches_before):
        whole.next_batch(3)
    state = json.loads(json.dumps(whole.get_state()))
    resumed = pipeline(source, **options)
    resumed.next_batch(2)
    resumed.set_state(state)
    for _ in range(4):
        assert_same(whole.next_batch(3), resumed.next_batch(3))


def test_rejected_rows_are_returned_where_they_stood(pipeline):
    source = Questions(10, bad=[1, 4], long=[6])
    batches = [pipeline(source).next_batch(7) for _ in range(2)]
    rejected = batches[0].rejected
    assert rejected == batches[1].rejected
    assert {row.id for row in rejected} <= {"1", "4", "6"}
    epoch = pipeline(source)
    seen = [epoch.next_batch(1) for _ in range(14)]
    reasons = {row.id: row.reason for batch in seen for row in batch.rejected}
    assert reasons["1"] == reasons["4"] == "no answer"
    assert "the bucket holds 160" in reasons["6"]
    assert not {"1", "4", "6"} & {prompt for batch in seen for prompt in ids(batch)}


class Talk:
    """Processes of one job, each a thread here, that tell each other what they pass."""

    def __init__(self, *parts):
        self.parts, self.told = parts, [None] * len(parts)
        self.everyone = threading.Barrier(len(parts), timeout=60)

    def share(self, block):
        share = RowShare(block, self.parts)
        return SimpleNamespace(
            block=block,
            blocks=share.blocks,
            rows=share.rows,
            gather=lambda value: self.gather(block, value),
        )

    def gather(self, block, value):
        self.told[block] = value
        self.everyone.wait()
        told = list(self.told)
        self.everyone.wait()
        return told


@pytest.mark.parametrize("prefetch", [0, 9])
@pytest.mark.parametrize(
    "parts", [((0,), (1,)), ((0,), (1,), (2,)), ((0, 5), (1, 3), (2, 4))], ids=["two", "three", "mixed"]
)
def test_processes_have_the_batches_of_one(pipeline, parts, prefetch):
    source, blocks = Questions(14, bad={1, 4, 5}, long={6}), range(len(parts))
    talk, one = Talk(*parts), pipeline(source)
    streams = [pipeline(source, share=talk.share(block), prefetch=prefetch) for block in blocks]
    order = np.argsort(RowShare(0, parts).gathered_rows(6))
    with ThreadPoolExecutor(len(parts)) as pool:
        for _ in range(7):
            whole = one.next_batch(6)
            own = list(pool.map(lambda stream: stream.next_batch(6), streams))
            told = [row for batch in own for row in ids(batch)]
            assert [told[at] for at in order] == ids(whole)
            assert all(batch.rejected == whole.rejected for batch in own)
            assert {len(batch.prompts) for batch in own} == {6 // len(parts)}
            patches = np.concatenate([batch.arrays.patches for batch in own])
            np.testing.assert_array_equal(patches[order], whole.arrays.patches)
    assert {json.dumps(stream.get_state()) for stream in streams} == {json.dumps(one.get_state())}


def test_one_process_continues_where_two_stopped(pipeline):
    source = Questions(9, bad={2})
    talk, one, after = Talk((0,), (1,)), pipeline(source), pipeline(source)
    parts = [pipeline(source, share=talk.share(block)) for block in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            one.next_batch(4)
            list(pool.map(lambda part: part.next_batch(4), parts))
    after.set_state(json.loads(json.dumps(parts[1].get_state())))
    assert_same(after.next_batch(4), one.next_batch(4))


def test_nothing_but_rejections_ends_with_the_last_reason(pipeline):
    with pytest.raises(
        ValueError, match=r"every row of questions was rejected; the last reason, of \d: no answer"
    ):
        pipeline(Questions(5, bad=range(5))).next_batch(2)


def test_one_good_row_among_many_is_found(pipeline):
    stream = pipeline(Questions(40, bad=range(1, 40)))
    assert [ids(stream.next_batch(1)) for _ in range(6)] == [["0"]] * 6


def test_a_limit_of_rejections_in_a_row(pipeline):
    stream = pipeline(Questions(40, bad=range(1, 40)), max_rejected=4)
    with pytest.raises(ValueError, match="4 rows in a row of questions were rejected"):
        stream.next_batch(3)


def test_rejections_in_a_row_are_counted_on_after_an_interruption(pipeline):
    """Those of one source among the good rows of another; none of the batches has six."""
    uneven = Mixture((Questions(8), Questions(8, bad=range(8))), ("good", "bad"), (1, 1))
    straight, first, resumed = (pipeline(uneven, max_rejected=6) for _ in range(3))
    batches, rejected = drawn_to_the_end(straight)
    assert batches > 2
    assert 0 < len(rejected) < 6
    for _ in range(2):
        first.next_batch(1)
    resumed.set_state(json.loads(json.dumps(first.get_state())))
    assert drawn_to_the_end(resumed) == (batches - 2, rejected)


def drawn_to_the_end(stream):
    """How many batches of one prompt there were until it ended, and the rows set aside since the last."""
    batches = 0
    try:
        while True:
            stream.next_batch(1)
            batches += 1
    except RejectedRowsError as error:
        return batches, error.rejected


def test_rejections_between_good_rows_do_not_add_up(pipeline):
    """Six bad rows of twelve can follow each other twelve times at most, over the end of an epoch."""
    batch = pipeline(Questions(12, bad=range(6)), max_rejected=13).next_batch(40)
    assert len(batch.rejected) > 30


def test_states_of_another_run_are_refused(pipeline):
    state = pipeline(Questions(6), seed=3).get_state()
    with pytest.raises(ValueError, match="the saved data state has seed 3, but this run has 4"):
        pipeline(Questions(6), seed=4).set_state(state)
    with pytest.raises(ValueError, match="rows 6, but this run has 7"):
        pipeline(Questions(7), seed=3).set_state(state)


def test_impossible_settings_are_refused(pipeline):
    with pytest.raises(ValueError, match="questions holds no rows"):
        pipeline(Questions(0))
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        pipeline(Questions(4)).next_batch(0)


def test_a_failure_while_preparing_is_not_hidden(pipeline):
    class Broken(Questions):
        def __getitem__(self, index):
            raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        pipeline(Broken(4)).next_batch(1)
