"""What both sides of the comparison are given: one model, one set of questions, one reward.

Run as `python -m peers.workload FOLDER SIDE`, it writes a Qwen2-VL of about 7 million parameters with random
weights, and questions with square pictures of SIDE pixels whose prompts all have the same number of tokens,
so that neither side pads. Knows neither torch nor jax.
"""

import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from fixtures.tiny_folder import tiny_weights
from PIL import Image
from safetensors.numpy import save_file

from vtzero.data.example import Example
from vtzero.data.processor import PreparedPrompt, Processor
from vtzero.data.prompts import prompt_template, question_body
from vtzero.scenes.dataset import scene_item
from vtzero.training.setup import TINY_BASE, model_folder

PROMPTS, GROUP, LENGTH = 4, 8, 64
BETA, LEARNING_RATE, SEED = 0.04, 1e-6, 0
TEMPLATE = "r1_zero_base"
QUESTIONS, CANDIDATES = 32, 96
SIZES: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 896,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]},
}
VISION_SIZES = {"depth": 4, "embed_dim": 128, "hidden_size": 256, "num_heads": 4, "in_chans": 3}


def letters(completions: list[Any], **_: Any) -> list[float]:
    """A reward that costs nothing: the share of vowels. TRL hands over messages, vtzero texts."""
    texts = [text if isinstance(text, str) else text[0]["content"] for text in completions]
    return [sum(letter in "aeiou" for letter in text) / max(len(text), 1) for text in texts]


def write_workload(folder: Path, side: int) -> None:
    """Write model, pictures, questions and `workload.json`, which tells what was written."""
    parameters = write_model(folder / "model", side)
    rows, prompt = write_questions(folder, side)
    ids = np.random.default_rng(SEED).integers(0, 500, (PROMPTS, GROUP, LENGTH), dtype=np.int32)
    np.save(folder / "completions.npy", ids)
    processor = Processor.from_folder(folder / "model")
    image_tokens = int((prompt.ids == processor.config.image_token_id).sum())
    facts = {
        "parameters": parameters,
        "questions": rows,
        "image_tokens": image_tokens,
        "text_tokens": len(prompt.ids) - image_tokens,
        # Neither side may draw these: an image token would break scoring, a stop id the length.
        "banned_ids": sorted({*processor.config.vision_token_ids, *processor.stop_ids}),
    }
    (folder / "workload.json").write_text(json.dumps(facts))


def write_model(folder: Path, side: int) -> int:
    """The tiny base's tokenizer with random weights of the sizes above; returns the number of parameters."""
    shutil.copytree(model_folder(TINY_BASE), folder)
    config = json.loads((folder / "config.json").read_text()) | SIZES
    config["vision_config"] |= VISION_SIZES
    images = json.loads((folder / "preprocessor_config.json").read_text()) | {"max_pixels": side * side}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    weights = tiny_weights(config, SEED)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return sum(weight.size for weight in weights.values())


def write_questions(folder: Path, side: int) -> tuple[int, PreparedPrompt]:
    """The first drawn scenes whose prompts have the commonest length; how many, and one of them."""
    processor, template = Processor.from_folder(folder / "model"), prompt_template(TEMPLATE)
    candidates = [(number, _example(number, side)) for number in range(CANDIDATES)]
    texts = {number: template.render(_body(example), 0) for number, example in candidates}
    lengths = {number: len(processor.encode(text)) for number, text in texts.items()}
    commonest = Counter(lengths.values()).most_common(1)[0][0]
    chosen = [pair for pair in candidates if lengths[pair[0]] == commonest][:QUESTIONS]
    rows = [_write_row(folder, example, texts[number]) for number, example in chosen]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepared = processor.prepare(chosen[0][1], template)
    assert isinstance(prepared, PreparedPrompt)
    return len(rows), prepared


def _example(number: int, side: int) -> Example:
    item = scene_item("train", number, SEED)
    picture = Image.fromarray(item.picture).resize((side, side), Image.Resampling.BICUBIC)
    question = item.question
    return Example(f"scene-{number}", question.text, question.answer, (picture,), question.options)


def _body(example: Example) -> str:
    return question_body(example.question, example.options)


def _write_row(folder: Path, example: Example, text: str) -> dict[str, Any]:
    """One question as vtzero reads it; `text` is the rendered prompt without its image, for TRL."""
    name = f"{example.id}.png"
    example.images[0].save(folder / name, compress_level=0)  # type: ignore[union-attr]
    return {
        "id": example.id,
        "image": name,
        "question": example.question,
        "options": list(example.options),
        "answer": example.answer,
        "text": text,
    }


def first_rows(folder: Path) -> list[dict[str, Any]]:
    """The questions that the check of equality is made with."""
    lines = (folder / "questions.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[:PROMPTS]]


def facts(folder: Path) -> dict[str, Any]:
    """What `write_workload` told."""
    return json.loads((folder / "workload.json").read_text())


if __name__ == "__main__":
    write_workload(Path(sys.argv[1]), int(sys.argv[2]))
