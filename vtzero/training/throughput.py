"""How well a step used its devices, under verl's metric names; pure functions of numbers."""

from vtzero.training.ceilings import Limits


def throughput_metrics(
    limits: Limits,
    *,
    devices: int,
    tokens: float,
    seconds: float,
    update_flops: float | None = None,
    update_seconds: float | None = None,
    gen_bytes: float | None = None,
    gen_seconds: float | None = None,
) -> dict[str, float]:
    """Metrics of one step from its work, its times and what a device could do.

    - `perf/total_num_tokens`: real tokens, each prompt once (verl counts it for each of its completions);
    - `perf/time_per_step`: seconds;
    - `perf/throughput`: tokens a second and device;
    - `perf/mfu/actor`: `update_flops` (`costs.update` of the real lengths, all iterations) over what the
      devices could do in `update_seconds`;
    - `perf/bandwidth/gen`: `gen_bytes` (`costs.prefill_bytes` + `costs.decode_bytes`) over what the devices'
      memory could move in `gen_seconds`.

    The last two are left out without their numbers, as in supervised training, where nothing is sampled.
    """
    metrics = {
        "perf/total_num_tokens": float(tokens),
        "perf/time_per_step": float(seconds),
        "perf/throughput": tokens / seconds / devices,
    }
    if update_flops is not None and update_seconds:
        metrics["perf/mfu/actor"] = update_flops / update_seconds / (devices * limits.flops)
    if gen_bytes is not None and gen_seconds:
        metrics["perf/bandwidth/gen"] = gen_bytes / gen_seconds / (devices * limits.bandwidth)
    return metrics
