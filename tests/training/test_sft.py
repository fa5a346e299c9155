"""Steps of the real supervised method; its loss against transformers' on the paper's conversations."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from fixtures.fast_compile import fast_compile
from fixtures.tiny_folder import make_tiny_folder
from PIL import Image
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vtzero.config import RunConfig
from vtzero.training.setup import set_up
from vtzero.training.sft import SFT

ANSWERS = ("left", "the red cube", "right of it", "a very long answer " * 9)
IGNORED = -100


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with the chat template of the paper's baseline, and four rows, one with too long a target."""
    folder = tmp_path_factory.mktemp("sft")
    make_tiny_folder(folder / "model", num_hidden_layers=1)
    rng = np.random.default_rng(6)
    rows = []
    for number, answer in enumerate(ANSWERS):
        pixels = rng.integers(0, 256, (56, 84, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "question": f"Where is {number}?", "answer": answer})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def sft(folder: Path, **changes: Any) -> tuple[SFT, Any, Any]:
    settings = {
        "method": "sft",
        "model": str(folder / "model"),
        "data": (str(folder / "rows.jsonl"),),
        "prompt_template": "instruct_plain",
        "prompts_per_step": 3,
        "max_completion_length": 24,
        "max_prompt_length": 200,
        "max_steps": 4,
        "gradient_checkpointing": False,
    }
    setup, state = set_up(RunConfig(**(settings | changes)), folder)
    with fast_compile():
        return SFT(setup), setup, state


def sequence(folder: Path, number: int) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """What transformers make of one conversation, and which of its tokens are the answer's turn."""
    text = [{"type": "image"}, {"type": "text", "text": f"Where is {number}?"}]
    asked = [{"role": "user", "content": text}]
    said = [{"role": "assistant", "content": [{"type": "text", "text": ANSWERS[number]}]}]
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    images = Qwen2VLImageProcessorPil.from_pretrained(folder / "model")
    seen = images(Image.open(folder / f"{number}.png"), return_tensors="np")
    grid = seen["image_grid_thw"]
    pictures = "<|image_pad|>" * (int(np.prod(grid)) // 4)

    def tokens(conversation: list[Any], **options: bool) -> list[int]:
        rendered = tokenizer.apply_chat_template(conversation, tokenize=False, **options)
        return tokenizer(rendered.replace("<|image_pad|>", pictures)).input_ids

    ids = torch.tensor([tokens(asked + said)])
    answers = np.arange(ids.shape[1]) >= len(tokens(asked, add_generation_prompt=True))
    pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == pad).int(),
        "pixel_values": torch.tensor(seen["pixel_values"]),
        "image_grid_thw": torch.tensor(grid),
    }
    return inputs, answers


def expected_loss(folder: Path, *, completion_only: bool) -> float:
    """The mean over the labels of the three rows whose targets fit."""
    twin = Qwen2VLForConditionalGeneration.from_pretrained(folder / "model").eval()
    names = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
    vision = AutoTokenizer.from_pretrained(folder / "model").convert_tokens_to_ids(list(names))
    total, counted = 0.0, 0
    for number in range(3):
        inputs, answers = sequence(folder, number)
        ids = inputs["input_ids"][0].numpy()
        labels = (
            np.where(answers, ids, IGNORED)
            if completion_only
            else np.where(np.isin(ids, vision), IGNORED, ids)
        )
        with torch.no_grad():
            mean = twin(**inputs, labels=torch.tensor(labels)[None]).loss.item()
        count = int((labels[1:] != IGNORED).sum())
        total, counted = total + mean * count, counted + count
    return total / counted


@pytest.mark.parametrize("completion_only", [False, True])
def test_a_steps_loss_is_transformers_loss_on_the_conversations(folder, completion_only):
    # In parts, since the mean is over the whole step whatever it is cut into.
    parts = 1 if completion_only else 3
    method, setup, state = sft(
        folder, completion_only_loss=completion_only, gradient_accumulation_steps=parts
    )
    with jax.set_mesh(setup.mesh):
        method.step(state, 1)
        report = method.finish()
    method.close()
    # Four rows, three of which fit: the first batch has each of them once.
    reason = "its target has 83 tokens, the bucket holds 24 (raise max_completion_length)"
    assert {row.reason for row in report.rejected} <= {reason}
    expected = expected_loss(folder, completion_only=completion_only)
    assert report.metrics["loss"] == pytest.approx(expected, rel=1e-5)
    # Where prompts count too, the head's work is not known.
    assert ("perf/mfu/actor" in report.metrics) == completion_only


def test_the_two_losses_differ(folder):
    assert (
        abs(expected_loss(folder, completion_only=True) - expected_loss(folder, completion_only=False)) > 0.01
    )


def test_a_frozen_vision_encoder_stays_and_an_interrupted_run_continues(folder):
    method, setup, state = sft(folder, completion_only_loss=False, freeze=("vision", "merger"))
    start = jax.tree.map(np.array, state)
    losses, rejected = [], []
    with jax.set_mesh(setup.mesh):
        for index in range(1, 5):
            state, _ = method.step(state, index)
            report = method.finish()
            losses.append(report.metrics["loss"])
            rejected += report.rejected
            if index == 2:
                saved, place = jax.tree.map(np.array, state), json.loads(json.dumps(method.data_state()))
        end = jax.tree.map(np.array, state)
        method.restore_data(place)
        again = jax.device_put(saved, setup.shardings)
        for index in (3, 4):
            again, _ = method.step(again, index)
            report = method.finish()
            assert report.metrics["loss"] == losses[index - 1]
    method.close()
    assert rejected
    jax.tree.map(np.testing.assert_array_equal, again, end)
    jax.tree.map(np.testing.assert_array_equal, end.frozen, start.frozen)
    moved = zip(jax.tree.leaves(start.trainable), jax.tree.leaves(end.trainable), strict=True)
    assert all(np.any(one != other) for one, other in moved)
