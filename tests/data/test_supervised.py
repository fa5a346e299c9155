"""Supervised batches: targets and masks, exact resume, and every document within its bucket."""

import numpy as np
import pytest
from fixtures.tiny_folder import make_tiny_folder

from vtzero.data.batches import Buckets
from vtzero.data.pipeline import GroupPipeline
from vtzero.data.processor import Processor
from vtzero.data.prompts import prompt_template
from vtzero.data.sources import open_source
from vtzero.data.supervised import KINDS, AnswerStream, DocumentStream, corpus, encode_targets
from vtzero.scenes.blank import write_blank

TEMPLATE = prompt_template("r1_zero_base")


@pytest.fixture(scope="module")
def blank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blank")
    write_blank(folder, iter(corpus(TEMPLATE)))
    return Processor.from_folder(folder)


@pytest.fixture
def documents(blank):
    stream = DocumentStream(blank, TEMPLATE, seed=1, prompts_per_step=4, max_steps=40)
    yield stream
    stream.close()


def test_a_target_is_its_text_and_the_stop_token(blank):
    ids, mask = encode_targets(blank, [[" left", " the red cube"]], 12)
    for row, kept, text in zip(ids[0], mask[0], (" left", " the red cube"), strict=True):
        assert blank.decode(row[kept]) == text
        assert row[kept][-1] == blank.tokenizer.eos_token_id
        assert (row[~kept] == blank.pad_id).all()


def test_a_target_that_does_not_fit_is_an_error(blank):
    with pytest.raises(ValueError, match="bucket holds 3"):
        encode_targets(blank, [[" a long text about a red cube"]], 3)


def test_documents_come_in_the_kinds_of_their_cycle_and_fit(documents):
    shapes = set()
    for index in range(40):
        batch = documents.batch(index)
        shapes.add((batch.prompts.ids.shape[1], *batch.target_ids.shape[1:]))
        assert batch.mask.any(axis=-1).all()
    assert shapes == {(kind.prompt_length, kind.group, kind.target_length) for kind in KINDS.values()}


def test_documents_continue_where_they_stood(blank, documents):
    expected = [documents.next_batch() for _ in range(4)]
    again = DocumentStream(blank, TEMPLATE, seed=1, prompts_per_step=4, max_steps=40)
    again.next_batch()
    state = again.get_state()
    again.close()
    resumed = DocumentStream(blank, TEMPLATE, seed=1, prompts_per_step=4, max_steps=40)
    resumed.set_state(state)
    for batch in expected[1:]:
        other = resumed.next_batch()
        assert np.array_equal(batch.target_ids, other.target_ids)
        assert np.array_equal(batch.prompts.patches, other.prompts.patches)
    resumed.close()


def test_answers_of_a_source_are_the_targets(tmp_path):
    processor = Processor.from_folder(make_tiny_folder(tmp_path / "model"))
    buckets = Buckets(400, processor.max_patches())
    source = open_source("scenes", split="train", limit=8)
    pipeline = GroupPipeline(source, processor, TEMPLATE, buckets, seed=0)
    twin = GroupPipeline(source, processor, TEMPLATE, buckets, seed=0)
    stream = AnswerStream(pipeline, processor, batch_size=3, length=16)
    batch, prompts = stream.next_batch(), twin.next_batch(3).prompts
    texts = [
        processor.decode(ids[mask][:-1])
        for ids, mask in zip(batch.target_ids[:, 0], batch.mask[:, 0], strict=True)
    ]
    assert texts == [f" {prompt.answer}" for prompt in prompts]
    stream.close()
    twin.close()
