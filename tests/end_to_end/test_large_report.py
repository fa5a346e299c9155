"""The page of a run of the paper's size: 1,500 steps of 64 completions, with photographs."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from fixtures.browser import chromium, opened, why_not
from fixtures.picture_files import encoded, photograph

from vtzero.reports.command import report
from vtzero.training.completions import CompletionRow, write_completions

STEPS, PROMPTS, GROUP = 1500, 8, 8
SECONDS, BYTES = 3, 30e6
WORDS = """the left right chair table is closer to camera wait let me check I see a red ball and blue cone in
image so answer therefore because object behind front near far above below but yet possibly count objects"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Answers of 30 to 300 words, which are drawn anew for each and so compress worse than a model's."""
    folder = tmp_path_factory.mktemp("large")
    numbers = np.random.default_rng(0)
    photographs = [encoded(photograph(640, 480, seed=seed), "JPEG") for seed in range(400)]
    lines = []
    for step in range(1, STEPS + 1):
        rows = [row(numbers, step, at, photographs) for at in range(PROMPTS * GROUP)]
        write_completions(folder, step, rows)
        figures = {f"metric_{number}": float(value) for number, value in enumerate(numbers.normal(size=50))}
        lines.append({"step": step, "reward": step / STEPS, "completions/mean_length": 100 + step, **figures})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def row(numbers, step, at, photographs) -> CompletionRow:
    group = at // GROUP
    words = numbers.choice(WORDS.split(), numbers.integers(30, 300))
    right = float(numbers.integers(2))
    return CompletionRow(
        prompt=f"A conversation between User and Assistant. Question {step}-{group}?",
        completion=f"<think> {' '.join(words)} </think>\n<answer> {words[0]} </answer>",
        rewards={"accuracy_paper": right, "format_paper": 1.0},
        reward=right + 1,
        advantage=right - 0.5,
        length=len(words),
        terminated=True,
        group=group,
        id=f"sat/{step}-{group}",
        question=f"Question {step}-{group}?",
        answer=str(words[0]),
        task="Count",
        image=photographs[(step * PROMPTS + group) % len(photographs)],
        aha_words=["wait"] * int("wait" in words),
    )


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not()), reason=f"needs a browser: {why_not()}")
def test_a_long_run_opens_at_once_and_shows_what_is_asked_for(run):
    began = time.monotonic()
    figures = report([str(run)])
    print(f"made in {time.monotonic() - began:.1f} s, {figures['bytes'] / 1e6:.1f} MB")
    assert 0.8 * BYTES < figures["bytes"] <= BYTES
    path = Path(figures["page"])
    with chromium() as browser:
        began = time.monotonic()
        with opened(browser, path) as shown:
            shown.page.locator(".card").first.wait_for()
            seconds = time.monotonic() - began
            print(f"opened in {seconds:.2f} s")
            assert seconds <= SECONDS
            shown.page.locator("#completions").scroll_into_view_if_needed()
            shown.page.get_by_text("completions match").wait_for()
