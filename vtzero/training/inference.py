"""Using a model without training it: accuracy on a benchmark, and answers to a person's own question."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console

from vtzero.data.batches import Buckets, collate, fits
from vtzero.data.example import Example, Rejected
from vtzero.data.processor import PreparedPrompt, Processor
from vtzero.data.prompts import prompt_template
from vtzero.evaluation.benchmarks import open_benchmark
from vtzero.evaluation.runner import evaluate, summary, write_result
from vtzero.evaluation.tables import summary_table
from vtzero.rewards.accuracy import accuracy_strict
from vtzero.rewards.format import format_paper
from vtzero.sampling.decode import DecodeSettings, sample_keys
from vtzero.sampling.parameters import SamplingParameters, validate_sampling
from vtzero.sampling.sampler import Sampler
from vtzero.training.huggingface import load_model
from vtzero.training.setup import compute_dtype, model_folder


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """How a model is used: its folder ('tiny' is the one that ships), prompt, lengths and image size."""

    model: str = "tiny"
    prompt_template: str = "r1_zero_base"
    max_completion_length: int = 64
    max_prompt_length: int = 1024
    max_pixels: int | None = None
    dtype: str = "auto"


class LoadedModel:
    """A model with its processor and compiled sampler."""

    def __init__(self, settings: ModelSettings):
        folder = model_folder(settings.model)
        self.template = prompt_template(settings.prompt_template)
        self.processor = Processor.from_folder(folder, max_pixels=settings.max_pixels)
        graphdef, params = load_model(folder, dtype=compute_dtype(settings.dtype))
        self.pieces = (params,)
        self.prompt_length = settings.max_prompt_length
        decode = DecodeSettings(
            settings.max_completion_length, self.processor.stop_ids, self.processor.pad_id
        )
        self.sampler = Sampler(partial(nnx.merge, graphdef), decode)
        self.banned_ids = self.processor.config.vision_token_ids

    def buckets(self, images: int = 1) -> Buckets:
        """The static shape of prompts with up to so many images."""
        return Buckets(self.prompt_length, self.processor.max_patches(images))


def evaluate_model(
    settings: ModelSettings,
    benchmark: str,
    *,
    limit: int | None = None,
    batch_size: int = 64,
    opening: str = "",
    out: Path | None = None,
) -> dict[str, Any]:
    """Greedy accuracy on a benchmark; prints the table, and with `out` writes the run folder's eval files."""
    model = LoadedModel(settings)
    opened = open_benchmark(benchmark, limit=limit)
    result = evaluate(
        opened,
        sampler=model.sampler,
        pieces=model.pieces,
        processor=model.processor,
        template=model.template,
        buckets=model.buckets(),
        batch_size=batch_size,
        parameters=SamplingParameters(temperature=0.0, banned_ids=model.banned_ids),
        forced_opening=opening,
    )
    figures = summary(result)
    Console().print(summary_table(figures))
    if out is not None:
        write_result(out, opened.name, 0, result)
    return figures


def sample_model(
    settings: ModelSettings,
    question: str,
    *,
    images: Sequence[str] = (),
    options: Sequence[str] = (),
    answer: str | None = None,
    num_generations: int = 4,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Draw answers to one question, print each as it is ready, and return them all.

    Raises ValueError for a value out of range or an image that cannot be read.
    """
    validate_sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    if num_generations < 1:
        raise ValueError(f"num_generations is {num_generations}; it must be at least 1")
    model = LoadedModel(settings)
    prompt = _prepare(model, question, images, options, answer)
    parameters = SamplingParameters(
        temperature=temperature,
        top_k=top_k or None,
        top_p=top_p if top_p < 1 else None,
        banned_ids=model.banned_ids,
    )
    answers = []
    for place, text in enumerate(_draw(model, prompt, num_generations, parameters, seed)):
        scored = {"text": text} | _scores(prompt, text, answer)
        answers.append(scored)
        print(f"[{place + 1}]{text}{_shown(scored)}", flush=True)
    return {"question": question, "prompt": prompt.text, "answers": answers}


def _prepare(
    model: LoadedModel,
    question: str,
    images: Sequence[str],
    options: Sequence[str],
    answer: str | None,
) -> PreparedPrompt:
    paths = tuple(Path(image) for image in images)
    example = Example("question", question, answer or "", paths, tuple(options))
    prompt = model.processor.prepare(example, model.template)
    if isinstance(prompt, Rejected):
        raise ValueError(prompt.reason)
    if rejected := fits(prompt, model.buckets(max(len(images), 1))):
        raise ValueError(rejected.reason)
    return prompt


def _draw(
    model: LoadedModel,
    prompt: PreparedPrompt,
    count: int,
    parameters: SamplingParameters,
    seed: int,
) -> Iterator[str]:
    """Answer by answer, so that each is shown as soon as it is drawn.

    Each has a key of its own, so these are the answers that one call for all of them would draw.
    """
    buckets = Buckets(len(prompt.ids), len(prompt.patches))  # the prompt's own size: nothing is padded
    arrays = jax.tree.map(jnp.asarray, collate([prompt], buckets, model.processor.pad_id))
    keys = sample_keys(jax.random.key(seed), 0, jnp.arange(1), count)
    for place in range(count):
        drawn = model.sampler(model.pieces, arrays, keys[:, place : place + 1], parameters)
        yield model.processor.decode(np.asarray(drawn.ids)[0, 0, : int(drawn.lengths[0, 0])])


def _scores(prompt: PreparedPrompt, text: str, answer: str | None) -> dict[str, float | None]:
    if answer is None:
        return {}
    accuracy = accuracy_strict([text], answer=[answer], prompts=[prompt.text])
    return {"accuracy": accuracy[0], "format": format_paper([text], prompts=[prompt.text])[0]}


def _shown(scored: dict[str, Any]) -> str:
    names = [name for name in ("accuracy", "format") if name in scored]
    return "".join(f"  ({name} {scored[name]:g})" for name in names)
