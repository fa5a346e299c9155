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
        drawn = jax.jit(programs.sample)(programs.weights, programs.prompts, programs.keys)
        some = jax.jit(programs.sample_until(8))(programs.weights, programs.prompts, programs.keys, 3)
    assert (np.asarray(drawn.lengths) == 4).all()
    assert (np.asarray(some.lengths) == 3).all()
    assert not np.isin(np.asarray(drawn.ids), MODEL.vision_token_ids).any()


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
    expected = costs.update_bytes(MODEL, SHAPES.lengths, size, ("vision",), 2)
    assert work(frozen, "update")[1] == expected


def test_images_are_encoded_once_where_nothing_changes_their_features():
    config = replace(CONFIG, freeze=("vision", "merger"))
    programs = Programs(config, MODEL, SHAPES)
    with fast_compile(), jax.set_mesh(programs.mesh):
        phases = {phase.name: phase for phase in measure_phases(programs, PHASES, repeats=1)}
    assert tuple(phases) == PHASES
    text = replace(SHAPES.lengths, images=())
    assert phases["update"].flops == costs.update(MODEL, text, config.freeze)
    assert phases["vision"].flops == costs.encode(MODEL.vision, SHAPES.lengths.images).total
    parts = ("vision", "prefill", "decode", "score", "update")
    assert phases["step"].flops == sum(phases[part].flops for part in parts)
