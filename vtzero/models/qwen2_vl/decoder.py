"""Qwen2-VL's decoder: grouped-query attention with M-RoPE and a gated MLP, in three forms.

`read_prompt` reads prompts once and returns their keys and values; `read_groups` reads prompts and their
G completions together (training); `decode_step` continues every completion by one token (sampling).
All three call the same layer code. Knows no images and no tokenizer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from vtzero.models.attention import Kernel, group_attention, prompt_attention
from vtzero.models.attention.decode import as_key_cache, as_value_cache, decode_attention
from vtzero.models.layers import Embedding, Linear, Remat, RMSNorm, Stack, layer_at, scan_layers
from vtzero.models.qwen2_vl.config import TextConfig
from vtzero.models.qwen2_vl.rope import mrope_cos_sin, rotate
from vtzero.parallel.sharding import gathered, is_divided

Hidden = Float[Array, "*batch length width"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PromptCache:
    """Keys and values of the prompts, one array a layer, shared by the completions of a group."""

    keys: tuple[Float[Array, "batch kv_heads head_dim prompt"], ...]
    values: tuple[Float[Array, "batch kv_heads prompt head_dim"], ...]
    mask: Bool[Array, "batch prompt"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CompletionCache:
    """Keys and values of the completions, one array a layer; every completion starts at slot 0."""

    keys: tuple[Float[Array, "batch kv_heads group head_dim length"], ...]
    values: tuple[Float[Array, "batch kv_heads group length head_dim"], ...]

    @property
    def length(self) -> int:
        """How many tokens a completion can have."""
        return self.keys[0].shape[-1]

    def grown(self, length: int) -> "CompletionCache":
        """The same with `length` slots; the new ones are zeros."""
        more = length - self.length
        return CompletionCache(
            tuple(jnp.pad(keys, [(0, 0)] * 4 + [(0, more)]) for keys in self.keys),
            tuple(jnp.pad(values, [(0, 0)] * 3 + [(0, more), (0, 0)]) for values in self.values),
        )


class SelfAttention(nnx.Module):
    """Projections of grouped-query attention; the attention itself is chosen by the caller."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, stack: Stack):
        width, head_dim = config.hidden_size, config.head_dim
        queries, keys = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
        self.q_proj = Linear(width, queries, bias=True, rngs=rngs, stack=stack)
        self.k_proj = Linear(width, keys, bias=True, rngs=rngs, stack=stack)
        self.v_proj = Linear(width, keys, bias=True, rngs=rngs, stack=stack)
        self.o_proj = Linear(queries, width, bias=False, rngs=rngs, stack=stack)
        self.head_dim = head_dim

    def project(self, x: Hidden, cos: Array, sin: Array) -> tuple[Array, Array, Array]:
        """Rotated queries, rotated keys and values, split into heads."""
        query, key, value = (self._heads(proj(x)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        return rotate(query, cos, sin), rotate(key, cos, sin), value

    def _heads(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], -1, self.head_dim)


class MLP(nnx.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, stack: Stack):
        width, hidden = config.hidden_size, config.intermediate_size
        self.gate_proj = Linear(width, hidden, bias=False, rngs=rngs, stack=stack)
        self.up_proj = Linear(width, hidden, bias=False, rngs=rngs, stack=stack)
        self.down_proj = Linear(hidden, width, bias=False, rngs=rngs, stack=stack)

    def __call__(self, x: Hidden) -> Hidden:
        return self.down_proj(jax.nn.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nnx.Module):
    """Pre-norm attention and MLP, cut at the attention so that each form brings its own keys."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, stack: Stack):
        self.input_layernorm = RMSNorm(config.hidden_size, epsilon=config.rms_norm_eps, stack=stack)
        self.self_attn = SelfAttention(config, rngs=rngs, stack=stack)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, epsilon=config.rms_norm_eps, stack=stack)
        self.mlp = MLP(config, rngs=rngs, stack=stack)

    def project(self, x: Hidden, cos: Array, sin: Array) -> tuple[Array, Array, Array]:
        """Normalise, then queries, keys and values."""
        return self.self_attn.project(self.input_layernorm(x), cos, sin)

    def finish(self, x: Hidden, attended: Float[Array, "*batch length heads head_dim"]) -> Hidden:
        """Output projection, residual, MLP, residual."""
        x = x + self.self_attn.o_proj(attended.reshape(*attended.shape[:-2], -1))
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nnx.Module):
    """Embeddings, stacked layers and the final norm."""

    def __init__(
        self, config: TextConfig, *, rngs: nnx.Rngs, remat: Remat = "none", attention: Kernel = "auto"
    ):
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size, rngs=rngs)
        self.layers = DecoderLayer(config, rngs=rngs, stack=(config.num_hidden_layers,))
        self.norm = RMSNorm(config.hidden_size, epsilon=config.rms_norm_eps)
        self.config = config
        self.remat = remat
        self.attention: Kernel = attention

    def read_prompt(
        self,
        embeddings: Float[Array, "batch prompt width"],
        positions: Int[Array, "3 batch prompt"],
        mask: Bool[Array, "batch prompt"],
    ) -> tuple[Float[Array, "batch prompt width"], PromptCache]:
        """Final hidden states of right-padded prompts, and the keys and values that completions need."""
        cos, sin = self._angles(positions)

        def body(layer: DecoderLayer, x: Array) -> tuple[Array, tuple[Array, Array]]:
            query, key, value = layer.project(x, cos, sin)
            attended = prompt_attention(query, key, value, mask, kernel=self.attention)
            return layer.finish(x, attended), (as_key_cache(key), as_value_cache(value))

        hidden, (keys, values) = scan_layers(self.layers, embeddings, body, remat=self.remat)
        layers = range(self.config.num_hidden_layers)
        cache = PromptCache(tuple(keys[i] for i in layers), tuple(values[i] for i in layers), mask)
        return self.norm(hidden), cache

    def read_groups(
        self,
        prompt_embeddings: Float[Array, "batch prompt width"],
        prompt_positions: Int[Array, "3 batch prompt"],
        prompt_mask: Bool[Array, "batch prompt"],
        embeddings: Float[Array, "batch group length width"],
        positions: Int[Array, "batch group length"],
        segments: Int[Array, "batch group length"] | None = None,
    ) -> tuple[Float[Array, "batch prompt width"], Float[Array, "batch group length width"]]:
        """Final hidden states of prompts and of their completions; each prompt is computed once.

        Gradients of the completions flow back through the shared prompt. Completions are right-padded and
        causal, so their padding needs no mask: nothing that is kept can see it. With `segments` the rows of a
        group hold several completions each (see `group_attention`), and `positions` start anew in each.
        """
        prompt_angles = self._angles(prompt_positions)
        angles = self._text_angles(positions)

        def body(layer: DecoderLayer, carry: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
            prompt, completion = carry
            attended = group_attention(
                layer.project(prompt, *prompt_angles),
                prompt_mask,
                layer.project(completion, *angles),
                segments,
                kernel=self.attention,
            )
            return (layer.finish(prompt, attended[0]), layer.finish(completion, attended[1])), None

        carry = (prompt_embeddings, embeddings)
        (prompt, completion), _ = scan_layers(self.layers, carry, body, remat=self.remat)
        return self.norm(prompt), self.norm(completion)

    def decode_step(
        self,
        embeddings: Float[Array, "batch group width"],
        positions: Int[Array, "batch group"],
        slot: Int[Array, ""],
        prompt: PromptCache,
        cache: CompletionCache,
        layers: Sequence[DecoderLayer] | None = None,
    ) -> tuple[Float[Array, "batch group width"], CompletionCache]:
        """Read one token of every completion into `slot` of the cache; the final hidden states follow.

        Layers are unrolled over a list of caches: measured fastest, and no second cache is held. `layers` are
        those of `unstacked`; None takes each out of the stacked weights when its turn comes.
        """
        cos, sin = self._text_angles(positions[:, :, None])
        visible = jnp.arange(cache.length) <= slot
        hidden = embeddings[:, :, None]
        keys, values = list(cache.keys), list(cache.values)
        for index in range(self.config.num_hidden_layers):
            zero = _unforeseen_zero(slot, hidden)
            layer = layer_at(self.layers, index + zero) if layers is None else layers[index]
            query, key, value = layer.project(hidden, cos, sin)
            keys[index] = _put(keys[index], as_key_cache(key), slot, axis=4)
            values[index] = _put(values[index], as_value_cache(value), slot, axis=3)
            attended = decode_attention(
                query[:, :, 0],
                prompt.keys[index],
                prompt.values[index],
                prompt.mask,
                keys[index],
                values[index],
                visible,
            )
            hidden = layer.finish(hidden, attended[:, :, None])
        return self.norm(hidden)[:, :, 0], CompletionCache(tuple(keys), tuple(values))

    def unstacked(self, dtype: jnp.dtype, *, gather: bool = False) -> list[DecoderLayer] | None:
        """Each layer's weights by themselves, in the dtype that decoding computes in; None to spare a copy.

        With `gather`, weights that are divided over the mesh's `fsdp` are made whole.

        A decoding loop would otherwise take every layer out of the stacked weights, and convert it, for every
        token: twice the bytes with float32 weights for bfloat16 products. Where nothing is to be converted
        they would be a second copy of the weights, which only small ones are worth (`_HELD_TWICE`).
        """
        weights = jax.tree.leaves(nnx.state(self.layers))
        converts = any(leaf.dtype != dtype for leaf in weights)
        gather = gather and is_divided()
        if not converts and not gather and sum(leaf.nbytes for leaf in weights) > _HELD_TWICE:
            return None
        layers = (layer_at(self.layers, index) for index in range(self.config.num_hidden_layers))
        return [_ready(layer, dtype, gather) for layer in layers]

    def empty_cache(self, batch: int, group: int, length: int, dtype: jnp.dtype) -> CompletionCache:
        """An all-zero completion cache of `length` slots."""
        config = self.config
        shape = (batch, config.num_key_value_heads, group)
        keys, values = (*shape, config.head_dim, length), (*shape, length, config.head_dim)
        layers = range(config.num_hidden_layers)
        return CompletionCache(
            tuple(jnp.zeros(keys, dtype) for _ in layers), tuple(jnp.zeros(values, dtype) for _ in layers)
        )

    def _angles(self, positions: Int[Array, "3 *batch length"]) -> tuple[Array, Array]:
        config = self.config
        return mrope_cos_sin(positions, config.head_dim, config.rope_theta, config.mrope_section)

    def _text_angles(self, positions: Int[Array, "*batch length"]) -> tuple[Array, Array]:
        return self._angles(jnp.broadcast_to(positions, (3, *positions.shape)))


# Bytes. For 6 layers 256 wide (24 MB) taking each layer out for every token took 15 % of its time on a CPU.
_HELD_TWICE = 64 * 2**20


def _ready(layer: DecoderLayer, dtype: jnp.dtype, gather: bool) -> DecoderLayer:
    graphdef, state = nnx.split(layer)
    converted = jax.tree.map(lambda leaf: leaf.astype(dtype), state)
    return nnx.merge(graphdef, gathered(converted) if gather else converted)


def _put(cache: Array, new: Array, slot: Int[Array, ""], axis: int) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(cache, new, slot, axis)


def _unforeseen_zero(slot: Int[Array, ""], hidden: Float[Array, "batch group 1 width"]) -> Int[Array, ""]:
    """0, in a form that keeps XLA from slicing every layer out of the stacked weights at once.

    Those slices together are a second copy of the weights. A dependence on the loop's own counter keeps them
    from being made before the decoding loop. XLA:CPU would still make them all as an iteration begins: there
    each waits for the layer before. Elsewhere the scheduler saves memory by itself, and a number read out of
    a sharded array would cost an exchange between devices in every layer.
    """
    return jax.lax.platform_dependent(
        cpu=lambda: jnp.minimum(jnp.abs(hidden[0, 0, 0, 0]).astype(jnp.int32), 0),
        default=lambda: jnp.minimum(slot, 0),
    )
