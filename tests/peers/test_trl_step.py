"""The comparison with TRL runs, and both sides do the same; how fast they are is no matter of a test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("trl_step.py")


@pytest.mark.slow
def test_both_sides_do_the_same_step():
    pytest.importorskip("trl")
    command = [sys.executable, str(SCRIPT), "--image-size", "112", "--steps", "1", "--warmup", "1", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    figures = json.loads(run.stdout.splitlines()[-1])
    prompt = figures["agreement"]["prompt_tokens"]
    assert prompt == 16 + figures["workload"]["text_tokens"]
    assert (
        figures["vtzero"]["parameters"] == figures["trl"]["parameters"] == figures["workload"]["parameters"]
    )
    ours, theirs = figures["vtzero"], figures["trl"]
    assert ours["steps"] == theirs["steps"] == 1
    # 4 prompts x 8 answers x 64 tokens; TRL reads each prompt once for each of its answers.
    assert ours["outcome"]["num_tokens"] == 4 * prompt + 32 * 64
    assert theirs["outcome"]["num_tokens"] == 32 * (prompt + 64)
    # The same model draws and is paid alike, and neither has left its reference yet.
    assert ours["outcome"]["reward"] == pytest.approx(theirs["outcome"]["reward"], abs=0.05)
    assert max(abs(side["outcome"]["kl"]) for side in (ours, theirs)) < 1e-3
    medians = [side["seconds"]["median"] for side in (theirs, ours)]
    assert figures["ratio"] == pytest.approx(medians[0] / medians[1], abs=0.01)
    assert f"ratio: {figures['ratio']}" in run.stdout
