"""Meshes and micro-batches in the order of an estimate, compiled until one fits."""

from importlib.util import find_spec

import pytest
from planning.steps import Ledger, step

from vtzero.planning.search import candidates, search

pytestmark = pytest.mark.skipif(find_spec("libtpu") is None, reason="needs libtpu, which needs no TPU")

NAMES = ("sampling", "scoring", "update")
MIB = 2**20


def found(memory=None, **values):
    plan = step(memory=memory, **values)
    return candidates(plan.config, plan.model, plan.shapes, plan.where, NAMES)


def mesh(candidate):
    return tuple(candidate.plan.axes.values())


def parts(candidate):
    return candidate.plan.config.gradient_accumulation_steps


def test_candidates_are_all_that_divide_devices_heads_and_batch():
    pairs = {(mesh(one), parts(one)) for one in found(prompts_per_step=4)}
    four_readers = {((4, 1, 1), 1), ((2, 2, 1), 1), ((1, 4, 1), 1)}
    two_readers = {((2, 1, 2), cut) for cut in (1, 2)} | {((1, 2, 2), cut) for cut in (1, 2)}
    assert pairs == four_readers | two_readers | {((1, 1, 4), cut) for cut in (1, 2, 4)}


def test_the_fastest_by_the_estimate_comes_first_and_what_cannot_fit_last():
    all_fit = found()
    assert [one.seconds for one in all_fit] == sorted(one.seconds for one in all_fit)
    # Parameters, two moments and gradient are 4 x 2.5 MiB, the bfloat16 reference 1.25: half of all is 5.6.
    narrow = found(memory=int(5.8 * MIB))
    states = [one.state for one in narrow]
    assert states == sorted(states, reverse=True)
    assert {mesh(one) for one in narrow if one.state == "holds too much"} == {
        (4, 1, 1),
        (2, 2, 1),
        (2, 1, 2),
    }


def test_the_search_ends_with_the_first_that_fits():
    compiler = Ledger(0)
    ranked = search(found(), NAMES, compiler)
    assert len(compiler.jobs) == 3
    assert ranked[0].state == "fits"
    assert [one.state for one in ranked].count("fits") == 1


def test_what_cannot_fit_is_never_compiled_and_what_was_shown_not_to_is_passed_over():
    compiler = Ledger(update=40 * MIB)
    ranked = search(found(memory=16 * MIB), NAMES, compiler, at_most=20)
    best = ranked[0]
    assert best.state == "fits"
    assert best.verdict.memory <= 0.95 * 16 * MIB
    # One part shows what more parts of the same mesh need at least: only numbers that may fit are compiled.
    for shape in {mesh for mesh, _ in compiler.updates}:
        tried = [cut for other, cut in compiler.updates if other == shape]
        held = next(one.plan.held.total for one in ranked if mesh(one) == shape)
        assert all(held + 40 * MIB / cut <= 0.95 * 16 * MIB for cut in tried[1:])


def test_those_that_fit_are_ranked_by_their_predicted_time():
    ranked = search(found(), NAMES, Ledger(0), wanted=3)
    times = [one.verdict.seconds for one in ranked if one.state == "fits"]
    assert len(times) == 3
    assert times == sorted(times)


def test_no_more_are_compiled_than_allowed():
    compiler = Ledger(update=10**12)
    ranked = search(found(), NAMES, compiler, at_most=2)
    assert len(compiler.jobs) == 2
    assert sum(one.verdict is not None for one in ranked) == 2
    assert all(one.state != "fits" for one in ranked)
