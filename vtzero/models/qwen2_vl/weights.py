"""Hugging Face's tensor names of Qwen2-VL, and the parameters of `Qwen2VL` that hold those tensors.

Knows names and shapes only: no files, no arrays and no runs.
"""

import re
from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict

from vtzero.models.attention import Kernel
from vtzero.models.layers import Remat
from vtzero.models.qwen2_vl.config import Qwen2VLConfig
from vtzero.models.qwen2_vl.model import Qwen2VL

Path = tuple[str, ...]
Shape = tuple[int, ...]

# Modules whose parameters have a leading layer axis; Hugging Face writes the layer's number after them.
_STACKS = (("visual", "blocks"), ("model", "layers"))
# The hub's names of modules that this port names otherwise.
_HUB_MODULES = {
    "visual.patch_embed.weight": "visual.patch_embed.proj.weight",
    "visual.merger.fc1.weight": "visual.merger.mlp.0.weight",
    "visual.merger.fc1.bias": "visual.merger.mlp.0.bias",
    "visual.merger.fc2.weight": "visual.merger.mlp.2.weight",
    "visual.merger.fc2.bias": "visual.merger.mlp.2.bias",
}
OUTPUT_NAME = "lm_head.weight"
EMBEDDING_NAME = "model.embed_tokens.weight"


@dataclass(frozen=True)
class ParameterPath:
    """Where one Hugging Face tensor lives: a path among the parameters, and its layer where stacked."""

    path: Path
    layer: int | None = None


def abstract_model(
    config: Qwen2VLConfig,
    *,
    dtype: jnp.dtype | type = jnp.float32,
    remat: Remat = "none",
    attention: Kernel = "auto",
) -> tuple[nnx.GraphDef, nnx.State]:
    """The split `Qwen2VL` with shapes in the place of arrays; nothing is allocated."""
    return nnx.split(
        nnx.eval_shape(
            lambda: Qwen2VL(config, rngs=nnx.Rngs(params=0), dtype=dtype, remat=remat, attention=attention)
        )
    )


def parameter_shapes(config: Qwen2VLConfig) -> dict[Path, Shape]:
    """The shape of each parameter, layer axis included, by its path."""
    _, state = abstract_model(config)
    return {path: leaf.shape for path, leaf in flatten_dict(nnx.to_pure_dict(state)).items()}


def parameter_names(config: Qwen2VLConfig) -> dict[str, ParameterPath]:
    """Every tensor of a hub checkpoint and where it is held; a tied model has no `lm_head.weight`."""
    names = {}
    for path, shape in parameter_shapes(config).items():
        if path[:2] in _STACKS:
            for layer in range(shape[0]):
                name = ".".join((*path[:2], str(layer), *path[2:]))
                names[name] = ParameterPath(path, layer)
        else:
            name = ".".join(path)
            names[_HUB_MODULES.get(name, name)] = ParameterPath(path)
    return names


def tensor_shapes(config: Qwen2VLConfig) -> dict[str, Shape]:
    """The shape of every tensor of a hub checkpoint, by its name."""
    shapes = parameter_shapes(config)
    return {
        name: shapes[place.path] if place.layer is None else shapes[place.path][1:]
        for name, place in parameter_names(config).items()
    }


def hub_name(stored: str) -> str:
    """The hub's name of a tensor, whether it was stored under that or under transformers 5's module path.

    transformers 5 keeps the vision encoder in `model.visual` and the decoder in `model.language_model`. Its
    `save_pretrained` restores the hub's names, unless told not to (`save_original_format=False`).
    """
    return re.sub(r"^model\.language_model\.", "model.", re.sub(r"^model\.visual\.", "visual.", stored))
