"""The supervised loss of one micro-batch, as a pure function of a model and arrays."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vtzero.grpo.scoring import group_logprobs
from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.models.qwen2_vl.model import Qwen2VL


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Targets:
    """Prompts, each with a group of target texts; `mask` is True at the tokens that the loss counts."""

    prompts: Prompts
    completion_ids: Int[Array, "batch group length"]
    mask: Bool[Array, "batch group length"]


def sft_loss(
    model: Qwen2VL, targets: Targets, total_tokens: Int[Array, ""], *, chunk: int = 1024
) -> tuple[Float[Array, ""], tuple[dict[str, Array], dict[str, Array]]]:
    """This micro-batch's share of the mean negative log-likelihood (nats a token) over the whole step.

    Padding counts nowhere; `total_tokens` is the number of True in the mask of the whole step.
    """
    logps, entropy = group_logprobs(model, targets.prompts, targets.completion_ids, chunk=chunk)
    loss = -jnp.where(targets.mask, logps, 0.0).sum() / total_tokens
    return loss, ({"entropy": jnp.where(targets.mask, entropy, 0.0).sum() / total_tokens}, {})
