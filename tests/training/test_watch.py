"""What ends a run: skipped updates in a row, log-probabilities apart, too much set aside; nothing else."""

import json

import numpy as np
import pytest

from vtzero.training.watch import GAP, LEAST, BrokenRunError, Watch, WatchSettings

DRAWN = {"samples": 10, "completions": 40}


def metrics(**changed: float) -> dict[str, float]:
    sound = {"loss": 0.5, "grad_norm": 1.0, "skipped_updates": 0.0, GAP: 0.001, "rejected_samples": 0.0}
    return sound | {"failed_completions": 0.0} | changed


def skipped() -> dict[str, float]:
    return metrics(loss=np.nan, grad_norm=np.inf, skipped_updates=1.0)


def test_updates_skipped_in_a_row_are_warned_of_and_then_end_the_run():
    watch = Watch(WatchSettings(max_bad_steps=3))
    for index in (1, 2):
        (warning,) = watch.look(index, skipped(), **DRAWN)
        assert warning == f"step {index}: loss nan, grad_norm inf; the update is skipped"
    assert watch.look(3, metrics(), **DRAWN) == []
    watch.look(4, skipped(), **DRAWN)
    watch.look(5, skipped(), **DRAWN)
    with pytest.raises(BrokenRunError, match=r"step 6: loss nan.*3 steps in a row skipped"):
        watch.look(6, skipped(), **DRAWN)


def test_sampler_and_trainer_apart_are_warned_of_and_then_end_the_run():
    watch = Watch(WatchSettings(max_bad_steps=2, max_logp_difference=0.05))
    assert watch.look(1, metrics(**{GAP: 0.05}), **DRAWN) == []
    (warning,) = watch.look(2, metrics(**{GAP: 0.06}), **DRAWN)
    assert "differ by 0.06 a token" in warning
    with pytest.raises(BrokenRunError, match="in 2 steps in a row"):
        watch.look(3, metrics(**{GAP: 0.07}), **DRAWN)


def test_a_difference_that_is_no_number_is_too_large():
    watch = Watch(WatchSettings(max_bad_steps=2))
    (warning,) = watch.look(1, metrics(**{GAP: np.nan}), **DRAWN)
    assert "differ by nan a token" in warning
    with pytest.raises(BrokenRunError):
        watch.look(2, metrics(**{GAP: np.nan}), **DRAWN)


def test_completions_that_a_reward_has_no_score_for_are_no_failures():
    watch = Watch(WatchSettings(max_failed_share=0.1))
    unscored = metrics(unscored_completions=20.0)
    assert all(watch.look(index, unscored, **DRAWN) == [] for index in range(1, 50))


def test_without_a_bound_no_difference_is_too_large():
    watch = Watch(WatchSettings(max_logp_difference=None))
    assert all(watch.look(index, metrics(**{GAP: 3.0}), **DRAWN) == [] for index in range(1, 20))


def test_supervised_steps_have_no_sampler():
    numbers = {"loss": 1.0, "grad_norm": 1.0, "skipped_updates": 0.0, "rejected_samples": 0.0}
    assert Watch(WatchSettings()).look(1, numbers, **DRAWN) == []


@pytest.mark.parametrize(
    ("name", "limit", "a_step"),
    [("rejected_samples", "max_rejected_share", 10), ("failed_completions", "max_failed_share", 40)],
)
def test_too_large_a_share_ends_the_run_once_there_is_enough_to_judge(name, limit, a_step):
    """5 % are borne under a limit of 10 %; half are not."""
    watch = Watch(WatchSettings(**{limit: 0.1}))
    random = np.random.default_rng(0)
    for index in range(1, 200):
        watch.look(index, metrics(**{name: float(random.binomial(a_step, 0.05))}), **DRAWN)
    bad = metrics(**{name: a_step / 2})
    with pytest.raises(BrokenRunError, match=rf"of the last 2\d\d .* more than {limit} 0.1"):
        any(watch.look(index, bad, **DRAWN) for index in range(200, 200 + LEAST))


def test_a_few_bad_samples_at_the_start_end_nothing():
    watch = Watch(WatchSettings(max_rejected_share=0.1, max_failed_share=0.1))
    bad = metrics(rejected_samples=10.0, failed_completions=40.0)
    for index in range(1, LEAST // DRAWN["completions"]):
        watch.look(index, bad, **DRAWN)


def test_a_run_that_goes_on_is_ended_where_it_would_have_been():
    """Its memory is saved in JSON after every step, and read again."""
    settings = WatchSettings(max_bad_steps=3, max_rejected_share=0.3, max_failed_share=0.3)
    random = np.random.default_rng(1)
    steps = [
        skipped() if random.random() < 0.3 else metrics(rejected_samples=float(random.integers(8)))
        for _ in range(400)
    ]

    def ends(interrupted: bool) -> tuple[int, str]:
        watch = Watch(settings)
        for index, step in enumerate(steps, 1):
            try:
                watch.look(index, step, **DRAWN)
            except BrokenRunError as error:
                return index, str(error)
            if interrupted:
                saved, watch = json.dumps(watch.state()), Watch(settings)
                watch.restore(json.loads(saved))
        raise AssertionError("it never ends")

    assert ends(interrupted=True) == ends(interrupted=False)
