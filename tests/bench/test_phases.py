"""The phases of a step on a small network: the run's own functions, and the work they are laid beside."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from bench.small import CONFIG, MODEL, SHAPES
from fixtures.fast_compile import fast_compile

from vtzero.bench.phases import PHASES, measure_phases, work
from vtzero.bench.programs import Programs
from vtzero.models.qwen2_vl import costs
from vtzero.training.compilation import COMPILATIONS


@pytest.fixture(scope="module")
def phases():
    programs = Programs(CONFIG, MODEL, SHAPES)
    with fast_compile(), jax.set_mesh(programs.mesh):
        return {phase.name: phase for phase in measure_phases(programs, PHASES, repeats=1)}


def test_every_phase_is_timed_in_order(phases):
    assert tuple(phases) == PHASES
    for phase in phases.values():
        assert phase.seconds >= 0
        assert phase.compile_seconds > 0
        assert phase.completions == 4
        assert phase.memory > 0
    assert phases["update"].seconds > 0


def test_tokens_and_work_are_those_of_the_shapes(phases):
    tokens = {name: phase.tokens for name, phase in phases.items()}
    read, drawn = 2 * 16, 2 * 2 * 4
    both = read + drawn
    assert tokens == {
        "vision": 2 * 16,
        "prefill": read,
        "decode": drawn,
        "score": both,
        "update": both,
        "step": both,
    }
    assert phases["update"].flops == costs.update(MODEL, SHAPES.lengths)
    parts = ("prefill", "decode", "score", "update")  # beta is above 0: one reference pass
    assert phases["step"].flops == sum(phases[part].flops for part in parts)
    assert phases["step"].bytes == sum(phases[part].bytes for part in parts)


def test_no_completion_ends_early():
    programs = Programs(CONFIG, MODEL, SHAPES)
    with fast_compile(), jax.set_mesh(programs.mesh):
        drawn = programs.draw(programs.seen)
        some = programs.tokens_from(8)(programs.weights, programs.seen, 2, 3)
    assert (np.asarray(drawn.lengths) == 4).all()
    assert (np.asarray(some.lengths) == 3).all()
    assert (np.asarray(some.ids)[..., :2] == 0).all()
    assert (np.asarray(some.policy_logps)[..., 2:5] < 0).all()
    assert not np.isin(np.asarray(drawn.ids), MODEL.vision_token_ids).any()


def test_every_token_counts_though_no_completion_ends():
    programs = Programs(replace(CONFIG, mask_truncated_completions=True), MODEL, SHAPES)
    with fast_compile(), jax.set_mesh(programs.mesh):
        rollout, tokens = programs.rollout(programs.seen, programs.draw(programs.seen))
    assert int(tokens) == 2 * 2 * 4
    np.testing.assert_allclose(np.asarray(rollout.advantages).sum(axis=1), 0, atol=1e-5)
    assert np.abs(np.asarray(rollout.advantages)).min() > 0.5


def test_what_a_step_scores_follows_the_config():
    plain = Programs(replace(CONFIG, beta=0.0), MODEL, SHAPES)
    both = Programs(replace(CONFIG, num_iterations=2), MODEL, SHAPES)
    assert (plain.scorings, both.scorings) == (0, 2)
    score, update = work(both, "score")[0], work(both, "update")[0]
    assert work(both, "step")[0] - work(plain, "step")[0] == 2 * score + update


def test_frozen_parts_and_micro_batches_change_the_work():
    frozen = Programs(replace(CONFIG, freeze=("vision",), gradient_accumulation_steps=2), MODEL, SHAPES)
    whole = Programs(CONFIG, MODEL, SHAPES)
    assert work(frozen, "update")[0] < work(whole, "update")[0]
    size = whole.dtype.itemsize
    rest = replace(SHAPES.lengths, seen="encoded")
    expected = costs.update_bytes(MODEL, rest, size, ("vision",), 2)
    assert work(frozen, "update")[1] == expected


@pytest.mark.parametrize(("freeze", "seen"), [(("vision",), "encoded"), (("vision", "merger"), "features")])
def test_frozen_images_are_seen_once_by_the_program_of_a_run(freeze, seen):
    config = replace(CONFIG, freeze=freeze)
    programs = Programs(config, MODEL, SHAPES)
    with fast_compile(), jax.set_mesh(programs.mesh):
        phases = {phase.name: phase for phase in measure_phases(programs, PHASES, repeats=1)}
        assert getattr(programs.seen, seen).size
    assert programs.seen.patches.size == 0
    assert tuple(phases) == PHASES
    rest = replace(SHAPES.lengths, seen=seen)
    assert phases["update"].flops == costs.update(MODEL, rest, config.freeze)
    assert phases["vision"].flops == costs.see(MODEL, SHAPES.lengths.images, seen)
    parts = ("vision", "prefill", "decode", "score", "update")
    assert phases["step"].flops == sum(phases[part].flops for part in parts)


@pytest.mark.parametrize("beta", [0.04, 0.0])
def test_what_is_scored_is_the_reference_as_its_folder_has_it(beta):
    programs = Programs(replace(CONFIG, beta=beta), replace(MODEL, stored_dtype="bfloat16"), SHAPES)
    with fast_compile(), jax.set_mesh(programs.mesh):
        (score,) = measure_phases(programs, ("score",), repeats=1)
    assert programs.phases._score.compilations == 1
    assert score.seconds > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"num_iterations": 2, "sync_ref_model": True, "gradient_accumulation_steps": 0},
        {"beta": 0.0, "freeze": ("vision",)},
    ],
)
def test_what_is_timed_are_the_programs_that_a_run_declares(changes):
    """A step takes them all, and compiles no other."""
    programs = Programs(replace(CONFIG, **changes), MODEL, SHAPES)
    phases = programs.phases
    with fast_compile(), jax.set_mesh(programs.mesh):
        programs.begin_updates()
        declared = dict(phases.declare(programs.state, programs.reference))
        compiled = [compile_it() for compile_it in declared.values()]
        programs.step()
        before = COMPILATIONS.count
        programs.step()
    assert COMPILATIONS.count == before
    ran = [phases._see, phases._sampler, phases._weigh, phases._score, phases._update]
    assert sum(program.compilations for program in ran if program is not None) == len(compiled)
    assert phases.micro_batches == 1
