"""What a config would do, without a weight read: recipe, data, tokens, memory.

For `vtzero train CONFIG --dry_run`. The memory is an estimate from shapes; it compiles nothing.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vtzero.config import ConfigError, RunConfig, dump_config, shared_settings
from vtzero.data.hub import HubSet
from vtzero.data.image_paths import existing_folders
from vtzero.data.mixture import counts_of
from vtzero.data.prompts import prompt_template
from vtzero.data.sources import SourceCounts, missing_from_cache
from vtzero.evaluation.benchmarks import check_openable
from vtzero.models.attention import choose_kernel
from vtzero.models.qwen2_vl.config import PUBLISHED, Qwen2VLConfig, TextConfig
from vtzero.models.qwen2_vl.weights import parameter_shapes
from vtzero.parallel.mesh import AXES
from vtzero.terminal import visible
from vtzero.training.grpo import reward_functions
from vtzero.training.mesh_choice import chosen_gathering, chosen_mesh
from vtzero.training.micro_batches import device_memory
from vtzero.training.optimizer import OptimizerSettings
from vtzero.training.outline import compute_dtype, has_reference, moves_reference
from vtzero.training.setup import (
    check_attention,
    check_batch,
    check_heads,
    folder_network,
    training_source,
)
from vtzero.training.sft import DOCUMENTS
from vtzero.training.state import FROZEN_PARTS, check_freeze

_FLOAT32, _ADAM = 4, 8
_MIB = 2**20
_HUB_MAX_PIXELS = 12_845_056  # of the published models' preprocessor_config.json


@dataclass(frozen=True)
class Sizes:
    """What the estimate is made from: the network, its parameters, and how many ways they are divided."""

    model: Qwen2VLConfig
    parameters: int
    trained: int
    mesh: dict[str, int]

    @property
    def batch_shards(self) -> int:
        return self.mesh["data"] * self.mesh["fsdp"]

    @property
    def parameter_shards(self) -> int:
        return self.mesh["fsdp"] * self.mesh["tensor"]


def dry_run(config: RunConfig) -> dict[str, Any]:
    """Check and resolve a config; print its recipe and figures, and return them in JSON's types.

    Memory is in MiB a device. A model that is not here yet is taken for the published size of its name; data
    that is not here yet is named, not counted.

    Raises ConfigError and ValueError as the run itself would, and for a model of unknown size.
    """
    _check(config)
    sizes = _sizes(config)
    config = chosen_gathering(config, sizes.model, sizes.mesh, device_memory())
    check_batch(config, sizes.mesh)
    check_heads(sizes.model, sizes.mesh["tensor"])
    figures = {
        "model": config.model,
        "parameters": sizes.parameters,
        "trained_parameters": sizes.trained,
        "data": data_counts(config),
        "mesh": sizes.mesh,
        "completions_per_step": _completions(config),
        "tokens_per_step": _tokens(config),
        "tokens_in_all": _tokens(config)["at_most"] * config.max_steps,
        "memory_mib_per_device": memory(config, sizes),
    }
    _print(config, figures)
    return {"config": dump_config(config)} | figures


def _check(config: RunConfig) -> None:
    """What the run itself would refuse before it reads a weight."""
    OptimizerSettings(**shared_settings(config, OptimizerSettings))
    check_freeze(config.freeze)
    check_attention(config, jax.default_backend())
    moves_reference(config)
    for name in (config.prompt_template, config.eval_prompt_template):
        if name is not None:
            prompt_template(name)
    if config.eval_data is not None:
        images = config.eval_image_folder
        check_openable(
            config.eval_data,
            limit=config.eval_limit,
            image_folder=Path(images) if images else None,
            image_folders=existing_folders(config.image_folders),
        )
    if config.method == "grpo":
        reward_functions(config)


def data_counts(config: RunConfig) -> list[dict[str, Any]]:
    """For each source its rows, those looked at and those kept; None for one that is yet to be fetched."""
    if config.data == (DOCUMENTS,):
        return [{"name": DOCUMENTS, "rows": None, "kept": None, "text": f"{DOCUMENTS}: drawn without end"}]
    split, limit = config.data_split, config.data_limit
    missing = {s: hub for s in config.data if (hub := missing_from_cache(s, split=split, limit=limit))}
    here = tuple(spec for spec in config.data if spec not in missing)
    opened = counts_of(training_source(replace(config, data=here, data_weights=()))) if here else []
    counted = {spec: _counted(counts) for spec, counts in zip(here, opened, strict=True)}
    return [counted.get(spec) or _missing(spec, missing[spec], config) for spec in config.data]


def _counted(counts: SourceCounts) -> dict[str, Any]:
    return {"name": counts.name, "rows": counts.rows, "kept": counts.kept, "text": str(counts)}


def _missing(spec: str, hub: HubSet, config: RunConfig) -> dict[str, Any]:
    first = "all" if config.data_limit is None else f"the first {config.data_limit:,}"
    text = f"{spec}: not here yet; training fetches {first} rows of {hub.repo}, or give {spec}=FILE.parquet"
    return {"name": spec, "rows": None, "kept": None, "text": text}


def memory(config: RunConfig, sizes: Sizes) -> dict[str, int]:
    """MiB a device by use, from shapes alone.

    Weights and optimizer state are float32, as they are kept, and a reference that stays is as the model's
    folder has it; the copy of the weights that a rollout makes, cache and activations have the dtype of the
    computation; attention is the largest of its kind, in the decoder or the vision encoder. The larger of
    rollout and update counts, since they do not run at once.
    """
    width = compute_dtype(config.dtype).itemsize
    kept = {
        "parameters": sizes.parameters * _FLOAT32 // sizes.parameter_shards,
        "optimizer": sizes.trained * _ADAM // sizes.parameter_shards,
        "reference": sizes.trained * _reference_width(config, sizes) // sizes.parameter_shards,
    }
    update = {
        "gradient": sizes.trained * _FLOAT32 // sizes.parameter_shards,
        "activations": _activations(config, sizes, width),
        "attention": max(_attention(config, sizes, width), _vision_attention(config, sizes, width)),
        "logits": 3 * config.logprob_chunk * sizes.model.text.vocab_size * _FLOAT32 // sizes.mesh["tensor"],
    }
    rollout = {}
    if config.method == "grpo":
        rollout = {"copy": _copy(config, sizes, width), "cache": _cache(config, sizes, width)}
    total = sum(kept.values()) + max(sum(update.values()), sum(rollout.values()))
    return {
        name: math.ceil(size / _MIB) for name, size in (kept | update | rollout | {"peak": total}).items()
    }


def _sizes(config: RunConfig) -> Sizes:
    model = model_config(config)
    shapes = parameter_shapes(model)
    counts = {path: math.prod(shape) for path, shape in shapes.items()}
    frozen = [FROZEN_PARTS[part] for part in config.freeze]
    settings = chosen_mesh(config, model, jax.device_count(), device_memory())
    return Sizes(
        model=model,
        parameters=sum(counts.values()),
        trained=sum(count for path, count in counts.items() if not any(part(path) for part in frozen)),
        mesh=dict(zip(AXES, settings.for_devices(jax.device_count()), strict=True)),
    )


def model_config(config: RunConfig) -> Qwen2VLConfig:
    """The network of a config's model: of its folder, or else of the published size of that name.

    Raises ConfigError when it is neither.
    """
    try:
        return folder_network(config)
    except FileNotFoundError:
        known = Path(config.model).name.removesuffix("-Instruct")
        if config.model and Path(config.model).is_dir():
            raise
        if known not in PUBLISHED:
            raise ConfigError(
                f"model {config.model!r} is no folder, nor the name of a published size "
                f"({', '.join(PUBLISHED)})"
            ) from None
        return PUBLISHED[known]


def _completions(config: RunConfig) -> int:
    return config.prompts_per_step * (config.num_generations if config.method == "grpo" else 1)


def _tokens(config: RunConfig) -> dict[str, int]:
    prompts = config.prompts_per_step * config.max_prompt_length
    completions = _completions(config) * config.max_completion_length
    return {"prompts": prompts, "completions": completions, "at_most": prompts + completions}


def _rows(config: RunConfig, sizes: Sizes) -> int:
    """Prompts of one micro-batch on one device."""
    parts = config.gradient_accumulation_steps or 1
    return math.ceil(config.prompts_per_step / parts / sizes.batch_shards)


def _group(config: RunConfig) -> int:
    return config.num_generations if config.method == "grpo" else 1


def _activations(config: RunConfig, sizes: Sizes, width: int) -> int:
    """What the backward pass keeps of each layer, and fourteen arrays of hidden states while it is in one."""
    text = sizes.model.text
    tokens = config.max_prompt_length + _group(config) * config.max_completion_length
    numbers = _kept_of_layer(config, text) * text.num_hidden_layers + 14 * text.hidden_size
    return _rows(config, sizes) * tokens * numbers * width


def _kept_of_layer(config: RunConfig, text: TextConfig) -> int:
    """Numbers a token: the layer's input, with `dots` the results of its matrices, else everything.

    Everything is 3.2 to 3.3 times as much as with `dots`, by the compiled gradients of 6 and 10 layers of the
    2B and the 7B model.
    """
    if config.gradient_checkpointing and config.gradient_checkpointing_policy == "full":
        return text.hidden_size
    query_key_value = (text.num_attention_heads + 2 * text.num_key_value_heads) * text.head_dim
    dots = 2 * text.hidden_size + query_key_value + 2 * text.intermediate_size
    return dots if config.gradient_checkpointing else 33 * dots // 10


def _attention(config: RunConfig, sizes: Sizes, width: int) -> int:
    """Scores of one layer and their gradient, float32, where the einsum attention holds them whole.

    A flash kernel holds queries, what they attend to, and the gradients of both, each row after its prompt.
    """
    prompt, answer, group = config.max_prompt_length, config.max_completion_length, _group(config)
    heads = _rows(config, sizes) * sizes.model.text.num_attention_heads // sizes.mesh["tensor"]
    if _holds_scores(config):
        return 2 * heads * (prompt**2 + group * answer * (prompt + answer)) * _FLOAT32
    return 4 * heads * (prompt + group * (prompt + answer)) * sizes.model.text.head_dim * width


def _vision_attention(config: RunConfig, sizes: Sizes, width: int) -> int:
    """The same of one layer of the vision encoder, over all patches of a prompt's bucket."""
    vision = sizes.model.vision
    images = 1 if config.max_images is None else config.max_images
    patches = images * (config.max_pixels or _HUB_MAX_PIXELS) // vision.patch_size**2
    heads = _rows(config, sizes) * vision.num_heads // sizes.mesh["tensor"]
    if _holds_scores(config):
        return 2 * heads * patches**2 * _FLOAT32
    return 4 * heads * patches * vision.head_dim * width


def _holds_scores(config: RunConfig) -> bool:
    return choose_kernel(config.attention, jax.default_backend(), compute_dtype(config.dtype)) == "xla"


def _reference_width(config: RunConfig, sizes: Sizes) -> int:
    if not has_reference(config):
        return 0
    return _FLOAT32 if moves_reference(config) else jnp.dtype(sizes.model.stored_dtype).itemsize


def _copy(config: RunConfig, sizes: Sizes, width: int) -> int:
    """The weights that every token reads: whole where they are gathered, and none where they lie ready."""
    if config.gather_for_generation and sizes.mesh["fsdp"] > 1:
        return sizes.parameters * width // sizes.mesh["tensor"]
    return sizes.parameters * width // sizes.parameter_shards if width < _FLOAT32 else 0


def _cache(config: RunConfig, sizes: Sizes, width: int) -> int:
    text = sizes.model.text
    rows = math.ceil(config.prompts_per_step / sizes.batch_shards)
    slots = rows * (config.max_prompt_length + _group(config) * config.max_completion_length)
    return 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * slots * width


def _print(config: RunConfig, figures: dict[str, Any]) -> None:
    print(dump_config(config))
    for name, value in figures.items():
        if isinstance(value, list):
            print(f"{name}:", *(f"  {visible(source['text'])}" for source in value), sep="\n")
        elif isinstance(value, dict):
            print(f"{name}: " + ", ".join(f"{key} {item:,}" for key, item in value.items()))
        else:
            print(f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {visible(value)}")
