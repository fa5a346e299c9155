"""The supervised loss of one micro-batch, as a pure function of a model and arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vtzero.grpo.logprobs import chunked_logprobs
from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.models.qwen2_vl.model import Qwen2VL, predicting_hidden


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Targets:
    """Prompts, each with a group of target texts; the masks are True at the tokens that the loss counts.

    `prompt_mask` None counts no prompt. Where prompts count, each does so once for every target that follows
    it, as if each were a sequence of its own.
    """

    prompts: Prompts
    completion_ids: Int[Array, "batch group length"]
    mask: Bool[Array, "batch group length"]
    prompt_mask: Bool[Array, "batch prompt"] | None = None


def prompt_loss_mask(prompts: Prompts, ignored_ids: Sequence[int]) -> Bool[np.ndarray, "batch prompt"]:
    """The prompt tokens that a loss on all tokens counts: neither padding, nor ignored, nor the first.

    Nothing predicts the first. The paper's code ignores `<|vision_start|>`, `<|vision_end|>` and the image
    tokens between them. Source: `sft.py` in turningpoint-ai/VisualThinker-R1-Zero.
    """
    mask = np.asarray(prompts.mask) & ~np.isin(np.asarray(prompts.ids), ignored_ids)
    mask[:, 0] = False
    return mask


def count_tokens(targets: Targets) -> Int[Array, ""]:
    """The tokens that the loss counts, by which it is divided over a whole step."""
    group = targets.mask.shape[1]
    prompts = 0 if targets.prompt_mask is None else group * targets.prompt_mask.sum()
    return targets.mask.sum() + prompts


def sft_loss(
    model: Qwen2VL, targets: Targets, total_tokens: Int[Array, ""], *, chunk: int = 1024
) -> tuple[Float[Array, ""], tuple[dict[str, Array], dict[str, Array]]]:
    """This micro-batch's share of the mean negative log-likelihood (nats a token) over the whole step.

    Padding counts nowhere; `total_tokens` is `count_tokens` of the whole step.
    """
    hidden, ids, counts = _rows(model, targets)
    logps, entropy = chunked_logprobs(hidden, model.head, ids, chunk=chunk)
    loss = -jnp.where(counts > 0, counts * logps, 0.0).sum() / total_tokens
    return loss, ({"entropy": jnp.where(counts > 0, counts * entropy, 0.0).sum() / total_tokens}, {})


def _rows(
    model: Qwen2VL, targets: Targets
) -> tuple[Float[Array, "rows width"], Int[Array, " rows"], Float[Array, " rows"]]:
    """Hidden states, the tokens that they predict, and how often each counts.

    Prompts are joined to their own targets, so that a batch sharded over devices stays where it is.
    """
    prompts, batch = targets.prompts, targets.mask.shape[0]
    prompt_hidden, completion_hidden = model.read_groups(prompts, targets.completion_ids)
    hidden = predicting_hidden(prompt_hidden, completion_hidden, prompts)
    width = hidden.shape[-1]
    hidden = hidden.reshape(batch, -1, width)
    ids = targets.completion_ids.reshape(batch, -1)
    counts = targets.mask.reshape(batch, -1).astype(jnp.float32)
    if targets.prompt_mask is not None:
        group = targets.mask.shape[1]
        # Each predicts the next; the last is given the first, which never counts, so that lengths stay even.
        next_counts = group * jnp.roll(targets.prompt_mask, -1, axis=1).astype(jnp.float32)
        hidden = jnp.concatenate([prompt_hidden, hidden], axis=1)
        ids = jnp.concatenate([jnp.roll(prompts.ids, -1, axis=1), ids], axis=1)
        counts = jnp.concatenate([next_counts, counts], axis=1)
    return hidden.reshape(-1, width), ids.reshape(-1), counts.reshape(-1)
