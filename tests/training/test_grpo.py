"""Steps of the real method: frozen parts, a reference that follows, reward failures by id, what is logged."""

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from fixtures.fast_compile import fast_compile
from fixtures.tiny_folder import make_tiny_folder
from PIL import Image

from vtzero.config import ConfigError, RunConfig
from vtzero.models.qwen2_vl import costs
from vtzero.parallel.sharding import shard_batch
from vtzero.rewards.text import aha_words
from vtzero.training.checkpoints import Checkpoints
from vtzero.training.grpo import GRPO, lengths_of, reward_functions
from vtzero.training.method import StepReport
from vtzero.training.setup import Setup, set_up
from vtzero.training.state import TrainState

STEPS, SYNC_STEPS, SAVED, GROUP = 5, 2, 3, 8
FROZEN = ("vision", "merger")
OWN_REWARDS = """
def parity(completions, completion_lengths, **columns):
    assert len(completion_lengths) == len(columns["terminated"]) == len(completions)
    return [float(sum(map(ord, text)) % 2) for text in completions]

def unsure(completions, colour, **columns):
    return [TimeoutError("no idea") if own == "red" else 0.0 for own in colour]
"""


@dataclass(frozen=True)
class Run:
    """A method after its steps; `states[k]` and `reports[k]` are those after step k, on the host."""

    setup: Setup
    method: GRPO
    folder: Path
    states: list[TrainState]
    reports: dict[int, StepReport]
    told: list[str]


def on_host(state: Any) -> Any:
    return jax.tree.map(np.array, state)


def write_data(folder: Path) -> Path:
    """Questions with pictures in JPEG files, and a column of their own."""
    rng = np.random.default_rng(4)
    rows = []
    for number in range(6):
        name = f"{number}.jpg"
        Image.fromarray(rng.integers(0, 256, (56, 56, 3), np.uint8)).save(folder / name, quality=50)
        colour = "red" if number == 1 else "blue"
        rows.append({"id": f"row-{number}", "image": name, "question": "What?", "answer": "left"})
        rows[-1]["colour"] = colour
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def take_steps(method: GRPO, state: TrainState, steps: range, states: list, reports: dict) -> TrainState:
    for index in steps:
        state, _ = method.step(state, index)
        reports[index] = method.finish()
        states.append(on_host(state))
    return state


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grpo")
    (folder / "own.py").write_text(OWN_REWARDS)
    config = RunConfig(
        model=str(make_tiny_folder(folder / "model", num_hidden_layers=1)),
        gradient_checkpointing=False,
        data=(str(write_data(folder)),),
        output_dir=str(folder),
        max_steps=STEPS,
        prompts_per_step=2,
        num_generations=GROUP,
        max_completion_length=5,
        max_prompt_length=200,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        freeze=FROZEN,
        reward_funcs=(f"{folder}/own.py:parity", f"{folder}/own.py:unsure", "soft_overlong"),
        soft_punish_cache=3,
        beta=0.1,
        sync_ref_model=True,
        ref_model_sync_steps=SYNC_STEPS,
        ref_model_mixup_alpha=1.0,
    )
    setup, state = set_up(config, folder)
    with fast_compile():
        method = GRPO(setup, None)
    states, reports, told = [on_host(state)], {}, []
    method.tell = told.append
    checkpoints = Checkpoints(folder / "checkpoints", keep=None)
    with jax.set_mesh(setup.mesh):
        state = take_steps(method, state, range(1, SAVED + 1), states, reports)
        checkpoints.save(SAVED, state, {"data": dict(method.data_state())})
        take_steps(method, state, range(SAVED + 1, STEPS + 1), states, reports)
    checkpoints.close()
    yield Run(setup, method, folder, states, reports, told)
    method.close()


def equal(one: Any, other: Any) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(a.tobytes() == b.tobytes() for a, b in pairs)


def test_each_phase_is_told_when_it_begins(run):
    step = ["data", "gen", "reward", "ref", "update"]
    assert run.told == [*step, "update"] * STEPS  # once more where the step is waited for


def test_a_number_of_each_completion_is_reported(run):
    for report in run.reports.values():
        lengths, rewards = report.samples["completions/length"], report.samples["rewards/total"]
        assert len(lengths) == len(rewards) == len(report.completions) == 2 * GROUP
        assert lengths.mean() == pytest.approx(report.metrics["completions/mean_length"])
        assert list(rewards) == pytest.approx([row.reward for row in report.completions], nan_ok=True)


def test_frozen_parts_keep_their_bytes_and_the_rest_moves(run):
    assert equal(run.states[0].frozen, run.states[STEPS].frozen)
    names = {
        jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(run.states[0].frozen)
    }
    assert names
    assert all(name.startswith("['visual']") for name in names)
    for before, after in zip(
        jax.tree.leaves(run.states[0].trainable), jax.tree.leaves(run.states[STEPS].trainable), strict=True
    ):
        assert np.any(before != after)


def test_the_optimizer_has_no_memory_of_frozen_parts(run):
    state = run.states[STEPS]
    moments = sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert moments == 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(state.trainable))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)]
    assert not [path for path in paths if "visual" in path]


def test_the_reference_becomes_the_policy_every_second_step(run):
    assert equal(run.states[0].reference, run.states[0].trainable)
    for step, source in ((1, 0), (2, 2), (3, 2), (4, 4), (5, 4)):
        expected = run.states[source].trainable
        jax.tree.map(np.testing.assert_array_equal, run.states[step].reference, expected)
    assert [report.metrics["ref_syncs"] for report in run.reports.values()] == [0, 1, 1, 2, 2]


def test_the_divergence_is_from_the_reference_that_moved(run):
    kl = {step: report.metrics["kl"] for step, report in run.reports.items()}
    assert max(abs(kl[step]) for step in (1, 3, 5)) < 1e-6  # the policy has not left it yet
    assert min(kl[2], kl[4]) > 1e-4


def test_a_run_continues_from_its_checkpoint_byte_for_byte(run):
    _, fresh = set_up(run.setup.config, run.folder)
    checkpoints = Checkpoints(run.folder / "checkpoints", keep=None)
    state = checkpoints.restore(SAVED, fresh)
    assert equal(on_host(state), run.states[SAVED])
    assert not equal(on_host(state).reference, on_host(fresh).reference)
    run.method.restore_data(checkpoints.read_extra(SAVED)["data"])
    states, reports = [], {}
    with jax.set_mesh(run.setup.mesh):
        take_steps(run.method, state, range(SAVED + 1, STEPS + 1), states, reports)
    assert equal(states[-1], run.states[STEPS])
    for step, report in reports.items():
        known = run.reports[step].metrics
        for name, value in report.metrics.items():
            if not name.startswith(("timing_s/", "perf/")):
                np.testing.assert_equal(value, known[name], err_msg=name)


def test_a_checkpoint_with_a_reference_is_not_read_without_one(run):
    _, fresh = set_up(run.setup.config, run.folder)
    without = TrainState(fresh.step, fresh.trainable, fresh.frozen, fresh.opt_state)
    with pytest.raises(ValueError, match=r"has 'reference\..*which this run has not"):
        Checkpoints(run.folder / "checkpoints", keep=None).restore(SAVED, without)


def test_failed_rewards_name_the_row_and_the_completion(run):
    seen = set()
    for report in run.reports.values():
        ids = [failed.id for failed in report.failures]
        assert ids == [name for name in dict.fromkeys(ids) for _ in range(GROUP)]
        assert [failed.completion for failed in report.failures] == [*range(GROUP)] * (len(ids) // GROUP)
        assert {failed.reason for failed in report.failures} <= {"unsure: TimeoutError: no idea"}
        assert report.metrics["unscored_completions"] == len(ids) == report.metrics["reward_failures"]
        assert report.metrics["rewards/unsure/failures"] == len(ids)
        assert report.metrics["rewards/parity/failures"] == 0
        seen |= set(ids)
    assert seen == {"row-1"}


def test_completions_keep_their_picture_files_and_aha_words(run):
    files = {(run.folder / f"{number}.jpg").read_bytes() for number in range(6)}
    for report in run.reports.values():
        assert len(report.completions) == 2 * GROUP
        for row in report.completions:
            assert row.image in files
            assert Image.open(io.BytesIO(row.image)).format == "JPEG"
            assert row.aha_words == aha_words(row.completion)
        counted = sum(len(row.aha_words) for row in report.completions)
        assert counted == sum(value for name, value in report.metrics.items() if name.startswith("aha/"))


def test_the_overlong_penalty_uses_the_runs_lengths(run):
    for report in run.reports.values():
        assert report.metrics["rewards/soft_overlong/mean"] < 0
        penalties = [row.rewards["soft_overlong"] for row in report.completions]
        assert {round(penalty * 3) for penalty in penalties} <= {0, -1, -2, -3}
        assert np.mean(penalties) == pytest.approx(report.metrics["rewards/soft_overlong/mean"])


def test_soft_overlong_without_a_cache_is_an_error():
    with pytest.raises(ConfigError, match="soft_punish_cache is 0"):
        reward_functions(RunConfig(reward_funcs=("accuracy_strict", "soft_overlong")))


@pytest.mark.parametrize("changes", [{"beta": 0.0}, {"method": "sft"}])
def test_a_reference_that_follows_needs_a_reference(tmp_path, changes):
    config = RunConfig(sync_ref_model=True, model=str(make_tiny_folder(tmp_path / "model")), **changes)
    with pytest.raises(ConfigError, match="sync_ref_model is true, but there is no reference model"):
        set_up(config, tmp_path)


def test_frozen_vision_without_pictures_is_not_run(tmp_path):
    """`max_images: 0` leaves no patches to see."""
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "What?", "answer": "left"}) + "\n")
    config = RunConfig(
        model=str(make_tiny_folder(tmp_path / "model", num_hidden_layers=1)),
        data=(str(tmp_path / "rows.jsonl"),),
        output_dir=str(tmp_path),
        max_images=0,
        prompts_per_step=1,
        num_generations=2,
        max_completion_length=4,
        max_prompt_length=120,
        freeze=FROZEN,
        reward_funcs=("format_paper",),
        beta=0.0,
        max_steps=1,
    )
    setup, state = set_up(config, tmp_path)
    with fast_compile():
        method = GRPO(setup, None)
    with jax.set_mesh(setup.mesh):
        method.step(state, 1)
        assert method.finish().metrics["completions/mean_length"] > 0
    method.close()


@pytest.mark.parametrize(("freeze", "seen"), [(("vision",), "encoded"), (("vision", "merger"), "features")])
def test_frozen_vision_is_run_once_a_step_and_changes_no_number(tmp_path, freeze, seen):
    config = RunConfig(
        model=str(make_tiny_folder(tmp_path / "model", num_hidden_layers=1)),
        data=(str(write_data(tmp_path)),),
        output_dir=str(tmp_path),
        prompts_per_step=2,
        num_generations=2,
        max_completion_length=4,
        max_prompt_length=200,
        freeze=freeze,
        beta=0.0,
        max_steps=1,
    )
    setup, state = set_up(config, tmp_path)
    with fast_compile(), jax.set_mesh(setup.mesh):
        method = GRPO(setup, None)
        phases = method._phases
        declared = dict(method.declare(state))
        assert list(declared)[:2] == ["vision", "sampling"]
        prompts = shard_batch(method._pipeline.next_batch(2).arrays, setup.mesh)
        once = phases.see(state, prompts)
        assert phases.seen == seen
        assert getattr(once, seen).size
        assert once.patches.size == 0
        ids = np.full((2, 2, 4), 5, np.int32)
        logps = [
            phases.score(state.trainable, state.frozen, given, phases.place(ids), None)
            for given in (prompts, once)
        ]
        np.testing.assert_allclose(*logps, atol=1e-6)
        method.step(state, 1)
        begun, report = method._begun, method.finish()
    lengths = lengths_of(begun.scored.asked, begun.drawn.lengths)
    model, metrics = setup.processor.config, report.metrics
    work = costs.update(model, replace(lengths, seen=seen), freeze)
    flops = metrics["perf/mfu/actor"] * metrics["timing_s/update_actor"] * method._limits.flops
    assert flops == pytest.approx(work)
    assert (
        costs.update(model, replace(lengths, images=()), freeze)
        <= work
        < costs.update(model, lengths, freeze)
    )
    method.close()
