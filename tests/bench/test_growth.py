"""What a token costs as the answer grows."""

import jax
import pytest
from bench.small import CONFIG, MODEL, SHAPES
from fixtures.fast_compile import fast_compile

from vtzero.bench.growth import Growth, measure_growth
from vtzero.bench.programs import Programs
from vtzero.models.qwen2_vl import costs
from vtzero.training.ceilings import Limits


def test_a_row_for_each_length_with_its_floor():
    programs = Programs(CONFIG, MODEL, SHAPES)
    limits = Limits(flops=1e30, bandwidth=1e9, source="by hand")
    with fast_compile(), jax.set_mesh(programs.mesh):
        rows = measure_growth(programs, limits, (8, 4), repeats=1)
    assert [row.length for row in rows] == [4, 8]
    for row in rows:
        moved = costs.decode_token_bytes(MODEL, 2, 2, 16, row.length, 4)
        assert row.floor == pytest.approx(moved / 1e9)


def test_overhead_is_what_exceeds_the_exact_cache():
    assert Growth(640, seconds=1.2, fixed=1.5, exact=1.0, floor=0.5).overhead == pytest.approx(0.2)
