"""A model to use, and not to train: which folder a name means, its processor, its weights on devices.

A run's folder stands for its export, asked as the run asked. Knows no questions and no benchmark.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from flax import nnx
from jax.sharding import Mesh

from vtzero.config import RunConfig, load_config
from vtzero.data.processor import Processor
from vtzero.data.prompts import prompt_template
from vtzero.models.qwen2_vl.weights import abstract_model
from vtzero.parallel.sharding import shard_params
from vtzero.sampling.decode import DecodeSettings, LogProbabilities, growing_lengths
from vtzero.training.huggingface import load_model, read_config
from vtzero.training.outline import compute_dtype
from vtzero.training.setup import model_folder

PROMPT_TEMPLATE, MAX_COMPLETION_LENGTH = "r1_zero_base", 72
_EXPORT, _CONFIG = "export", "config.yaml"


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """How a model is used: its folder ('tiny' is the one that ships), prompt, lengths and image size.

    The folder is a Hugging Face one or a run's. What is None is the run's own (see `resolved`).
    """

    model: str = "tiny"
    prompt_template: str | None = None
    max_completion_length: int | None = None
    max_prompt_length: int = 1024
    min_pixels: int | None = None
    max_pixels: int | None = None
    dtype: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """`ModelSettings` with nothing left open but the image limits, where None is the folder's own.

    `run` is the config of the run whose export the model is; `note` tells a person what was taken from it.
    """

    settings: ModelSettings
    prompt_template: str
    max_completion_length: int
    run: RunConfig | None = None
    note: str | None = None

    @property
    def folder(self) -> Path:
        """The Hugging Face folder."""
        return model_folder(self.settings.model)


def resolved(settings: ModelSettings, *, evaluation: bool = False) -> Resolved:
    """The settings of a run for what is None, where the model is a run's folder or its export.

    For an evaluation they are those that the run itself evaluates with.

    Raises ValueError for a run that has no export yet, FileNotFoundError for no folder, ConfigError for a
    run's config that cannot be read.
    """
    run_folder = _run_folder(model_folder(settings.model))
    if run_folder is None:
        return _complete(settings)
    run = load_config(run_folder / _CONFIG)
    template, pixels = run.prompt_template, run.max_pixels
    if evaluation:
        template, pixels = run.eval_prompt_template or template, run.eval_max_pixels or pixels
    own = {"prompt_template": template, "max_completion_length": run.max_completion_length}
    taken: dict[str, Any] = {name: value for name, value in own.items() if getattr(settings, name) is None}
    if settings.max_pixels is None and pixels is not None:
        taken |= {"min_pixels": settings.min_pixels or run.min_pixels, "max_pixels": pixels}
    export = _checked_export(run_folder)
    said = ", ".join(f"{name} {value}" for name, value in taken.items() if value is not None)
    note = f"{run_folder}: a run; its export" + (f" with the run's own {said}" if said else "")
    return _complete(replace(settings, model=str(export), **taken), run, note)


def _complete(settings: ModelSettings, run: RunConfig | None = None, note: str | None = None) -> Resolved:
    length = settings.max_completion_length
    return Resolved(
        settings=settings,
        prompt_template=settings.prompt_template or PROMPT_TEMPLATE,
        max_completion_length=MAX_COMPLETION_LENGTH if length is None else length,
        run=run,
        note=note,
    )


def _run_folder(folder: Path) -> Path | None:
    """The run that a folder is, or is the export of."""
    if (folder / "config.json").is_file():
        parent = folder.resolve().parent
        return parent if folder.resolve().name == _EXPORT and (parent / _CONFIG).is_file() else None
    return folder if (folder / _CONFIG).is_file() else None


def _checked_export(run_folder: Path) -> Path:
    export = run_folder / _EXPORT
    if not (export / "config.json").is_file():
        raise ValueError(
            f"{run_folder}: a run without export/, which it writes at its end; make one of its last "
            f"checkpoint with `vtzero export {run_folder} OUT`, and give OUT"
        )
    return export


class LoadedModel:
    """Weights on a mesh, or on the first device, and what samples from them.

    `Sampler(model.merge, model.decode(...))` is called with `model.pieces`.
    """

    def __init__(self, asked: Resolved, processor: Processor, mesh: Mesh | None = None):
        self.folder = asked.folder
        self.dtype = compute_dtype(asked.settings.dtype)
        self._network = read_config(self.folder)
        self._processor, self._length = processor, asked.max_completion_length
        where = None if mesh is None else shard_params(abstract_model(self._network)[1], mesh)
        graphdef, params = load_model(self.folder, dtype=self.dtype, sharding=where)
        self.merge, self.pieces = partial(nnx.merge, graphdef), (params,)

    def decode(self, logps: LogProbabilities) -> DecodeSettings:
        """The decode loop's shape, recording these log-probabilities."""
        return DecodeSettings(
            self._length,
            self._processor.stop_ids,
            self._processor.pad_id,
            logps,
            growing_lengths(self._length, self._network.text.num_hidden_layers),
            # Here weights are divided only where a device would be filled by all of them (`mesh_of_all`).
            gather_weights=False,
        )


def open_processor(asked: Resolved) -> Processor:
    """The processor of a model; reads no weights.

    Raises ValueError for an unknown prompt template too, since nothing can be asked without one.
    """
    prompt_template(asked.prompt_template)
    settings = asked.settings
    return Processor.from_folder(asked.folder, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels)
