"""Greedy accuracy of a model on a benchmark, for `vtzero eval`: without training, over all devices."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from rich.console import Console

from vtzero.data.example import Rejected
from vtzero.data.prompts import prompt_template
from vtzero.evaluation.benchmarks import Benchmark, open_benchmark
from vtzero.evaluation.results import EvaluationResult, ResultFiles, summary
from vtzero.evaluation.runner import evaluate, greedy, used_settings
from vtzero.evaluation.shapes import benchmark_buckets
from vtzero.evaluation.tables import summary_table
from vtzero.inference.models import LoadedModel, ModelSettings, Resolved, open_processor, resolved
from vtzero.parallel.mesh import MeshSettings, make_mesh
from vtzero.parallel.messages import ask_first, tell_all
from vtzero.parallel.processes import is_first
from vtzero.parallel.sharding import even_rows
from vtzero.sampling.parameters import validate_sampling
from vtzero.sampling.sampler import Sampler
from vtzero.terminal import visible
from vtzero.training.fingerprint import weights_digest
from vtzero.training.mesh_choice import fewest_sharers
from vtzero.training.micro_batches import device_memory


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

    An evaluation that was interrupted in `out` continues, unless `overwrite` starts it afresh. A run is asked
    as it evaluates itself, where the settings leave that open. With several processes each must call this;
    the first one prints and writes.

    Raises ValueError when no item could be asked, or `out` holds results that were asked for in another way.
    """
    benchmark = open_benchmark(
        asked.benchmark, limit=asked.limit, image_folder=asked.image_folder, fetch_images=asked.fetch_images
    )
    validate_sampling(repetition_penalty=asked.repetition_penalty)
    chosen = resolved(settings, evaluation=True)
    model = _Evaluated(chosen, mesh_of_all(chosen.folder))
    if chosen.note is not None and is_first():
        print(visible(chosen.note), flush=True)
    used = model.used(benchmark, settings.model, asked)
    opened: list[ResultFiles] = []  # in the first process alone

    def figures_there() -> dict[str, Any] | None:
        if out is None:
            return None
        opened.append(ResultFiles(out, benchmark.name, 0, used, overwrite=overwrite))
        return opened[0].figures()

    figures = ask_first(figures_there)
    files = opened[0] if opened else None
    rejected: list[Rejected] = []
    if figures is None:
        result = model.evaluate(benchmark, asked, files)
        _check_asked(asked.benchmark, result)
        rejected = result.rejected
        figures = ask_first(lambda: {**used, **summary(result)} if files is None else files.finish(result))
    if is_first():
        Console().print(summary_table(figures, reason=rejected[0].reason if rejected else None))
    return figures


class _Evaluated:
    """A model with all that an evaluation asks it with."""

    def __init__(self, chosen: Resolved, mesh: Mesh):
        self._chosen, self._mesh = chosen, mesh
        self._template = prompt_template(chosen.prompt_template)
        self._processor = open_processor(chosen)
        self._model = LoadedModel(chosen, self._processor, mesh)
        self._sampler = Sampler(self._model.merge, self._model.decode("none"))

    def evaluate(
        self, benchmark: Benchmark, asked: EvalSettings, files: ResultFiles | None
    ) -> EvaluationResult:
        rows = even_rows(asked.batch_size, self._mesh)
        done = ask_first(lambda: [] if files is None else files.done(rows))
        length = self._chosen.max_prompt_length
        with jax.set_mesh(self._mesh):
            return evaluate(
                benchmark,
                sampler=self._sampler,
                pieces=self._model.pieces,
                processor=self._processor,
                template=self._template,
                buckets=benchmark_buckets(benchmark, self._processor, length),
                batch_size=rows,
                mesh=self._mesh,
                parameters=greedy(self._processor, asked.repetition_penalty),
                forced_opening=asked.opening,
                done=done,
                on_batch=None if files is None else files.append,
            )

    def used(self, benchmark: Benchmark, name: str, asked: EvalSettings) -> dict[str, Any]:
        """What decides the result, for the result's file; `name` is the model as it was asked for."""
        return {
            "model": name,
            "weights": weights_digest(self._model.folder),
            "dtype": str(self._model.dtype),
            "data": asked.benchmark,
        } | used_settings(
            benchmark,
            processor=self._processor,
            template=self._template,
            prompt_length=self._chosen.max_prompt_length,
            completion_length=self._chosen.max_completion_length,
            parameters=greedy(self._processor, asked.repetition_penalty),
            opening=asked.opening,
        )


def _check_asked(spec: str, result: EvaluationResult) -> None:
    if not result.items:
        reason = result.rejected[0].reason if result.rejected else "it has no items"
        raise ValueError(f"benchmark {spec!r}: no item could be asked; {reason}")
