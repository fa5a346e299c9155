"""Using a model without training it: accuracy on a benchmark, and answers to a person's own question."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console

from vtzero.config import load_config
from vtzero.data.batches import Buckets, collate, fits
from vtzero.data.example import Example, Rejected
from vtzero.data.processor import PreparedPrompt, Processor
from vtzero.data.prompts import prompt_template
from vtzero.evaluation.benchmarks import Benchmark, open_benchmark
from vtzero.evaluation.results import EvaluationResult, ResultFiles, summary
from vtzero.evaluation.runner import evaluate, greedy, used_settings
from vtzero.evaluation.shapes import benchmark_buckets
from vtzero.evaluation.tables import summary_table
from vtzero.models.qwen2_vl.weights import abstract_model
from vtzero.parallel.mesh import MeshSettings, make_mesh
from vtzero.parallel.messages import ask_first, tell_all
from vtzero.parallel.processes import is_first
from vtzero.parallel.sharding import even_rows, shard_params
from vtzero.rewards.accuracy import accuracy_strict
from vtzero.rewards.format import format_paper
from vtzero.sampling.decode import DecodeSettings, growing_lengths, sample_keys
from vtzero.sampling.parameters import SamplingParameters, validate_sampling
from vtzero.sampling.sampler import Sampler
from vtzero.terminal import visible
from vtzero.training.fingerprint import weights_digest
from vtzero.training.huggingface import load_model, read_config
from vtzero.training.mesh_choice import fewest_sharers
from vtzero.training.micro_batches import device_memory
from vtzero.training.outline import compute_dtype
from vtzero.training.setup import model_folder


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """How a model is used: its folder ('tiny' is the one that ships), prompt, lengths and image size."""

    model: str = "tiny"
    prompt_template: str = "r1_zero_base"
    max_completion_length: int = 64
    max_prompt_length: int = 1024
    min_pixels: int | None = None
    max_pixels: int | None = None
    dtype: str = "auto"


class LoadedModel:
    """A model with its processor and compiled sampler; on a mesh, or on the first device."""

    def __init__(self, settings: ModelSettings, mesh: Mesh | None = None):
        folder = model_folder(settings.model)
        self.template = prompt_template(settings.prompt_template)
        self.processor = Processor.from_folder(
            folder, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels
        )
        self.folder = folder
        self.dtype = compute_dtype(settings.dtype)
        network = read_config(folder)
        where = None if mesh is None else shard_params(abstract_model(network)[1], mesh)
        graphdef, params = load_model(folder, dtype=self.dtype, sharding=where)
        self.pieces = (params,)
        self.prompt_length = settings.max_prompt_length
        decode = DecodeSettings(
            settings.max_completion_length,
            self.processor.stop_ids,
            self.processor.pad_id,
            "none",
            growing_lengths(settings.max_completion_length, network.text.num_hidden_layers),
            # Here weights are divided only where a device would be filled by all of them (`mesh_of_all`).
            gather_weights=False,
        )
        self.sampler = Sampler(partial(nnx.merge, graphdef), decode)
        self.banned_ids = self.processor.config.vision_token_ids

    def buckets(self, images: int = 1) -> Buckets:
        """The static shape of prompts with up to so many images."""
        return Buckets(self.prompt_length, self.processor.max_patches(images))


def mesh_of_all(folder: Path) -> Mesh:
    """All devices, of all processes, each with all weights and its own questions.

    Where the weights of this folder would fill a device, as few as can share them.
    """
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    memory = min(tell_all(device_memory()))
    return make_mesh(MeshSettings(fsdp=fewest_sharers(stored, jax.device_count(), memory)))


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """What is asked: a benchmark (see `open_benchmark`), how many of its items, and in what batches."""

    benchmark: str = "scenes"
    limit: int | None = None
    batch_size: int = 64
    opening: str = ""
    repetition_penalty: float = 1.0
    image_folder: Path | None = None
    fetch_images: bool = False


def evaluate_model(
    settings: ModelSettings, asked: EvalSettings, *, out: Path | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Greedy accuracy on a benchmark; prints the table, and with `out` writes the run folder's eval files.

    An evaluation that was interrupted in `out` continues, unless `overwrite` starts it afresh. Without
    `max_pixels` a run's export is asked with the limit that the run was trained with. With several processes
    each must call this; the first one prints and writes.

    Raises ValueError when no item could be asked, or `out` holds results that were asked for in another way.
    """
    benchmark = open_benchmark(
        asked.benchmark, limit=asked.limit, image_folder=asked.image_folder, fetch_images=asked.fetch_images
    )
    validate_sampling(repetition_penalty=asked.repetition_penalty)
    mesh = mesh_of_all(model_folder(settings.model))
    model = LoadedModel(_as_trained(settings), mesh)
    used = _used(model, benchmark, settings, asked)
    opened: list[ResultFiles] = []  # in the first process alone

    def figures_there() -> dict[str, Any] | None:
        if out is None:
            return None
        opened.append(ResultFiles(out, benchmark.name, 0, used, overwrite=overwrite))
        return opened[0].figures()

    figures = ask_first(figures_there)
    files = opened[0] if opened else None
    if figures is None:
        result = _evaluate(model, mesh, benchmark, asked, files)
        _check_asked(asked.benchmark, result)
        figures = ask_first(lambda: {**used, **summary(result)} if files is None else files.finish(result))
    if is_first():
        Console().print(summary_table(figures))
    return figures


def _evaluate(
    model: LoadedModel, mesh: Mesh, benchmark: Benchmark, asked: EvalSettings, files: ResultFiles | None
) -> EvaluationResult:
    rows = even_rows(asked.batch_size, mesh)
    done = ask_first(lambda: [] if files is None else files.done(rows))
    with jax.set_mesh(mesh):
        return evaluate(
            benchmark,
            sampler=model.sampler,
            pieces=model.pieces,
            processor=model.processor,
            template=model.template,
            buckets=benchmark_buckets(benchmark, model.processor, model.prompt_length),
            batch_size=rows,
            mesh=mesh,
            parameters=greedy(model.processor, asked.repetition_penalty),
            forced_opening=asked.opening,
            done=done,
            on_batch=None if files is None else files.append,
        )


def _used(
    model: LoadedModel, benchmark: Benchmark, settings: ModelSettings, asked: EvalSettings
) -> dict[str, Any]:
    return {
        "model": settings.model,
        "weights": weights_digest(model.folder),
        "dtype": str(model.dtype),
        "data": asked.benchmark,
    } | used_settings(
        benchmark,
        processor=model.processor,
        template=model.template,
        prompt_length=model.prompt_length,
        completion_length=settings.max_completion_length,
        parameters=greedy(model.processor, asked.repetition_penalty),
        opening=asked.opening,
    )


def _check_asked(spec: str, result: EvaluationResult) -> None:
    if not result.items:
        reason = result.rejected[0].reason if result.rejected else "it has no items"
        raise ValueError(f"benchmark {spec!r}: no item could be asked; {reason}")


def _as_trained(settings: ModelSettings) -> ModelSettings:
    """The settings with the image limits of the run whose export the model is, where none is given."""
    config = Path(settings.model).resolve().parent / "config.yaml"
    if settings.max_pixels is not None or Path(settings.model).name != "export" or not config.is_file():
        return settings
    trained = load_config(config)
    return replace(settings, min_pixels=trained.min_pixels, max_pixels=trained.max_pixels)


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
        print(f"[{place + 1}]{visible(text)}{_shown(scored)}", flush=True)
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
