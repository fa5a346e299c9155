"""GRPO's objective: per-token losses, the weights that normalise them, and their sum.

Pure functions of arrays and one frozen dataclass. Completions are a batch of groups, (batch, group, length).
Must not know how log-probabilities are computed, how a step is split, or any configuration of a run.

The normaliser of a loss is a number of the whole optimizer step, so it is computed once, from the mask of the
whole step (`loss_weights`). What is left is a weighted *sum* (`policy_loss`), and sums do not care how the
step is cut into micro-batches or spread over devices.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo"]

TokenValues = Float[Array, "batch group length"]
TokenMask = Bool[Array, "batch group length"]


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """What decides the loss; names and meanings are TRL's `GRPOConfig`.

    - `loss_type`: how token losses are normalised, see `loss_weights`.
    - `max_completion_length`: the constant length by which `dr_grpo` divides.
    - `beta`: weight of the KL penalty; 0 needs no reference model.
    - `epsilon`, `epsilon_high`: the ratio is clipped to [1 - epsilon, 1 + epsilon_high]; None: to `epsilon`.
    - `num_iterations`: updates made with one rollout; above 1 the old log-probabilities are needed.
    - `mask_truncated_completions`: leave completions without a stop token out of the loss and its normaliser.

    Raises ValueError naming the field for a value outside its range.
    """

    loss_type: LossType
    max_completion_length: int
    beta: float = 0.0
    epsilon: float = 0.2
    epsilon_high: float | None = None
    num_iterations: int = 1
    mask_truncated_completions: bool = False

    def __post_init__(self) -> None:
        if self.loss_type not in get_args(LossType):
            raise ValueError(
                f"loss_type is {self.loss_type!r}; it must be one of {', '.join(get_args(LossType))}"
            )
        _require(
            self.max_completion_length >= 1, "max_completion_length", self.max_completion_length, "at least 1"
        )
        _require(0.0 <= self.beta < float("inf"), "beta", self.beta, "finite and at least 0")
        _require(0.0 < self.epsilon < float("inf"), "epsilon", self.epsilon, "finite and above 0")
        _require(
            0.0 < self.clip_above < float("inf"), "epsilon_high", self.epsilon_high, "finite and above 0"
        )
        _require(self.num_iterations >= 1, "num_iterations", self.num_iterations, "at least 1")

    @property
    def clip_above(self) -> float:
        """The upper clipping distance in force: `epsilon_high`, or `epsilon` where that is None."""
        return self.epsilon if self.epsilon_high is None else self.epsilon_high


def _require(holds: bool, field: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{field} is {value!r}; it must be {allowed}")


def k3(logps: Float[Array, "*shape"], ref_logps: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Per-token estimate of KL(policy || reference) on tokens drawn from the policy, never negative.

    k3 = exp(ref_logp - logp) - (ref_logp - logp) - 1

    Source: Schulman, "Approximating KL Divergence" (2020); DeepSeekMath, arXiv 2402.03300, equation 4.
    """
    difference = ref_logps - logps
    return jnp.exp(difference) - difference - 1.0


def token_losses(
    logps: TokenValues,
    old_logps: TokenValues | None,
    advantages: Float[Array, "batch group"],
    settings: ObjectiveSettings,
    ref_logps: TokenValues | None = None,
) -> tuple[TokenValues, dict[str, TokenValues]]:
    """The loss of each token and, as 0 or 1 (KL: its value), what TRL's metrics average over tokens.

    r = exp(logp - old_logp)
    loss = -min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A) + beta k3(logp, ref_logp)

    With `old_logps=None` the policy itself drew the completions: r = exp(logp - stop_gradient(logp)),
    which is 1 and has the gradient of logp. Only `logps` receives a gradient.

    - `clip_ratio/low_mean`: r < 1 - epsilon and A < 0;
    - `clip_ratio/high_mean`: r > 1 + epsilon_high and A > 0;
    - `clip_ratio/region_mean`: either of them, the tokens whose gradient is cut;
    - `kl`: k3, only with `ref_logps`. With `beta = 0` it is reported and adds nothing to the loss.

    Sources: PPO, arXiv 1707.06347, equation 7; DeepSeekMath, arXiv 2402.03300, equation 3; DAPO, arXiv
    2503.14476, section 3.1 (two clipping distances); TRL `GRPOTrainer._compute_loss`.

    Raises ValueError where the settings need `old_logps` or `ref_logps` and they are None.
    """
    _check_log_probabilities(old_logps, ref_logps, settings)
    old_logps = logps if old_logps is None else old_logps
    ratio = jnp.exp(logps - jax.lax.stop_gradient(old_logps))
    advantage = jax.lax.stop_gradient(advantages)[..., None]
    lower, upper = 1.0 - settings.epsilon, 1.0 + settings.clip_above
    losses = -jnp.minimum(ratio * advantage, jnp.clip(ratio, lower, upper) * advantage)
    clipped_low = (ratio < lower) & (advantage < 0)
    clipped_high = (ratio > upper) & (advantage > 0)
    values = {
        "clip_ratio/low_mean": clipped_low.astype(jnp.float32),
        "clip_ratio/high_mean": clipped_high.astype(jnp.float32),
        "clip_ratio/region_mean": (clipped_low | clipped_high).astype(jnp.float32),
    }
    if ref_logps is not None:
        values["kl"] = k3(logps, jax.lax.stop_gradient(ref_logps))
        losses = losses + settings.beta * values["kl"] if settings.beta else losses
    return losses, values


def _check_log_probabilities(
    old_logps: TokenValues | None, ref_logps: TokenValues | None, settings: ObjectiveSettings
) -> None:
    if old_logps is None and settings.num_iterations > 1:
        raise ValueError(
            f"num_iterations is {settings.num_iterations}, so old_logps is needed: "
            "pass the log-probabilities of the policy that drew the completions"
        )
    if ref_logps is None and settings.beta:
        raise ValueError(
            f"beta is {settings.beta}, so ref_logps is needed: "
            "pass the log-probabilities of the reference model, or set beta to 0"
        )


def completion_mask(
    lengths: Int[Array, "batch group"],
    terminated: Bool[Array, "batch group"],
    max_length: int,
    settings: ObjectiveSettings,
) -> TokenMask:
    """Which of the `max_length` slots of each completion are in the loss: the first `lengths`, stop included.

    `terminated` says that a completion ended with a stop token. Under `mask_truncated_completions` one that
    did not is wholly left out, and so is absent from every normaliser that counts tokens (DAPO's overlong
    filtering, arXiv 2503.14476, section 3.4; counting it anyway was trl#6439).
    """
    mask = jnp.arange(max_length) < lengths[..., None]
    return mask & terminated[..., None] if settings.mask_truncated_completions else mask


def loss_weights(mask: TokenMask, settings: ObjectiveSettings) -> TokenValues:
    """The weight of each token: the loss of the *whole optimizer step* is sum(token_losses * weights).

    `mask` must be that of the whole step, all micro-batches and devices together; its weights are then split
    as the step is. With S = batch * group sequences, counting also those of which nothing is in the mask:

    - `grpo`: mask / (tokens of its sequence * S), the mean over sequences of the mean over tokens
      (DeepSeekMath, arXiv 2402.03300, equation 3);
    - `dapo`: mask / tokens of the step (DAPO, arXiv 2503.14476, section 3.3);
    - `bnpo`: the same. In TRL the two differ, since its `bnpo` divides by the tokens of each local
      micro-batch and so depends on the split; over the whole step they coincide;
    - `dr_grpo`: mask / (S * max_completion_length) (Dr. GRPO, arXiv 2503.20783, as in TRL).

    float32. An empty mask gives zeros.
    """
    sequences = mask.shape[0] * mask.shape[1]
    if settings.loss_type == "dr_grpo":
        return mask.astype(jnp.float32) / (sequences * settings.max_completion_length)
    if settings.loss_type == "grpo":
        tokens = jnp.sum(mask, axis=-1, keepdims=True)
        return mask.astype(jnp.float32) / (jnp.maximum(tokens, 1) * sequences)
    return mask.astype(jnp.float32) / jnp.maximum(jnp.sum(mask), 1)


def policy_loss(
    logps: TokenValues,
    old_logps: TokenValues | None,
    ref_logps: TokenValues | None,
    advantages: Float[Array, "batch group"],
    weights: TokenValues,
    mask: TokenMask,
    settings: ObjectiveSettings,
    total_tokens: Float[Array, ""] | Int[Array, ""] | int,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The share of these sequences in the loss of the optimizer step, and in its metrics; float32.

    loss = sum(token_losses * weights), with `weights` from `loss_weights` on the whole step. The metrics are
    those of `token_losses`, each summed over the mask and divided by `total_tokens`, the tokens in the mask
    of the whole step. Both add up: summed over any split of the step they are its loss and token means.

    What stands in slots outside the mask (-inf, NaN) reaches neither the loss nor the gradient.

    Raises ValueError as `token_losses` does.
    """
    losses, values = token_losses(
        _inside(mask, logps),
        None if old_logps is None else _inside(mask, old_logps),
        advantages.astype(jnp.float32),
        settings,
        None if ref_logps is None else _inside(mask, ref_logps),
    )
    tokens = jnp.maximum(jnp.asarray(total_tokens, jnp.float32), 1.0)
    sums = {name: jnp.sum(value, where=mask) / tokens for name, value in values.items()}
    return jnp.sum(losses * weights), jax.lax.stop_gradient(sums)


def _inside(mask: TokenMask, values: TokenValues) -> TokenValues:
    """`values` in float32, and 0 outside the mask, where a weight of 0 could not undo -inf or NaN."""
    return jnp.where(mask, values.astype(jnp.float32), 0.0)
