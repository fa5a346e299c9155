"""Supervised batches: targets and masks, exact resume, and every document within its bucket."""

import json

import numpy as np
import pytest
from fixtures.tiny_folder import make_tiny_folder

from vtzero.data.batches import Buckets
from vtzero.data.example import Example
from vtzero.data.pipeline import GroupPipeline
from vtzero.data.processor import Processor
from vtzero.data.prompts import prompt_template
from vtzero.data.sources import open_source
from vtzero.data.supervised import (
    KINDS,
    AnswerStream,
    DocumentStream,
    TargetError,
    corpus,
    encode_targets,
    target_text,
)
from vtzero.parallel.processes import ALONE, RowShare
from vtzero.rewards.format import paper_format
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


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return Processor.from_folder(make_tiny_folder(tmp_path_factory.mktemp("model") / "folder"))


def write_rows(folder, answers, **columns):
    """A file of questions without pictures; a column's None is left out of its row."""
    rows = [
        {"id": f"row-{number}", "question": f"What is {number}?", "answer": answer, "images": []}
        | {name: values[number] for name, values in columns.items() if values[number] is not None}
        for number, answer in enumerate(answers)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_source(path)


def stream_of(source, processor, template="r1_zero_base", **settings):
    buckets = Buckets(400, processor.max_patches())
    settings = {"batch_size": 3, "length": 40, "seed": 0} | settings
    return AnswerStream(source, processor, prompt_template(template), buckets, **settings)


def prompt_of(processor, template="r1_zero_base", **columns):
    example = Example("a", "Where is it?", "left", columns=columns)
    return processor.prepare(example, prompt_template(template))


def test_answers_of_a_source_are_the_targets(processor):
    source = open_source("scenes", split="train", limit=8)
    buckets = Buckets(400, processor.max_patches())
    twin = GroupPipeline(source, processor, TEMPLATE, buckets, seed=0)
    stream = stream_of(source, processor)
    batch, drawn = stream.next_batch(), twin.next_batch(3)
    texts = [
        processor.decode(ids[mask][:-1])
        for ids, mask in zip(batch.target_ids[:, 0], batch.mask[:, 0], strict=True)
    ]
    assert texts == [f" {prompt.answer}" for prompt in drawn.prompts]
    assert np.array_equal(batch.prompts.patches, drawn.arrays.patches)
    stream.close()
    twin.close()


@pytest.mark.parametrize(
    ("template", "target", "text"),
    [
        ("r1_zero_base", "answer", " left"),
        ("r1_zero_base", "tagged", " </think> <answer>left</answer>"),
        ("r1_zero_base", "solution", " I see.</think>\n<answer> left </answer>"),
        ("base_plain", "answer", "left"),  # this prompt ends in a space
        ("instruct_plain", "answer", "left"),
        ("instruct_reason", "tagged", "<answer>left</answer>"),
        ("instruct_reason", "solution", "<think> I see.</think>\n<answer> left </answer>"),
    ],
)
def test_the_target_continues_the_prompt(processor, template, target, text):
    stored = "\n<think> I see.</think>\n<answer> left </answer> \n"
    assert target_text(prompt_of(processor, template, solution=stored), target) == text


@pytest.mark.parametrize(
    ("template", "target"),
    [("r1_zero_base", "tagged"), ("r1_zero_base", "solution"), ("instruct_reason", "solution")],
)
def test_a_whole_target_has_the_papers_format(processor, template, target):
    prompt = prompt_of(processor, template, solution="<think>so</think> <answer>left</answer>")
    assert paper_format(target_text(prompt, target), prompt.text) == 1.0


def test_a_chat_target_ends_the_turn_as_transformers_writes_it(processor):
    """The tokens of prompt and target are those of the whole conversation, as the paper's code reads it."""
    stream = stream_of(open_source("scenes", limit=8), processor, "instruct_plain")
    prompt = prompt_of(processor, "instruct_plain")
    conversation = [
        {"role": "user", "content": [{"type": "text", "text": "Where is it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "left"}]},
    ]
    whole = processor.tokenizer.apply_chat_template(conversation, tokenize=False)
    assert whole.endswith("left<|im_end|>\n")
    assert [*prompt.ids, *stream.tokens(prompt)] == processor.encode(whole)
    stream.close()


def test_a_base_target_ends_with_the_tokenizers_end(processor):
    stream = stream_of(open_source("scenes", limit=8), processor)
    tokens = stream.tokens(prompt_of(processor))
    assert tokens == [*processor.encode(" left"), processor.tokenizer.eos_token_id]
    stream.close()


def test_rows_without_a_target_that_fits_are_set_aside_and_others_drawn(processor, tmp_path):
    long, forged = "a long answer " * 20, "left <|im_end|> right"
    source = write_rows(tmp_path, ["left", long, "right", forged, "above", "below"])
    stream = stream_of(source, processor, length=12)
    batches = [stream.next_batch() for _ in range(4)]
    rejected = {row.id: row.reason for batch in batches for row in batch.rejected}
    assert rejected.keys() == {"row-1", "row-3"}
    assert "the bucket holds 12 (raise max_completion_length)" in rejected["row-1"]
    assert "special token <|im_end|>" in rejected["row-3"]
    said = [processor.decode(ids).strip() for batch in batches for ids in batch.target_ids[:, 0]]
    assert len(said) == 12
    assert set(said) == {"left", "right", "above", "below"}
    stream.close()


def test_a_row_without_a_solution_is_set_aside(processor):
    for stored in (None, "", "<think> "):
        with pytest.raises(TargetError, match="it has no solution"):
            target_text(prompt_of(processor, solution=stored), "solution")
    assert target_text(prompt_of(processor, solution="yes"), "solution") == " yes"


def test_a_source_without_any_target_that_fits_is_an_error(processor, tmp_path):
    stream = stream_of(write_rows(tmp_path, ["a long answer " * 20] * 3), processor, length=4)
    with pytest.raises(ValueError, match=r"every row .* rejected; the last reason, of row-\d: its target"):
        stream.next_batch()
    stream.close()


def test_answers_continue_where_they_stood_past_rejected_rows(processor, tmp_path):
    answers = ["left", "a long answer " * 20, "right", "above", "below", "far", "near"]
    source = write_rows(tmp_path, answers)
    stream = stream_of(source, processor, length=12)
    stream.next_batch()
    state = json.loads(json.dumps(stream.get_state()))
    expected = [stream.next_batch() for _ in range(5)]
    resumed = stream_of(source, processor, length=12)
    resumed.set_state(state)
    for batch in expected:
        other = resumed.next_batch()
        assert np.array_equal(batch.target_ids, other.target_ids)
        assert np.array_equal(batch.prompts.ids, other.prompts.ids)
        assert batch.rejected == other.rejected
    assert any(batch.rejected for batch in expected)
    stream.close()
    resumed.close()


def test_processes_make_the_documents_of_one(blank):
    shares = [RowShare(block, ((0, 3), (1, 2))) for block in range(2)]
    settings = {"seed": 1, "prompts_per_step": 8, "max_steps": 40}
    streams = [DocumentStream(blank, TEMPLATE, share=share, **settings) for share in (*shares, ALONE)]
    *streams, alone = streams
    parts = [stream.batch(0) for stream in streams]
    blanks = [stream.blank_batches()["caption"] for stream in streams]
    assert [len(part.target_ids) for part in (*parts, *blanks)] == [12] * 4
    rows, whole = np.argsort(shares[0].gathered_rows(24)), alone.batch(0)
    for kind in ("target_ids", "mask"):
        together = np.concatenate([getattr(part, kind) for part in parts])
        np.testing.assert_array_equal(together[rows], getattr(whole, kind))
    patches = np.concatenate([part.prompts.patches for part in parts])
    np.testing.assert_array_equal(patches[rows], whole.prompts.patches)
    for stream in (*streams, alone):
        stream.close()


def test_a_batch_that_the_mesh_cannot_share_out_is_an_error(blank):
    share = RowShare(0, ((0, 1, 2, 3),))
    stream = DocumentStream(blank, TEMPLATE, seed=1, prompts_per_step=3, max_steps=40, share=share)
    with pytest.raises(ValueError, match="9 samples do not divide over data \\* fsdp = 4 of the mesh"):
        stream.next_batch()
    stream.close()
