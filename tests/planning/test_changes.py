"""What is tried where a step does not fit: what keeps every number first, then larger slices."""

from importlib.util import find_spec

import pytest
from planning.steps import Ledger, step

from vtzero.planning.changes import changes
from vtzero.planning.verdict import judge

pytestmark = pytest.mark.skipif(find_spec("libtpu") is None, reason="needs libtpu, which needs no TPU")

NAMES = ("update",)
GIB = 2**30


def tried(compiler, at_most=20, **values):
    before = judge(step(**values), NAMES, compiler)
    assert not before.fits
    return changes(before, NAMES, compiler, at_most=at_most)


def test_the_first_that_fits_ends_it():
    # 100 GiB in one part: four parts of the tensor mesh take 25, eight take 12.5.
    found = tried(Ledger(100 * GIB))
    assert "fits" not in [one.figures()["state"] for one in found[:-1]]
    last = found[-1].figures()
    assert last["state"] == "fits"
    assert last["topology"] == "v5e:2x2"
    assert last["mesh"] == {"data": 1, "fsdp": 1, "tensor": 4}
    assert last["micro_batches"] == 8


def test_the_order_is_fsdp_rematerialisation_micro_batches_tensor():
    configs = [one.plan.config for one in tried(Ledger(10**15), at_most=5)]
    assert [(c.mesh.data, c.mesh.fsdp, c.mesh.tensor) for c in configs[:3]] == [(1, 4, 1)] * 3
    assert [c.gradient_checkpointing for c in configs[:2]] == [False, True]
    assert [c.gradient_accumulation_steps for c in configs[:3]] == [1, 1, 2]
    assert configs[3].mesh.tensor == 2
    assert configs[4].mesh.tensor == 4


def test_larger_slices_come_last_the_smallest_first():
    compiler = Ledger(10**15)
    tried(compiler, at_most=8)
    topologies = [job.topology for job in compiler.jobs]
    assert topologies == sorted(topologies, key=["v5e:2x2", "v5e:2x4", "v5e:4x4"].index)
    assert "v5e:2x4" in topologies


def test_what_holds_too_much_is_named_and_not_compiled():
    compiler = Ledger(10**15)
    found = tried(compiler, memory=2**20, at_most=3)
    assert found[0].figures()["state"] == "needs too much"
    assert found[0].verdict is None


def test_micro_batches_that_are_shown_to_be_too_few_are_not_compiled():
    compiler = Ledger(10**15)
    found = tried(compiler, at_most=3)
    halved = next(one for one in found if one.plan.config.gradient_accumulation_steps == 2)
    assert halved.verdict is None
    assert 2 not in [job.config.gradient_accumulation_steps for job in compiler.jobs]


def test_a_rollout_without_room_for_a_whole_copy_of_the_weights_gathers_none():
    before = judge(step(gather_for_generation=True), ("sampling",), Ledger(0, others=10**15))
    found = changes(before, ("sampling",), Ledger(0, others=10**15), at_most=4)
    gathers = [one.plan.config.gather_for_generation for one in found if one.plan.where.name == "v5e:2x2"]
    assert gathers[0]
    assert not any(gathers[1:])
    assert "--gather_for_generation false" in found[1].figures()["flags"]
    assert all(one.plan.config.gather_for_generation for one in found if one.plan.where.name != "v5e:2x2")
