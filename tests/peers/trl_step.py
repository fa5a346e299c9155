"""One GRPO step of vtzero against one of TRL's `GRPOTrainer`, on two CPU cores.

    pip install -e '.[test,peers]'
    python tests/peers/trl_step.py --image-size 112 --steps 5 --json
    python tests/peers/trl_step.py --image-size 504 --steps 5 --json

Both train the same Qwen2-VL (6 decoder layers of width 256, 4 vision layers of width 128, about 7 million
parameters, random float32 weights in one Hugging Face folder) on the same drawn scenes: 4 prompts a step,
8 answers each of exactly 64 tokens, beta 0.04, one update a rollout, AdamW, the same reward function.
Stop ids and image tokens are banned from sampling on both sides, so that every answer has its full
length; the lengths are read back from both sides' metrics and checked, and rewards, divergences and numbers
of tokens are printed. Before the first step both score the same completions, and their prompt ids must be
equal and their log-probabilities agree.

Each side is a process of its own on the same cores. They take turns step by step, and the one whose turn
it is not is stopped by signal (`turns.py`). A step is wall-clock time of everything a training loop does
in one: reading questions and pictures, generation, rewards, reference log-probabilities, update. Neither
side logs or saves. TRL gets the settings that are fastest on a CPU: one batch of 32, no accumulation, no
gradient checkpointing, float32, the PIL image processor.

A figure belongs to an idle machine. Another busy program slows both sides, but TRL many times more, as
OpenMP's threads wait for each other by spinning: the ratio would flatter vtzero. So the cores that others
took during the timed steps are measured too; above 0.05 a warning is printed.

The first step of each side is reported apart (vtzero compiles in it), and so are `--warmup` further ones.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from peers.turns import Worker  # noqa: E402

TOLERANCE = 2e-3
QUIET = 0.05
LENGTH = 64


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image-size", type=int, default=112, help="side of the square pictures, in pixels")
    parser.add_argument("--steps", type=int, default=5, help="timed steps a side")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them, the first included")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa", help="TRL's attention")
    parser.add_argument(
        "--trl-checkpointing", action="store_true", help="gradient checkpointing for TRL, its default"
    )
    parser.add_argument("--remat", action="store_true", help="gradient checkpointing for vtzero")
    parser.add_argument("--only", choices=("vtzero", "trl"), help="one side alone")
    parser.add_argument("--json", action="store_true", help="the figures as one object on the last line")
    options = parser.parse_args()
    cores = use_cores(options.cores)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), options)
    figures = {"image_size": options.image_size, "cores": cores} | figures
    print_table(figures)
    if options.json:
        print(json.dumps(figures))


def use_cores(count: int) -> list[int]:
    """Keep this process and its children to the first cores that it may use."""
    cores = sorted(os.sched_getaffinity(0))[:count]
    os.sched_setaffinity(0, cores)
    return cores


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Start both sides, check that they do the same, let them take turns."""
    environment = _environment(options.cores)
    command = [sys.executable, "-m", "peers.workload", str(folder), str(options.image_size)]
    subprocess.run(command, check=True, env=os.environ | environment)
    arguments = {
        "vtzero": ["--devices", str(options.cores)] + (["--remat"] if options.remat else []),
        "trl": ["--threads", str(options.cores), "--attention", options.attention]
        + (["--checkpointing"] if options.trl_checkpointing else []),
    }
    sides = [options.only] if options.only else list(arguments)
    workers: dict[str, Worker] = {}
    try:
        for side in sides:
            log = folder / f"{side}.log"
            workers[side] = Worker(f"peers.{side}_side", [str(folder), *arguments[side]], log, environment)
        figures = {"workload": json.loads((folder / "workload.json").read_text())}
        figures |= {} if options.only else {"agreement": agreement(folder)}
        turns = take_turns(workers, options.warmup + options.steps)
        figures |= {side: summary(workers[side].ready, turns[side], options.warmup) for side in sides}
    finally:
        for worker in workers.values():
            worker.close()
    if not options.only:
        figures["ratio"] = round(
            figures["trl"]["seconds"]["median"] / figures["vtzero"]["seconds"]["median"], 2
        )
    return figures


def _environment(cores: int) -> dict[str, str]:
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    threads = {"OMP_NUM_THREADS": str(cores)}
    return {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", **threads}


def take_turns(workers: dict[str, Worker], steps: int) -> dict[str, list[dict[str, Any]]]:
    """One step of each side after the other, `steps` times."""
    turns: dict[str, list[dict[str, Any]]] = {side: [] for side in workers}
    for _ in range(steps):
        for side, worker in workers.items():
            turns[side].append(worker.turn())
    return turns


def agreement(folder: Path) -> dict[str, Any]:
    """Whether both sides read the same prompts and give the same log-probabilities."""
    ours, theirs = (np.load(folder / f"{side}.npz") for side in ("vtzero", "trl"))
    if not np.array_equal(ours["ids"], theirs["ids"]):
        raise SystemExit("the two sides read different prompts")
    difference = float(np.abs(ours["logps"] - theirs["logps"]).max())
    if not difference < TOLERANCE:
        raise SystemExit(f"the two sides' log-probabilities differ by {difference}")
    return {"prompt_tokens": ours["ids"].shape[1], "largest_logp_difference": difference}


def summary(ready: dict[str, Any], turns: Sequence[dict[str, Any]], warmup: int) -> dict[str, Any]:
    """The figures of one side; phases are medians too."""
    if any(length != LENGTH for turn in turns for length in turn["lengths"]):
        raise SystemExit(f"not every answer has {LENGTH} tokens: {[turn['lengths'] for turn in turns]}")
    timed = turns[warmup:]
    seconds = [turn["seconds"] for turn in timed]
    median = statistics.median(seconds)
    phases = {
        name: round(statistics.median(turn["phases"].get(name, 0.0) for turn in timed), 4)
        for name in timed[-1]["phases"]
    }
    return {
        "seconds": {"min": round(min(seconds), 4), "median": round(median, 4), "max": round(max(seconds), 4)},
        "cpu_seconds": round(statistics.median(turn["cpu_seconds"] for turn in timed), 4),
        "cores_taken_by_others": round(max(turn["cores_taken_by_others"] for turn in timed), 2),
        "phases": phases | {"rest": round(median - sum(phases.values()), 4)},
        "set_up_seconds": round(ready["seconds"], 2),
        "first_step_seconds": round(turns[0]["seconds"], 2),
        "beyond_a_step_in_the_first": round(turns[0]["seconds"] - median, 2),
        "steps": len(timed),
        "outcome": timed[-1]["outcome"],
        "peak_gib": round(timed[-1]["peak_bytes"] / 2**30, 2),
        "parameters": ready["parameters"],
        "settings": ready["settings"],
    }


def print_table(figures: dict[str, Any]) -> None:
    """The same figures for a person."""
    for name, value in figures.items():
        if isinstance(value, dict):
            print(f"{name}:")
            for inner, content in value.items():
                print(f"  {inner}: {content}")
        else:
            print(f"{name}: {value}")
    taken = max(figures[side]["cores_taken_by_others"] for side in ("vtzero", "trl") if side in figures)
    if taken > QUIET:
        print(
            f"WARNING: other programs took {taken} of the cores; these figures, TRL's above all, mean nothing"
        )


if __name__ == "__main__":
    main()
