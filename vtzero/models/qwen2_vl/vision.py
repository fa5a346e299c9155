"""Qwen2-VL's vision encoder: patches -> transformer with 2-D rotary positions -> 2x2 merger."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from vtzero.models.attention import Kernel, image_attention
from vtzero.models.layers import LayerNorm, Linear, Remat, Stack, normal, scan_layers
from vtzero.models.qwen2_vl.config import VisionConfig
from vtzero.models.qwen2_vl.rope import rotate, vision_cos_sin
from vtzero.parallel.sharding import by_samples


class PatchEmbed(nnx.Module):
    """Hugging Face's Conv3d whose stride equals its kernel: a matrix product on flattened patches."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        kernel = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.weight = normal(rngs, (config.embed_dim, config.in_channels, *kernel))

    def __call__(self, patches: Float[Array, "*batch patch_dim"]) -> Float[Array, "*batch embed"]:
        weight = self.weight[...]
        flat = weight.reshape(weight.shape[0], -1).astype(patches.dtype)
        return jnp.einsum("...p,ep->...e", patches, flat)


class VisionAttention(nnx.Module):
    """Multi-head attention among the patches of one image."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs, stack: Stack):
        width = config.embed_dim
        self.qkv = Linear(width, 3 * width, bias=True, rngs=rngs, stack=stack)
        self.proj = Linear(width, width, bias=True, rngs=rngs, stack=stack)
        self.heads = config.num_heads

    def __call__(
        self, x: Array, cos: Array, sin: Array, segments: Int[Array, "batch patches"], kernel: Kernel
    ) -> Array:
        batch, count, width = x.shape
        qkv = self.qkv(x).reshape(batch, count, 3, self.heads, -1)
        query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        attended = image_attention(query, key, value, segments, kernel=kernel)
        return self.proj(attended.reshape(batch, count, width))


class VisionMLP(nnx.Module):
    """Two linear layers with quick GELU, x * sigmoid(1.702 x), between them."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs, stack: Stack):
        hidden = int(config.embed_dim * config.mlp_ratio)
        self.fc1 = Linear(config.embed_dim, hidden, bias=True, rngs=rngs, stack=stack)
        self.fc2 = Linear(hidden, config.embed_dim, bias=True, rngs=rngs, stack=stack)

    def __call__(self, x: Array) -> Array:
        hidden = self.fc1(x)
        return self.fc2(hidden * jax.nn.sigmoid(1.702 * hidden))


class VisionBlock(nnx.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs, stack: Stack):
        self.norm1 = LayerNorm(config.embed_dim, stack=stack)
        self.norm2 = LayerNorm(config.embed_dim, stack=stack)
        self.attn = VisionAttention(config, rngs=rngs, stack=stack)
        self.mlp = VisionMLP(config, rngs=rngs, stack=stack)

    def __call__(self, x: Array, cos: Array, sin: Array, segments: Array, kernel: Kernel) -> Array:
        x = x + self.attn(self.norm1(x), cos, sin, segments, kernel)
        return x + self.mlp(self.norm2(x))


class Merger(nnx.Module):
    """Join each 2x2 block of patches into one vector of the decoder's width."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        joined = config.embed_dim * config.merge_count
        self.ln_q = LayerNorm(config.embed_dim)
        # Hugging Face calls these mlp.0 and mlp.2 (mlp.1 is the GELU).
        self.fc1 = Linear(joined, joined, bias=True, rngs=rngs)
        self.fc2 = Linear(joined, config.hidden_size, bias=True, rngs=rngs)
        self.joined = joined

    def __call__(self, x: Float[Array, "batch patches embed"]) -> Float[Array, "batch tokens width"]:
        blocks = self.ln_q(x).reshape(x.shape[0], -1, self.joined)
        return self.fc2(jax.nn.gelu(self.fc1(blocks), approximate=False))


class VisionEncoder(nnx.Module):
    """Patches of several images a sample -> one vector for each image token."""

    def __init__(
        self, config: VisionConfig, *, rngs: nnx.Rngs, remat: Remat = "none", attention: Kernel = "auto"
    ):
        self.patch_embed = PatchEmbed(config, rngs=rngs)
        self.blocks = VisionBlock(config, rngs=rngs, stack=(config.depth,))
        self.merger = Merger(config, rngs=rngs)
        self.config = config
        self.remat = remat
        self.attention: Kernel = attention

    def __call__(
        self,
        patches: Float[Array, "batch patches patch_dim"],
        positions: Int[Array, "batch patches 2"],
        segments: Int[Array, "batch patches"],
    ) -> Float[Array, "batch tokens width"]:
        """Encode each image of each sample by itself; padded patches (segment 0) give values nobody reads."""
        return self.merger(self.encode(patches, positions, segments))

    def encode(
        self,
        patches: Float[Array, "batch patches patch_dim"],
        positions: Int[Array, "batch patches 2"],
        segments: Int[Array, "batch patches"],
    ) -> Float[Array, "batch patches embed"]:
        """What the merger is given."""
        cos, sin = vision_cos_sin(positions, self.config.head_dim, self.config.rope_theta)
        hidden, _ = scan_layers(
            self.blocks,
            by_samples(self.patch_embed(patches)),
            lambda block, x: (block(x, cos, sin, segments, self.attention), None),
            remat=self.remat,
        )
        return hidden
