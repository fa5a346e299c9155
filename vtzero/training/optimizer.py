"""AdamW with a schedule and gradient clipping, from TRL's (transformers') names."""

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import optax

SchedulerType = Literal["constant", "linear", "cosine"]

# Vision: norm1, norm2, ln_q; decoder: input_layernorm, post_attention_layernorm, norm.
_NOT_DECAYED = re.compile(r"bias|norm|ln_q")


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Names and meanings are transformers' `TrainingArguments`; `max_grad_norm` 0 turns clipping off.

    Raises ValueError naming the field for a value outside its range.
    """

    learning_rate: float = 1e-6
    lr_scheduler_type: SchedulerType = "linear"
    warmup_steps: int = 0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        if self.lr_scheduler_type not in get_args(SchedulerType):
            allowed = ", ".join(get_args(SchedulerType))
            raise ValueError(f"lr_scheduler_type is {self.lr_scheduler_type!r}; it must be one of {allowed}")
        for field in ("learning_rate", "warmup_steps", "weight_decay", "max_grad_norm"):
            if not getattr(self, field) >= 0:
                raise ValueError(f"{field} is {getattr(self, field)!r}; it must be at least 0")
        for field in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)!r}; it must be in [0, 1)")


def make_schedule(settings: OptimizerSettings, total_steps: int) -> optax.Schedule:
    """Learning rate by update: a linear warm-up, then constant, or down to 0 at `total_steps`."""
    after = max(total_steps - settings.warmup_steps, 1)
    peak = settings.learning_rate
    decay = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, 0.0, after),
        "cosine": optax.cosine_decay_schedule(peak, after),
    }[settings.lr_scheduler_type]
    if settings.warmup_steps == 0:
        return decay
    # Starts above zero, so that the first update moves the parameters.
    first = peak / (settings.warmup_steps + 1)
    warmup = optax.linear_schedule(first, peak, settings.warmup_steps)
    return optax.join_schedules([warmup, decay], [settings.warmup_steps])


def decays(params: Any) -> Any:
    """Which parameters weight decay applies to: all but biases and norms, as transformers' Trainer has it."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not _NOT_DECAYED.search(jax.tree_util.keystr(path)), params
    )


def make_optimizer(settings: OptimizerSettings, total_steps: int) -> optax.GradientTransformation:
    """AdamW after clipping by the global norm of the gradient."""
    adam = optax.adamw(
        make_schedule(settings, total_steps),
        b1=settings.adam_beta1,
        b2=settings.adam_beta2,
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
        mask=decays,
    )
    if not settings.max_grad_norm:
        return adam
    return optax.chain(optax.clip_by_global_norm(settings.max_grad_norm), adam)
