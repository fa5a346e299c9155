"""From a config to the parts of a run: model, processor, mesh, state. Files are read here, nothing is written
but the blank model's folder."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from vtzero.config import ConfigError, RunConfig
from vtzero.data.batches import Buckets
from vtzero.data.image_paths import existing_folders
from vtzero.data.mixture import Mixture, open_mixture
from vtzero.data.processor import Processor
from vtzero.data.prompts import PromptTemplate, prompt_template
from vtzero.data.sources import Selected, open_source
from vtzero.data.supervised import corpus
from vtzero.models.attention import choose_kernel
from vtzero.models.qwen2_vl.config import Qwen2VLConfig
from vtzero.models.qwen2_vl.model import Qwen2VL
from vtzero.parallel.mesh import make_mesh
from vtzero.parallel.messages import tell_all
from vtzero.parallel.processes import is_first, wait_for_all
from vtzero.parallel.sharding import shard_params, state_sharding
from vtzero.scenes.blank import write_blank
from vtzero.training.huggingface import load_model, read_config, save_model
from vtzero.training.huggingface_folder import WEIGHTS
from vtzero.training.mesh_choice import chosen_gathering, chosen_mesh
from vtzero.training.micro_batches import device_memory
from vtzero.training.optimizer import decays
from vtzero.training.outline import compute_dtype, outline, remat_of, updates_of
from vtzero.training.state import ModelParts, TrainState, split_model

TINY_BASE = "tiny"
BLANK = "blank"

# Deviation 0.08, not 0.02: a network 64 to 128 wide then names what it sees after 300 steps of captions.
# Drawn as for a network 1,536 wide, it took 2,300.
_BLANK_SCALE = 4.0


@dataclass(frozen=True)
class Setup:
    """What every method trains with.

    `config` is the run's, with `gather_for_generation` decided; `folder` is the Hugging Face folder that the
    run started from; `memory` are the bytes of a device, of all processes' the least.
    """

    config: RunConfig
    folder: Path
    processor: Processor
    template: PromptTemplate
    buckets: Buckets
    memory: int
    mesh: jax.sharding.Mesh
    shardings: TrainState
    parts: ModelParts
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    banned_ids: tuple[int, ...]


def model_folder(name: str) -> Path:
    """The folder of a model: a path, or "tiny" for the base model that ships with the package.

    Raises FileNotFoundError when there is no such folder.
    """
    folder = Path(str(files("vtzero") / "assets" / "tiny_base")) if name == TINY_BASE else Path(name)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"model {name!r}: no such folder; give a Hugging Face folder of a Qwen2-VL, or 'tiny'"
        )
    return folder


def set_up(config: RunConfig, run_folder: Path) -> tuple[Setup, TrainState]:
    """Build all parts of a run and the state before its first update."""
    network = folder_network(config)
    # Processes may run on hosts that differ, and must choose the same mesh.
    memory = min(tell_all(device_memory()))
    mesh = make_mesh(chosen_mesh(config, network, jax.device_count(), memory))
    config = chosen_gathering(config, network, mesh.shape, memory)
    check_batch(config, dict(mesh.shape))
    check_attention(config, mesh.devices.flat[0].platform)
    template = prompt_template(config.prompt_template)
    check_heads(network, mesh.shape["tensor"])
    made = outline(config, network)
    folder, graphdef, params = _load(config, run_folder, mesh)
    processor = Processor.from_folder(folder, min_pixels=config.min_pixels, max_pixels=config.max_pixels)
    parts, trainable, frozen = split_model(graphdef, params, config.freeze)
    images = 1 if config.max_images is None else config.max_images
    shardings = state_sharding(made.state, mesh)
    setup = Setup(
        config=config,
        folder=folder,
        processor=processor,
        template=template,
        buckets=Buckets(config.max_prompt_length, processor.max_patches(images)),
        memory=memory,
        mesh=mesh,
        shardings=shardings,
        parts=parts,
        optimizer=made.optimizer,
        schedule=made.schedule,
        banned_ids=processor.config.vision_token_ids,
    )
    with jax.set_mesh(mesh):
        state = jax.jit(made.start, out_shardings=shardings)(trainable, frozen)
    return setup, state


def folder_network(config: RunConfig) -> Qwen2VLConfig:
    """The network of a config's model folder; the blank model, whose folder a run writes, has the tiny one's.

    Raises FileNotFoundError when there is no such folder.
    """
    return read_config(model_folder(TINY_BASE if config.model == BLANK else config.model))


def check_batch(config: RunConfig, mesh: Mapping[str, int]) -> None:
    """Raise ConfigError when a step's prompts cannot be shared out over the mesh."""
    shards, parts = mesh["data"] * mesh["fsdp"], config.gradient_accumulation_steps or 1
    if config.prompts_per_step % shards:
        raise ConfigError(
            f"prompts_per_step is {config.prompts_per_step}, which does not divide over the mesh's "
            f"data * fsdp = {shards} devices; change one of them (mesh.tensor takes devices too)"
        )
    if config.prompts_per_step % (shards * parts):
        raise ConfigError(
            f"prompts_per_step is {config.prompts_per_step}, which does not divide into "
            f"gradient_accumulation_steps = {parts} micro-batches over data * fsdp = {shards} devices; "
            "lower gradient_accumulation_steps: the gradient does not depend on it"
        )


def check_heads(model: Qwen2VLConfig, tensor: int) -> None:
    """Raise ConfigError where `tensor` devices cannot share out the heads: each would compute all of them."""
    if tensor not in (possible := tensor_sizes(model)):
        text = model.text
        raise ConfigError(
            f"mesh.tensor is {tensor}, which cannot share out the model's heads ({text.num_attention_heads} "
            f"of queries, {text.num_key_value_heads} of keys, {model.vision.num_heads} of the vision "
            f"encoder); it can be {', '.join(map(str, possible))}"
        )


def tensor_sizes(model: Qwen2VLConfig) -> list[int]:
    """Over how many devices all heads divide; key heads that are fewer than the devices are repeated."""
    queries, keys = model.text.num_attention_heads, model.text.num_key_value_heads
    return [
        size
        for size in range(1, queries + 1)
        if not (queries % size or model.vision.num_heads % size or (keys % size and size % keys))
    ]


def check_attention(config: RunConfig, platform: str) -> None:
    """Raise ConfigError when the kernel asked for cannot run on the mesh's devices, or cannot pack."""
    try:
        kernel = choose_kernel(config.attention, platform, compute_dtype(config.dtype))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if config.packing and kernel == "splash":
        raise ConfigError(
            "packing is true, but the splash kernel's block mask knows no packed rows; "
            "set packing to false, or attention to xla"
        )


def learning_rates(setup: Setup) -> np.ndarray:
    """The learning rate of each update, on the host: a number asked of the device would wait for its work."""
    updates = jnp.arange(updates_of(setup.config) + setup.config.max_steps * setup.config.num_iterations)
    return np.asarray(jax.vmap(setup.schedule)(updates))


def training_source(config: RunConfig) -> Selected | Mixture:
    """The questions that a config trains on.

    Raises ValueError or FileNotFoundError for a source that cannot be opened or has no row left.
    """
    specs = list(config.data)
    options: dict[str, Any] = {
        "split": config.data_split,
        "limit": config.data_limit,
        "shuffle_options_seed": config.seed,
        "max_images": config.max_images,
        "question_types": config.question_types,
        "image_folders": existing_folders(config.image_folders),
    }
    if len(specs) == 1:
        return open_source(specs[0], **options)
    return open_mixture(specs, config.data_weights, **options)


def reference_parameters(setup: Setup, run_folder: Path) -> Any:
    """The trainable parameters as they were before the first update, for a KL penalty whose reference stays.

    They are read from the model's folder again, so that no checkpoint needs to hold them, and keep the dtype
    that they have there: bfloat16 takes half the memory, and widened it would hold the same numbers.
    """
    _, graphdef, params = _load(setup.config, run_folder, setup.mesh, parameter_dtype=None)
    return split_model(graphdef, params, setup.config.freeze)[1]


def _load(
    config: RunConfig, run_folder: Path, mesh: jax.sharding.Mesh, parameter_dtype: Any = jnp.float32
) -> tuple[Path, Any, Any]:
    folder = starting_folder(config, run_folder)
    shardings = _shardings(folder, mesh)
    graphdef, params = load_model(
        folder,
        dtype=compute_dtype(config.dtype),
        parameter_dtype=parameter_dtype,
        sharding=shardings,
        remat=remat_of(config),
        attention=config.attention,
    )
    return folder, graphdef, params


def starting_folder(config: RunConfig, run_folder: Path) -> Path:
    """The Hugging Face folder that a run starts from; raises FileNotFoundError when there is none."""
    if config.model == BLANK:
        return _blank(config, run_folder, prompt_template(config.prompt_template))
    return model_folder(config.model)


def _blank(config: RunConfig, run_folder: Path, template: PromptTemplate) -> Path:
    """The untrained tiny model as a Hugging Face folder in the run folder, made once, from the run's seed."""
    folder, weights = run_folder / BLANK, run_folder / ".blank_weights"
    if is_first() and not (folder / WEIGHTS).exists():
        write_blank(folder, iter(corpus(template)))
        model_config = read_config(folder)
        drawn = nnx.state(Qwen2VL(model_config, rngs=nnx.Rngs(config.seed)), nnx.Param)
        params = jax.tree.map(lambda x, scaled: x * _BLANK_SCALE if scaled else x, drawn, decays(drawn))
        save_model(None, params, model_config, weights)
        (weights / WEIGHTS).rename(folder / WEIGHTS)
        shutil.rmtree(weights)
    wait_for_all("blank")
    return folder


def _shardings(folder: Path, mesh: jax.sharding.Mesh) -> Any:
    model_config = read_config(folder)
    shapes = nnx.eval_shape(lambda: Qwen2VL(model_config, rngs=nnx.Rngs(0)))
    return nnx.to_pure_dict(shard_params(nnx.state(shapes, nnx.Param), mesh))
