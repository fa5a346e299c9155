"""Comparisons as data, and what becomes of a change that cannot be made."""

from dataclasses import replace

import pytest
from bench.small import CONFIG

from vtzero.bench.comparisons import COMPARISONS, Difference, compare, known_comparisons
from vtzero.bench.phases import PHASES, Phase


def measure(config, phases):
    """Twice as long with every micro-batch."""
    seconds = float(config.gradient_accumulation_steps)
    return {name: Phase(name, seconds, 1.0, 1.0, 1.0, 1, 1, 100) for name in phases}


@pytest.mark.parametrize("comparison", known_comparisons(), ids=lambda comparison: comparison.name)
def test_every_value_is_one_that_the_config_takes(comparison):
    for value in comparison.values:
        replace(CONFIG, prompts_per_step=4, **{comparison.key: value})
    assert set(comparison.phases) <= set(PHASES)


def test_names_are_unique():
    assert len({comparison.name for comparison in COMPARISONS}) == len(COMPARISONS)


def test_each_other_value_is_a_row_against_the_config():
    two, four = compare(["micro_batches"], CONFIG, measure)
    assert (two.baseline_value, two.value, two.phase) == (1, 2, "update")
    assert two.ratio == 2.0
    assert two.memory == two.baseline_memory == 100
    assert "prompts_per_step" in four.failed  # two prompts are no four micro-batches
    assert four.ratio is None


def test_a_kernel_that_this_machine_lacks_is_a_row():
    def lacking(config, phases):
        if config.logprob_chunk != CONFIG.logprob_chunk:
            raise NotImplementedError("not on this platform")
        return measure(config, phases)

    rows = list(compare(["head"], CONFIG, lacking))
    assert [(row.value, row.phase) for row in rows] == [
        (256, "score"),
        (256, "update"),
        (4096, "score"),
        (4096, "update"),
    ]
    assert {row.failed for row in rows} == {"not on this platform"}


def test_nothing_asked_measures_nothing():
    assert list(compare([], CONFIG, measure)) == []


def test_the_ratio_is_after_over_before():
    row = Difference("head", "logprob_chunk", 1024, 256, "score", baseline_seconds=2.0, seconds=3.0)
    assert row.ratio == 1.5
