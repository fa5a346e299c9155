"""Slices by name."""

import pytest

from vtzero.planning.chips import CHIPS, SLICES, check_name, larger


def test_every_generation_has_its_facts():
    assert CHIPS.keys() == SLICES.keys()
    for chip in CHIPS.values():
        assert chip.memory > 15 * 2**30
        assert chip.limits.flops > chip.links


def test_a_name_is_a_generation_and_a_shape():
    assert check_name("v5p:2x2x1") == ("v5p", "2x2x1")
    assert larger("v5e:4x4")[0] == "v5e:4x8"
    assert larger("v5e:16x16") == []


@pytest.mark.parametrize("name", ["v9:4x4", "v5e:3x3", "v5e", ""])
def test_an_unknown_name_tells_the_known_ones(name):
    with pytest.raises(ValueError, match=r"is unknown; known are v5e:2x2"):
        check_name(name)
