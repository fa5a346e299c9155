"""verl's throughput metrics as numbers worked out by hand."""

import pytest

from vtzero.training.ceilings import Limits
from vtzero.training.throughput import throughput_metrics

LIMITS = Limits(flops=100e12, bandwidth=2e12, source="by hand")


def test_a_step_on_four_devices():
    metrics = throughput_metrics(
        LIMITS,
        devices=4,
        tokens=40_000,
        seconds=10.0,
        update_flops=400e12,
        update_seconds=4.0,
        gen_bytes=4e12,
        gen_seconds=5.0,
    )
    assert metrics == pytest.approx(
        {
            "perf/total_num_tokens": 40_000,
            "perf/time_per_step": 10.0,
            "perf/throughput": 1000.0,
            "perf/mfu/actor": 0.25,
            "perf/bandwidth/gen": 0.1,
        }
    )


def test_what_was_not_done_is_left_out():
    metrics = throughput_metrics(LIMITS, devices=1, tokens=10, seconds=2.0)
    assert set(metrics) == {"perf/total_num_tokens", "perf/time_per_step", "perf/throughput"}
