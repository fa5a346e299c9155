"""What a device could do: the table of published peaks, and the measurement."""

from time import perf_counter

import jax
import jax.numpy as jnp
import pytest

from vtzero.training.ceilings import PUBLISHED, measure, median_seconds, published, run_limits


@pytest.mark.parametrize(
    ("kind", "flops", "bandwidth"),
    [
        ("NVIDIA H200", 989e12, 4.8e12),
        ("NVIDIA H100 80GB HBM3", 989e12, 3.35e12),
        ("NVIDIA H100 PCIe", 756e12, 2.0e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, 2.039e12),
        ("TPU v5 lite", 197e12, 0.819e12),
        ("TPU v5", 459e12, 2.765e12),
        ("TPU v6 lite", 918e12, 1.64e12),
    ],
)
def test_the_longest_name_that_fits_counts(kind, flops, bandwidth):
    known = published(kind)
    assert (known.flops, known.bandwidth) == (flops, bandwidth)
    assert known.source


def test_other_kinds_and_other_dtypes_have_no_published_peak():
    assert published("cpu") is None
    assert published("NVIDIA H2000") is None
    assert published("NVIDIA H200", jnp.float32) is None
    assert all(0.5e12 < limits.bandwidth < limits.flops for limits in PUBLISHED.values())


def test_a_measurement_counts_operations_and_bytes():
    measured = measure(jnp.float32, sizes=(128, 256), array_bytes=2**20, repeats=3)
    assert set(measured.matmul) == {128, 256}
    assert set(measured.memory) == {"scale", "triad", "sum"}
    limits = measured.limits
    assert limits.flops == max(measured.matmul.values()) > 1e7
    assert limits.bandwidth == max(measured.memory.values()) > 1e7
    assert limits.source == "measured"


def test_a_row_of_calls_is_told_by_the_call():
    rows = jnp.ones((256, 256))
    product = jax.jit(jnp.matmul)
    start = perf_counter()
    seconds = median_seconds(product, rows, rows, repeats=3)
    assert 0 < seconds < perf_counter() - start


def test_a_run_on_an_unknown_device_measures_quickly():
    run_limits(jnp.float32)  # the first call compiles
    start = perf_counter()
    limits = run_limits(jnp.float32)
    assert limits.source == "measured"
    assert perf_counter() - start < 5  # under a second on a free core
