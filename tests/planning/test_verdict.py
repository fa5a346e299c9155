"""Whether a step fits, and into how many micro-batches it is cut."""

from importlib.util import find_spec

import pytest
from planning.steps import Ledger, step

from vtzero.planning.apart import compile_here
from vtzero.planning.verdict import flags, hopeless, judge, least_memory

pytestmark = pytest.mark.skipif(find_spec("libtpu") is None, reason="needs libtpu, which needs no TPU")

NAMES = ("sampling", "scoring", "update")


def held():
    return step(mesh_fsdp=-1, mesh_data=1).held.total


# Training keeps a tenth of a device free.
@pytest.mark.parametrize(("share", "parts"), [(0.89, 1), (0.91, 2), (1.5, 2)])
def test_left_open_the_micro_batches_are_the_fewest_that_training_would_take(share, parts):
    temporaries = 9 * held()
    compiler = Ledger(temporaries)
    room = int((held() + temporaries) / share)
    plan = step(memory=room, mesh_fsdp=-1, mesh_data=1, gradient_accumulation_steps=0)
    verdict = judge(plan, NAMES, compiler)
    assert verdict.fits
    assert verdict.figures()["micro_batches"] == parts
    assert [cut for _, cut in compiler.updates] == [1, 2][:parts]


def test_left_open_and_never_enough_the_most_micro_batches_are_reported():
    plan = step(memory=2 * held(), mesh_fsdp=-1, mesh_data=1, gradient_accumulation_steps=0)
    verdict = judge(plan, NAMES, Ledger(100 * held()))
    assert not verdict.fits
    assert verdict.figures()["micro_batches"] == max(plan.possible_parts) == 2


def test_in_a_hurry_nothing_is_compiled_after_what_does_not_fit():
    compiler = Ledger(100 * held())
    plan = step(memory=2 * held(), mesh_fsdp=-1, mesh_data=1)
    verdict = judge(plan, NAMES, compiler, hurry=True)
    assert [job.program for job in compiler.jobs] == ["update"]
    assert [one.name for one in verdict.misfits] == ["update"]


def test_programs_are_reported_in_the_order_of_a_step():
    verdict = judge(step(), NAMES, Ledger(0), hurry=True)
    assert [row["name"] for row in verdict.figures()["programs"]] == list(NAMES)


def test_what_must_be_held_is_known_before_anything_is_compiled():
    plan = step(mesh_fsdp=-1, mesh_data=1)
    assert least_memory(plan) == plan.held.total + plan.held.parameters
    assert hopeless(step(memory=least_memory(plan), mesh_fsdp=-1, mesh_data=1), NAMES)
    assert not hopeless(step(memory=2 * least_memory(plan), mesh_fsdp=-1, mesh_data=1), NAMES)


def test_flags_make_the_same_plan_again():
    plan = step(mesh_fsdp=2, mesh_tensor=2, gradient_accumulation_steps=2)
    values = dict(pair.split(" ") for pair in flags(plan).removeprefix("--").split(" --"))
    again = step(
        mesh_data=int(values["mesh.data"]),
        mesh_fsdp=int(values["mesh.fsdp"]),
        mesh_tensor=int(values["mesh.tensor"]),
        gradient_accumulation_steps=int(values["gradient_accumulation_steps"]),
    )
    assert again.config.mesh.fsdp == plan.axes["fsdp"]
    assert again.held == plan.held
    assert again.config.gradient_accumulation_steps == 2


def test_a_refused_program_has_no_figures_but_the_reason():
    plan = step(prompts_per_step=4096, num_generations=64, max_completion_length=72)
    verdict = judge(plan, ("scoring",), compile_here)
    assert not verdict.fits
    assert verdict.seconds is None
    (row,) = verdict.figures()["programs"]
    assert "RESOURCE_EXHAUSTED" in row["refused"]
    assert [row[name] for name in ("memory", "received_bytes", "predicted_seconds", "times")] == [None] * 4
