"""How long a program would take on a slice: operations and bytes against assumed shares of published limits.

Before anything is compiled, what the chips exchange is estimated too. Predictions; no chip has checked one.
"""

from collections.abc import Collection
from dataclasses import dataclass

import jax.numpy as jnp

from vtzero.models.qwen2_vl import costs
from vtzero.parallel.sharding import readers
from vtzero.planning.programs import Plan, Planned

OF_PEAK, OF_BANDWIDTH, OF_LINKS = 0.5, 0.7, 0.7
"""What of its published limits a chip is taken to reach: assumptions, not measurements."""


@dataclass(frozen=True)
class Times:
    """Seconds that operations, memory and links would take alone."""

    operations: float
    memory: float
    links: float

    @property
    def total(self) -> float:
        """The greater of operations and memory, and the links with nothing hidden."""
        return max(self.operations, self.memory) + self.links


def predicted(plan: Plan, planned: Planned) -> Times | None:
    """The times of a compiled program; None where the compiler refused it."""
    return None if planned.refused else _times(plan, planned.name, planned.received)


def estimated(plan: Plan, name: str) -> Times:
    """The times of a program that was not compiled."""
    return _times(plan, name, estimated_received(plan, name))


def _times(plan: Plan, name: str, received: float) -> Times:
    flops, moved = work(plan, name)
    chip, chips = plan.where.chip, plan.mesh.size
    return Times(
        operations=flops / (chips * OF_PEAK * chip.limits.flops),
        memory=moved / (chips * OF_BANDWIDTH * chip.limits.bandwidth),
        links=received / (OF_LINKS * chip.links),
    )


def work(plan: Plan, name: str) -> tuple[float, float]:
    """Operations, and bytes through memory, of one run of a program, on all chips together."""
    return _WORK[name](plan)


def _itemsize(plan: Plan) -> int:
    return int(jnp.dtype(plan.config.dtype).itemsize)


def _sampling(plan: Plan) -> tuple[float, float]:
    """Operations, and bytes of memory, of all chips together."""
    model, lengths, size, replicas = plan.model, plan.lengths, _itemsize(plan), readers(plan.mesh)
    moved = costs.prefill_bytes(model, lengths, size, replicas=replicas)
    moved += costs.decode_bytes(model, lengths, size, replicas=replicas)
    return costs.prefill(model, lengths) + costs.decode(model, lengths), moved


def _vision(plan: Plan) -> tuple[float, float]:
    far, images = plan.lengths.seen or "features", plan.lengths.images
    moved = costs.see_bytes(plan.model, images, _itemsize(plan), far, replicas=readers(plan.mesh))
    return costs.see(plan.model, images, far), moved


def _scoring(plan: Plan) -> tuple[float, float]:
    model, lengths = plan.model, plan.lengths
    moved = costs.score_bytes(model, lengths, _itemsize(plan), replicas=readers(plan.mesh))
    return costs.score(model, lengths), moved


def _update(plan: Plan) -> tuple[float, float]:
    config, model, lengths = plan.config, plan.model, plan.lengths
    flops = costs.update(model, lengths, config.freeze)
    flops += costs.recomputed(model, lengths, config.freeze, layers=config.gradient_checkpointing)
    moved = costs.update_bytes(
        model,
        lengths,
        _itemsize(plan),
        config.freeze,
        config.gradient_accumulation_steps or 1,
        replicas=readers(plan.mesh),
        copies=plan.axes["data"],
    )
    return flops, moved


_WORK = {"vision": _vision, "sampling": _sampling, "scoring": _scoring, "update": _update}


def estimated_received(plan: Plan, name: str) -> float:
    """Bytes that a chip receives, by what each axis must exchange.

    `fsdp` gathers the weights for every pass (the sampler once, or for each token without
    `gather_for_generation`) and scatters the gradient, `data` adds the gradient up, `tensor` adds up two
    partial results a layer and pass.
    """
    if name == "vision":
        return _gathered(plan, ("vision", "merger")) + _summed(plan)
    if name == "sampling":
        passes = 1 if plan.config.gather_for_generation else plan.shapes.completion
        return passes * _gathered(plan) + _summed(plan)
    if name == "scoring":
        return _gathered(plan) + _summed(plan)
    parts = plan.config.gradient_accumulation_steps or 1
    return parts * (2 * _gathered(plan) + _gradients(plan)) + 2 * _summed(plan)


def _gathered(plan: Plan, parts: Collection[str] | None = None) -> float:
    """All weights, or those of some parts, once in the dtype of the computation."""
    fsdp, tensor = plan.axes["fsdp"], plan.axes["tensor"]
    counts = costs.parameters(plan.model)
    numbers = sum(count for part, count in counts.items() if parts is None or part in parts)
    return numbers * _itemsize(plan) / tensor * (fsdp - 1) / fsdp


def _gradients(plan: Plan) -> float:
    """Of what is trained: scattered along `fsdp` as it was computed, added up along `data` in float32."""
    data, fsdp, tensor = plan.axes.values()
    trained = costs.trained_parameters(plan.model, plan.config.freeze) / (fsdp * tensor)
    return trained * (_itemsize(plan) * (fsdp - 1) + 4 * 2 * (data - 1) / data)


def _summed(plan: Plan) -> float:
    """The partial results of a forward pass over the chip's share of the batch."""
    tensor, text, vision, lengths = (
        plan.axes["tensor"],
        plan.model.text,
        plan.model.vision,
        plan.lengths,
    )
    tokens = lengths.prompt_tokens + lengths.completion_tokens
    numbers = tokens * text.num_hidden_layers * text.hidden_size
    numbers += sum(lengths.images) * vision.depth * vision.embed_dim
    return 2 * 2 * numbers * _itemsize(plan) / readers(plan.mesh) * (tensor - 1) / tensor
