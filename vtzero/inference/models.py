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

PROMPT_TEMPLATE, MAX_COMPLETION_LENGTH, MAX_PROMPT_LENGTH = "r1_zero_base", 72, 1024
_EXPORT, _CONFIG = "export", "config.yaml"


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """How a model is used: its folder ('tiny' is the one that ships), prompt, lengths and image size.

    The folder is a Hugging Face one or a run's. What is None is the run's own (see `resolved`).
    """

    model: str = "tiny"
    prompt_template: str | None = None
    max_completion_length: int | None = None
    max_prompt_length: int | None = None
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
    max_prompt_length: int
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
    folder = model_folder(settings.model)
    run_folder = _run_folder(folder)
    if run_folder is None:
        _check_model(folder)
        return _complete(settings)
    run = load_config(run_folder / _CONFIG)
    template, pixels = run.prompt_template, run.max_pixels
    if evaluation:
        template, pixels = run.eval_prompt_template or template, run.eval_max_pixels or pixels
    own = {"prompt_template": template, "max_completion_length": run.max_completion_length}
    own |= {"max_prompt_length": run.max_prompt_length} if evaluation else {}
    taken: dict[str, Any] = {name: value for name, value in own.items() if getattr(settings, name) is None}
    if settings.max_pixels is None:
        taken |= {"min_pixels": settings.min_pixels or run.min_pixels, "max_pixels": pixels}
    said = [f"{name} {value}" for name, value in taken.items() if value is not None]
    if folder == run_folder:
        _check_model(folder)
        said.insert(0, _EXPORT)
        settings = replace(settings, model=str(run_folder / _EXPORT))
    note = f"{folder}: with the run's {', '.join(said)}" if said else None
    return _complete(replace(settings, **taken), run, note)


def _complete(settings: ModelSettings, run: RunConfig | None = None, note: str | None = None) -> Resolved:
    length, prompt_length = settings.max_completion_length, settings.max_prompt_length
    return Resolved(
        settings=settings,
        prompt_template=settings.prompt_template or PROMPT_TEMPLATE,
        max_completion_length=MAX_COMPLETION_LENGTH if length is None else length,
        max_prompt_length=MAX_PROMPT_LENGTH if prompt_length is None else prompt_length,
        run=run,
        note=note,
    )


def _run_folder(folder: Path) -> Path | None:
    """The run that a folder is, or is the export of."""
    if (folder / "config.json").is_file():
        parent = folder.resolve().parent
        return parent if folder.resolve().name == _EXPORT and (parent / _CONFIG).is_file() else None
    return folder if (folder / _CONFIG).is_file() else None


def _check_model(folder: Path) -> None:
    """Of a folder that is not Hugging Face's, what to give instead, where that is known."""
    holders = (folder, folder / _EXPORT) if (folder / _CONFIG).is_file() else (folder,)
    if (folder / "checkpoints").is_dir() and not any((one / "config.json").is_file() for one in holders):
        raise ValueError(
            f"{folder}: has checkpoints, and no {_EXPORT}/ yet (a run writes it at its end); make one of "
            f"the last with `vtzero export {folder} OUT`, and give OUT"
        )
    if len(holders) > 1 and not (holders[1] / "config.json").is_file():
        raise ValueError(f"{folder}: a run with neither {_EXPORT}/ nor checkpoints/; go on with it first")


class LoadedModel:
    """Weights on a mesh, or on the first device, and what samples from them.

    `Sampler(model.merge, model.decode(...))` is called with `model.pieces`.
    """

    def __init__(self, asked: Resolved, processor: Processor, mesh: Mesh | None = None):
        self.folder = asked.folder
        self.dtype = compute_dtype(asked.settings.dtype)
        network = read_config(self.folder)
        self._processor, self._length = processor, asked.max_completion_length
        where = None if mesh is None else shard_params(abstract_model(network)[1], mesh)
        graphdef, params = load_model(self.folder, dtype=self.dtype, sharding=where)
        self.merge, self.pieces = partial(nnx.merge, graphdef), (params,)
        self._layers = network.text.num_hidden_layers

    def decode(self, logps: LogProbabilities, cache_lengths: tuple[int, ...] | None = None) -> DecodeSettings:
        """The decode loop's shape, recording these log-probabilities."""
        return DecodeSettings(
            self._length,
            self._processor.stop_ids,
            self._processor.pad_id,
            logps,
            cache_lengths or growing_lengths(self._length, self._layers),
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
