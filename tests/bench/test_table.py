"""Figures worked out by hand, and tables that show them."""

import io

import pytest
from rich.console import Console

from vtzero.bench.comparisons import Difference
from vtzero.bench.grouped import Ratio
from vtzero.bench.growth import Growth
from vtzero.bench.phases import Phase
from vtzero.bench.table import (
    ceiling_figures,
    ceiling_table,
    difference_table,
    grouped_table,
    growth_table,
    phase_figures,
    phase_table,
    seconds,
    size,
)
from vtzero.training.ceilings import Limits, Measured

LIMITS = Limits(flops=100e12, bandwidth=1e12, source="by hand")
PEAK = Limits(flops=200e12, bandwidth=2e12, source="by hand")


def phase(**changes):
    values = {"name": "update", "seconds": 2.0, "compile_seconds": 1.0, "flops": 100e12, "bytes": 4e12}
    values |= {"tokens": 1000, "completions": 10, "memory": 3 * 2**30}
    return Phase(**(values | changes))


def shown(table):
    text = io.StringIO()
    Console(file=text, width=200).print(table)
    return text.getvalue()


def test_a_phase_against_two_devices():
    figures = phase_figures(phase(), LIMITS, PEAK, devices=2)
    assert figures["mfu"] == pytest.approx(0.25)
    assert figures["mfu_published"] == pytest.approx(0.125)
    assert figures["bandwidth"] == pytest.approx(1.0)
    assert figures["floor_seconds"] == pytest.approx(2.0)  # its bytes: the operations need half a second
    assert figures["times_floor"] == pytest.approx(1.0)
    assert figures["tokens_per_second"] == 500
    assert figures["completions_per_second"] == 5


def test_an_unknown_device_has_no_published_column():
    figures = phase_figures(phase(flops=1000e12), LIMITS, None, devices=1)
    assert figures["mfu_published"] is None
    assert figures["floor_seconds"] == pytest.approx(10.0)
    assert "update" in shown(phase_table([figures]))


def test_ceilings_are_the_best_of_each():
    measured = Measured({512: 50e12, 4096: 80e12}, {"scale": 0.8e12, "sum": 0.9e12})
    figures = ceiling_figures(measured, PEAK)
    assert figures["flops_per_second"] == 80e12
    assert figures["bytes_per_second"] == 0.9e12
    assert "40.0 %" in shown(ceiling_table(measured, PEAK))


def test_other_tables_show_their_rows():
    assert "20.0 %" in shown(growth_table([Growth(640, 1.2e-3, 1.5e-3, 1e-3, 5e-4)]))
    ratio = Ratio("case", "decoder", True, 2.4, 2.44, 1.0, 2.5)
    assert "2.50" in shown(grouped_table([ratio]))
    done = Difference("head", "logprob_chunk", 1024, 256, "score", 2.0, 3.0, 2**30, 2**20)
    failed = Difference("freeze", "freeze", (), ("vision",), "update", 2.0, failed="no room")
    text = shown(difference_table([done, failed]))
    assert "1024 -> 256" in text
    assert "1.50" in text
    assert "none -> vision" in text
    assert "no room" in text


def test_units():
    assert seconds(1.234) == "1.23 s"
    assert seconds(0.01234) == "12.3 ms"
    assert seconds(None) == ""
    assert size(3 * 2**30) == "3.0 GiB"
    assert size(2**20) == "1.0 MiB"
