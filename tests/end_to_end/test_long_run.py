"""Two thousand steps of a small run hold no more memory, files and threads at the end than at their start."""

import os
import time
from pathlib import Path
from statistics import median

import pytest
from fixtures.one_run import make_base

from vtzero.training.metrics import read_metrics

STEPS, SETTLED = 2000, 200
SETTINGS = {
    "max_steps": STEPS,
    "save_steps": 50,
    "eval_steps": 50,
    "max_completion_length": 8,
    "max_prompt_length": 200,
}


@pytest.mark.slow
def test_memory_files_and_threads_are_flat(tmp_path):
    out = tmp_path / "run"
    process = make_base(tmp_path).start(out, **SETTINGS)
    held = []
    while process.poll() is None:
        held.append((steps_done(out), *handles_and_threads(process.pid)))
        time.sleep(1)
    assert process.returncode == 0, process.stderr.read()
    memory = {step["step"]: step["perf/cpu_memory_used_gb"] for step in read_metrics(out)}
    assert len(memory) == STEPS
    # A hundred steps each: a save or an evaluation takes memory for a moment.
    first = median(memory[step] for step in range(SETTLED, SETTLED + 100))
    last = median(memory[step] for step in range(STEPS - 99, STEPS + 1))
    settled = [(files, threads) for step, files, threads in held if SETTLED <= step < STEPS]
    begun, ended = settled[: len(settled) // 4], settled[-len(settled) // 4 :]
    growth = 100 * (last / first - 1)
    print(f"memory {first:.3f} GiB at step {SETTLED}, {last:.3f} at {STEPS}: {growth:+.2f} %")
    print(f"(files, threads): {fewest(begun)} in the first quarter, {fewest(ended)} in the last")
    assert growth < 1
    assert fewest(ended) == fewest(begun)


def fewest(held: list[tuple[int, int]]) -> tuple[int, int]:
    """Those between saves and evaluations, which open some files and threads for a moment."""
    return min(files for files, _ in held), min(threads for _, threads in held)


def steps_done(out: Path) -> int:
    metrics = out / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def handles_and_threads(pid: int) -> tuple[int, int]:
    return tuple(len(os.listdir(f"/proc/{pid}/{name}")) for name in ("fd", "task"))
