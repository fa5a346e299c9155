"""The GRPO loss of one micro-batch, as a pure function of a model and arrays."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vtzero.grpo.objectives import ObjectiveSettings, policy_loss
from vtzero.grpo.packing import Packing, ShortGrid
from vtzero.grpo.scoring import banned_mask, group_logprobs
from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.models.qwen2_vl.model import Qwen2VL


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rollout:
    """A scored batch of groups, all that an update needs.

    `weights` come from `objectives.loss_weights` over the whole optimizer step, so that the loss of a
    micro-batch is its share of the step's. `sampler_logps` are the sampler's `policy_logps`. All is on the
    grid of completions; `packing` says how the model is to read it.
    """

    prompts: Prompts
    completion_ids: Int[Array, "batch group length"]
    mask: Bool[Array, "batch group length"]
    weights: Float[Array, "batch group length"]
    advantages: Float[Array, "batch group"]
    sampler_logps: Float[Array, "batch group length"]
    old_logps: Float[Array, "batch group length"] | None = None
    ref_logps: Float[Array, "batch group length"] | None = None
    packing: Packing | ShortGrid | None = None


@dataclass(frozen=True)
class ScoringSettings:
    """How completions are scored: as they were sampled."""

    banned_ids: tuple[int, ...]
    temperature: float = 1.0
    chunk: int = 1024


def grpo_loss(
    model: Qwen2VL,
    rollout: Rollout,
    total_tokens: Int[Array, ""],
    objective: ObjectiveSettings,
    scoring: ScoringSettings,
) -> tuple[Float[Array, ""], tuple[dict[str, Array], dict[str, Array]]]:
    """This micro-batch's share of the step's loss, and of its metrics: sums, then maxima.

    `total_tokens` is the number of tokens in the loss over the whole step.
    """
    logps, entropy = group_logprobs(
        model,
        rollout.prompts,
        rollout.completion_ids,
        packing=rollout.packing,
        banned=banned_mask(scoring.banned_ids, model.config.text.vocab_size),
        temperature=scoring.temperature,
        chunk=scoring.chunk,
    )
    loss, sums = policy_loss(
        logps,
        rollout.old_logps,
        rollout.ref_logps,
        rollout.advantages,
        rollout.weights,
        rollout.mask,
        objective,
        total_tokens,
    )
    # Of the policy that sampled: later iterations of a rollout train one that has moved.
    of_the_sampled = logps if rollout.old_logps is None else rollout.old_logps
    difference = jnp.where(rollout.mask, jnp.abs(of_the_sampled - rollout.sampler_logps), 0.0)
    sums |= {
        "entropy": jnp.where(rollout.mask, entropy, 0.0).sum() / total_tokens,
        "sampling/sampling_logp_difference/mean": difference.sum() / total_tokens,
    }
    return loss, (sums, {"sampling/sampling_logp_difference/max": difference.max()})
