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
    assert figures["agreement"]["prompt_tokens"] == 16 + figures["workload"]["text_tokens"]
    assert (
        figures["vtzero"]["parameters"] == figures["trl"]["parameters"] == figures["workload"]["parameters"]
    )
    assert figures["ratio"] > 0
