"""A random tiny Qwen2-VL of transformers, the same network in vtzero, and inputs for both.

The torch model is the reference: its samples run one by one and unpadded, so that no padding can hide in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from flax.traverse_util import unflatten_dict
from PIL import Image
from transformers import Qwen2VLConfig as TorchConfig
from transformers import Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vtzero.models.layers import Remat
from vtzero.models.qwen2_vl.config import parse_config
from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.models.qwen2_vl.model import Qwen2VL
from vtzero.models.qwen2_vl.rope import Grid, patch_positions, prompt_positions
from vtzero.models.qwen2_vl.weights import abstract_model, hub_name, parameter_names, parameter_shapes

VOCABULARY = 96
IMAGE_TOKEN, VIDEO_TOKEN, VISION_START, VISION_END = 90, 91, 92, 93
TEXT_TOKENS = 90
PATCH_SIZE, MERGE_SIZE = 4, 2


def twin_config(
    *, heads: int = 4, kv_heads: int = 2, head_dim: int = 8, layers: int = 2, tied: bool = False
) -> TorchConfig:
    """A consistent tiny configuration; the M-RoPE sections share half the head size as 2 : 1 : 1."""
    quarter = head_dim // 8
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": heads * head_dim,
        "intermediate_size": 40,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2 * quarter, quarter, quarter],
        },
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    vision = {
        "depth": layers,
        "embed_dim": 32,
        "hidden_size": heads * head_dim,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": PATCH_SIZE,
        "spatial_merge_size": MERGE_SIZE,
    }
    return TorchConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE_TOKEN,
        video_token_id=VIDEO_TOKEN,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=tied,
    )


def torch_twin(config: TorchConfig, seed: int) -> Qwen2VLForConditionalGeneration:
    """A float32 model whose every parameter, norms and biases too, is random enough to move the logits."""
    model = Qwen2VLForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name or "ln_q" in name:
                parameter.copy_(noise * 0.2 + (0.0 if name.endswith("bias") else 1.0))
            elif parameter.ndim == 1:
                parameter.copy_(noise * 0.3)
            else:
                parameter.copy_(noise * 1.5 / parameter[0].numel() ** 0.5)
    return model


def vtzero_twin(twin: Qwen2VLForConditionalGeneration, *, remat: Remat = "none") -> Qwen2VL:
    """The same network in vtzero, filled from the torch model's own state by name."""
    config = parse_config(twin.config.to_dict())
    graphdef, state = abstract_model(config, remat=remat)
    stored = {hub_name(name): tensor.detach().numpy() for name, tensor in twin.state_dict().items()}
    parameters = {path: np.zeros(shape, np.float32) for path, shape in parameter_shapes(config).items()}
    for name, place in parameter_names(config).items():
        parameters[place.path][() if place.layer is None else place.layer] = stored[name]
    nnx.replace_by_pure_dict(state, unflatten_dict({k: jnp.asarray(v) for k, v in parameters.items()}))
    return nnx.merge(graphdef, state)


@dataclass(frozen=True)
class Sample:
    """One unpadded prompt as transformers' processor gives it."""

    ids: np.ndarray
    patches: np.ndarray
    grids: tuple[Grid, ...]

    def torch_inputs(self) -> dict[str, torch.Tensor]:
        """The keyword arguments of the torch model."""
        ids = torch.tensor(self.ids, dtype=torch.long)[None]
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.grids:
            inputs["mm_token_type_ids"] = (ids == IMAGE_TOKEN).int()
            inputs["pixel_values"] = torch.tensor(self.patches)
            inputs["image_grid_thw"] = torch.tensor(self.grids)
        return inputs

    def followed_by(self, tokens: Sequence[int] | np.ndarray) -> "Sample":
        """The same prompt with text tokens appended."""
        return Sample(np.concatenate([self.ids, tokens]), self.patches, self.grids)


def random_sample(rng: np.random.Generator, image_sizes: Sequence[tuple[int, int]], words: int = 5) -> Sample:
    """Random text around random images of the given (height, width), cut by transformers' image processor."""
    processor = Qwen2VLImageProcessorPil(
        patch_size=PATCH_SIZE, merge_size=MERGE_SIZE, size={"shortest_edge": 64, "longest_edge": 4096}
    )
    ids, patches, grids = [_text(rng, words)], [np.zeros((0, 6 * PATCH_SIZE**2), np.float32)], []
    for height, width in image_sizes:
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        processed = processor(Image.fromarray(pixels), return_tensors="np")
        grid = tuple(int(size) for size in processed["image_grid_thw"][0])
        count = int(np.prod(grid)) // MERGE_SIZE**2
        ids += [[VISION_START], [IMAGE_TOKEN] * count, [VISION_END], _text(rng, rng.integers(1, words))]
        patches.append(processed["pixel_values"])
        grids.append(grid)
    return Sample(np.concatenate(ids).astype(np.int32), np.concatenate(patches), tuple(grids))


def _text(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(0, TEXT_TOKENS, count)


def collate(samples: Sequence[Sample], seed: int = 0) -> Prompts:
    """Right-pad samples into one batch; padding is image tokens and noise, so that no leak can stay small."""
    rng = np.random.default_rng(seed)
    length = max(len(sample.ids) for sample in samples)
    count = max(len(sample.patches) for sample in samples)
    batch = len(samples)
    ids = np.full((batch, length), IMAGE_TOKEN, np.int32)
    mask = np.zeros((batch, length), bool)
    positions = np.zeros((3, batch, length), np.int32)
    start = np.zeros(batch, np.int32)
    patches = rng.normal(0, 10, (batch, count, samples[0].patches.shape[1])).astype(np.float32)
    places = np.zeros((batch, count, 2), np.int32)
    segments = np.zeros((batch, count), np.int32)
    for row, sample in enumerate(samples):
        tokens, filled = len(sample.ids), len(sample.patches)
        ids[row, :tokens], mask[row, :tokens] = sample.ids, True
        positions[:, row, :tokens], start[row] = prompt_positions(
            sample.ids, sample.grids, IMAGE_TOKEN, MERGE_SIZE
        )
        if sample.grids:
            patches[row, :filled] = sample.patches
            places[row, :filled] = np.concatenate([patch_positions(g, MERGE_SIZE) for g in sample.grids])
            sizes = [int(np.prod(grid)) for grid in sample.grids]
            segments[row, :filled] = np.repeat(np.arange(1, len(sizes) + 1), sizes)
    return Prompts(*map(jnp.asarray, (ids, mask, positions, start, patches, places, segments)))
