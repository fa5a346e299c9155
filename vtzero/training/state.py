"""The training state as one explicit pytree, and the one update that changes it.

Knows no objective: a loss is handed in as a pure function of a model and arrays. Knows no files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.parallel.program import Program

Metrics = dict[str, Array]
Loss = Callable[[Any, Any, Array], tuple[Float[Array, ""], tuple[Metrics, Metrics]]]
"""(model, micro-batch, tokens of the step) -> its share of the loss, (metrics to add, to maximise)."""

# Freezing `vision` and `merger` is what the paper's code meant by `model.visual`, and `llm` by `model.model`;
# both lines there replaced a method and froze nothing.
FROZEN_PARTS: dict[str, Callable[[tuple[Any, ...]], bool]] = {
    "vision": lambda path: path[0] == "visual" and path[1] != "merger",
    "merger": lambda path: path[:2] == ("visual", "merger"),
    "llm": lambda path: path[0] in ("model", "lm_head"),
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that an update reads and writes. Frozen parameters have no gradient and no optimizer state.

    `reference` holds the trainable parameters of a reference model that follows the policy; None without one.
    """

    step: Int[Array, ""]
    trainable: Any
    frozen: Any
    opt_state: Any
    reference: Any = None


@dataclass(frozen=True)
class ModelParts:
    """The static half of a model: what turns the two parameter trees of a state back into a module."""

    graphdef: Any

    def merge(self, trainable: Any, frozen: Any) -> Any:
        """The model, for use inside a compiled function."""
        return nnx.merge(self.graphdef, trainable, frozen)


def check_freeze(freeze: Sequence[str]) -> None:
    """Raise ValueError for an unknown part, or when nothing is left to train."""
    unknown = sorted(set(freeze) - set(FROZEN_PARTS))
    if unknown:
        raise ValueError(f"freeze names {unknown[0]!r}; the parts are {', '.join(FROZEN_PARTS)}")
    if set(freeze) == set(FROZEN_PARTS):
        raise ValueError("freeze names every part of the model; nothing is left to train")


def split_model(graphdef: Any, params: Any, freeze: Sequence[str] = ()) -> tuple[ModelParts, Any, Any]:
    """Divide parameters into trainable and frozen ones; `freeze` names parts of `FROZEN_PARTS`.

    Raises ValueError for an unknown part, or when nothing is left to train.
    """
    check_freeze(freeze)

    def trains(path: tuple[Any, ...], _: Any) -> bool:
        return not any(FROZEN_PARTS[part](path) for part in freeze)

    graphdef, trainable, frozen = nnx.split(nnx.merge(graphdef, params), trains, ...)
    return ModelParts(graphdef), trainable, frozen


def new_state(
    trainable: Any, frozen: Any, optimizer: optax.GradientTransformation, *, moving_reference: bool = False
) -> TrainState:
    """The state before the first update; a moving reference starts as the policy does."""
    reference = jax.tree.map(jnp.copy, trainable) if moving_reference else None
    return TrainState(jnp.int32(0), trainable, frozen, optimizer.init(trainable), reference)


def make_reference_sync(alpha: float, shardings: TrainState | None = None) -> Program:
    """`sync(reference, policy)`, the moved reference: alpha policy + (1 - alpha) reference.

    With `alpha` 1 it becomes the policy. The memory of the old reference is taken over. Source: TRL
    `SyncRefModelCallback`.
    """

    def mix(reference: Any, policy: Any) -> Any:
        return jax.tree.map(lambda old, new: (1 - alpha) * old + alpha * new, reference, policy)

    where = None if shardings is None else shardings.reference
    return Program(mix, donate_argnums=0, out_shardings=where)


def follow(sync: Program, state: TrainState) -> TrainState:
    """The state with its reference moved by `make_reference_sync`'s program."""
    return replace(state, reference=sync(state.reference, state.trainable))


def make_update(
    parts: ModelParts,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    micro_batches: int = 1,
    shardings: TrainState | None = None,
) -> Program:
    """The compiled optimizer step `update(state, batch, total_tokens)`; the state it is given is donated.

    The batch is cut into `micro_batches` parts whose gradients are added up in float32; since each part's
    loss is its share of the step's, the cut does not change the gradient. Metrics: `loss`, `grad_norm`
    (before clipping), `skipped_updates` and the loss's own.

    Where loss or gradient is not finite the update is skipped: parameters and moments stay as they were, the
    learning rate's schedule goes on, and `skipped_updates` is 1 instead of 0.

    On a mesh, `shardings` (`parallel.sharding.state_sharding`) keep the new state where the old one lay;
    left to itself XLA may move it, and the next update compiles anew.
    """

    def update(state: TrainState, batch: Any, total_tokens: Array) -> tuple[TrainState, Metrics]:
        def of(trainable: Any, part: Any) -> tuple[Array, tuple[Metrics, Metrics]]:
            return loss(parts.merge(trainable, state.frozen), part, jnp.maximum(total_tokens, 1))

        gradients, metrics = accumulate(of, state.trainable, batch, micro_batches)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        metrics["grad_norm"] = optax.global_norm(gradients)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        metrics["skipped_updates"] = 1.0 - finite
        old = (state.trainable, state.opt_state)
        trainable, opt_state = _where(finite, (trainable, opt_state), old)
        new = replace(state, step=state.step + 1, trainable=trainable, opt_state=opt_state)
        return new, metrics

    return Program(update, donate_argnums=0, out_shardings=(shardings, None))


def _where(holds: Array, new: Any, old: Any) -> Any:
    """`new` or `old`, but the schedule's place always of the new: metrics name its rate by the step."""

    def is_place(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    def choose(one: Any, other: Any) -> Any:
        return one if is_place(one) else jnp.where(holds, one, other)

    return jax.tree.map(choose, new, old, is_leaf=is_place)


def accumulate(
    loss: Callable[[Any, Any], tuple[Array, tuple[Metrics, Metrics]]], trainable: Any, batch: Any, count: int
) -> tuple[Any, Metrics]:
    """Gradient and metrics of the sum of `loss` over `count` equal parts of the batch."""
    gradient = jax.value_and_grad(loss, has_aux=True)

    def one(part: Any) -> tuple[Any, Metrics, Metrics]:
        (value, (sums, maxima)), grads = gradient(trainable, part)
        return jax.tree.map(lambda g: g.astype(jnp.float32), grads), sums | {"loss": value}, maxima

    if count == 1:
        grads, sums, maxima = one(batch)
        return grads, sums | maxima

    def step(carry: Any, part: Any) -> tuple[Any, None]:
        grads, sums, maxima = one(part)
        added = jax.tree.map(jnp.add, carry[:2], (grads, sums))
        return (*added, jax.tree.map(jnp.maximum, carry[2], maxima)), None

    parts = split_batch(batch, count)
    shapes = jax.eval_shape(one, jax.tree.map(lambda leaf: leaf[0], parts))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes[:2])
    lowest = jax.tree.map(lambda leaf: jnp.full(leaf.shape, -jnp.inf, leaf.dtype), shapes[2])
    (grads, sums, maxima), _ = jax.lax.scan(step, (*zeros, lowest), parts)
    return grads, sums | maxima


def split_batch(batch: Any, count: int) -> Any:
    """Give every array of a batch a leading axis of `count` parts; M-RoPE positions carry the batch second.

    Rows are dealt out in turn, so that a batch sharded over devices stays where it is.

    Raises ValueError when the batch does not divide.
    """
    rows = batch.prompts.ids.shape[0]
    if rows % count:
        raise ValueError(f"{rows} prompts a step do not divide into {count} micro-batches")

    def split(leaf: Array, axis: int = 0) -> Array:
        shape = (*leaf.shape[:axis], rows // count, count, *leaf.shape[axis + 1 :])
        return jnp.moveaxis(leaf.reshape(shape), axis + 1, 0)

    prompts: Prompts = batch.prompts
    positions = split(prompts.positions, axis=1)
    parts = jax.tree.map(split, replace(batch, prompts=replace(prompts, positions=prompts.positions[0])))
    return replace(parts, prompts=replace(parts.prompts, positions=positions))
