"""Qwen2-VL in groups: encode images once, read the prompt once, continue it G times.

Holds parameters and forward code; knows no files, no sampling and no reinforcement learning.
Hot functions split the module (`nnx.split`) and run plain `jax.jit` over its parameters.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from vtzero.models.attention import Kernel
from vtzero.models.layers import Linear, Remat, times_weight
from vtzero.models.qwen2_vl.config import Qwen2VLConfig
from vtzero.models.qwen2_vl.decoder import CompletionCache, Decoder, DecoderLayer, PromptCache
from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.models.qwen2_vl.vision import VisionEncoder
from vtzero.parallel.sharding import by_samples


class Qwen2VL(nnx.Module):
    """Any published Qwen2-VL; parameters are float32 unless loaded otherwise, compute is in `dtype`."""

    def __init__(
        self,
        config: Qwen2VLConfig,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype | type = jnp.float32,
        remat: Remat = "none",
        attention: Kernel = "auto",
    ):
        self.visual = VisionEncoder(config.vision, rngs=rngs, remat=remat, attention=attention)
        self.model = Decoder(config.text, rngs=rngs, remat=remat, attention=attention)
        text = config.text
        tied = config.tie_word_embeddings
        self.lm_head = None if tied else Linear(text.hidden_size, text.vocab_size, bias=False, rngs=rngs)
        self.config = config
        self.dtype = dtype

    @property
    def head(self) -> Float[Array, "vocab width"]:
        """The output matrix, whether or not it is tied to the embeddings."""
        table = self.model.embed_tokens if self.lm_head is None else self.lm_head
        return table.weight[...]

    def embed_prompts(self, prompts: Prompts) -> Float[Array, "batch prompt width"]:
        """Token embeddings with image features in the place of image tokens."""
        embeddings = self._embed(prompts.ids)
        features = self._features(prompts)
        if features is None:
            return embeddings
        is_image = (prompts.ids == self.config.image_token_id) & prompts.mask
        order = jnp.clip(jnp.cumsum(is_image, axis=1) - 1, 0, features.shape[1] - 1)
        placed = jnp.take_along_axis(features, order[..., None], axis=1)
        return jnp.where(is_image[..., None], placed, embeddings)

    def _embed(self, ids: Int[Array, "batch *tokens"]) -> Float[Array, "batch *tokens width"]:
        return by_samples(self.model.embed_tokens(ids).astype(self.dtype))

    def _features(self, prompts: Prompts) -> Float[Array, "batch tokens width"] | None:
        """From wherever the prompts stand on their way through the vision encoder; None without images."""
        if prompts.features is not None:
            return prompts.features
        if prompts.encoded is not None:
            return self.visual.merger(prompts.encoded)
        return self.see(prompts) if prompts.patches.shape[1] else None

    def encode(self, prompts: Prompts) -> Float[Array, "batch patches embed"]:
        """What the vision encoder makes of each sample's patches before its merger."""
        return self.visual.encode(
            prompts.patches.astype(self.dtype), prompts.patch_positions, prompts.segments
        )

    def see(self, prompts: Prompts) -> Float[Array, "batch tokens width"]:
        """What the vision encoder makes of each sample's patches: a vector for each image token."""
        return self.visual(prompts.patches.astype(self.dtype), prompts.patch_positions, prompts.segments)

    def read_prompts(self, prompts: Prompts) -> tuple[Float[Array, "batch prompt width"], PromptCache]:
        """Final hidden states of the prompts, and the cache their completions share."""
        return self.model.read_prompt(self.embed_prompts(prompts), prompts.positions, prompts.mask)

    def read_groups(
        self,
        prompts: Prompts,
        completion_ids: Int[Array, "batch group length"],
        segments: Int[Array, "batch group length"] | None = None,
    ) -> tuple[Float[Array, "batch prompt width"], Float[Array, "batch group length width"]]:
        """Final hidden states of the prompts and of G completions each.

        With `segments`, a row of a group holds several completions one after the other: a token sees the
        prompt and those before it that carry its number (0 is padding).
        """
        embeddings = self._embed(completion_ids)
        shape = completion_ids.shape
        steps = jnp.broadcast_to(jnp.arange(shape[2]), shape) if segments is None else _steps(segments)
        positions = prompts.start[:, None, None] + steps
        return self.model.read_groups(
            self.embed_prompts(prompts), prompts.positions, prompts.mask, embeddings, positions, segments
        )

    def decode_step(
        self,
        tokens: Int[Array, "batch group"],
        positions: Int[Array, "batch group"],
        slot: Int[Array, ""],
        prompt: PromptCache,
        cache: CompletionCache,
        layers: Sequence[DecoderLayer] | None = None,
    ) -> tuple[Float[Array, "batch group width"], CompletionCache]:
        """Append one token to every completion; the hidden states from which the next is drawn."""
        embeddings = self._embed(tokens)
        return self.model.decode_step(embeddings, positions, slot, prompt, cache, layers)

    def logits(
        self, hidden: Float[Array, "*batch width"], head: Float[Array, "vocab width"] | None = None
    ) -> Float[Array, "*batch vocab"]:
        """Float32 logits; for few positions only (see grpo/logprobs.py for whole batches).

        `head` is the model's own in another dtype, for a loop that would convert it for every token.
        """
        weight = (self.head if head is None else head).astype(hidden.dtype)
        return times_weight(hidden, weight, jnp.float32)


def _steps(segments: Int[Array, "*batch length"]) -> Int[Array, "*batch length"]:
    """How many tokens of its own segment come before each token."""
    index = jnp.broadcast_to(jnp.arange(segments.shape[-1]), segments.shape)
    begins = jnp.diff(segments, axis=-1, prepend=segments[..., :1]) != 0
    return index - jax.lax.cummax(jnp.where(begins, index, 0), axis=segments.ndim - 1)


def last_hidden(hidden: Float[Array, "batch prompt width"], prompts: Prompts) -> Float[Array, "batch width"]:
    """The hidden state of each prompt's last real token, from which the first completion token is drawn."""
    last = prompts.mask.sum(axis=1) - 1
    return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]


def predicting_hidden(
    prompt_hidden: Float[Array, "batch prompt width"],
    completion_hidden: Float[Array, "batch rows length width"],
    prompts: Prompts,
    is_first: Bool[Array, "batch rows length"] | None = None,
) -> Float[Array, "batch rows length width"]:
    """The hidden state that predicts each completion token: the prompt's last, then its own but the last.

    `is_first` marks where completions begin in rows that hold several; None: each row is one.
    """
    batch, rows, _, width = completion_hidden.shape
    last = jnp.broadcast_to(last_hidden(prompt_hidden, prompts)[:, None, None], (batch, rows, 1, width))
    before = jnp.concatenate([last, completion_hidden[:, :, :-1]], axis=2)
    return before if is_first is None else jnp.where(is_first[..., None], last, before)
