"""Nothing is compiled after the first step, whatever images, prompts and lengths; programs last on disk."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures.fast_compile import fast_compile
from fixtures.tiny_folder import make_tiny_folder
from PIL import Image

from vtzero.config import RunConfig
from vtzero.data.supervised import FIRST_CYCLE
from vtzero.training.loop import train
from vtzero.training.metrics import read_metrics
from vtzero.training.setup import TINY_BASE

STEPS = 50


def write_data(folder: Path) -> Path:
    """Pictures of every size and shape, questions of every length, and one without a picture."""
    rng = np.random.default_rng()
    rows = []
    for number in range(24):
        row = {"question": "What is it? " * int(rng.integers(1, 8)), "answer": "left"}
        if number:
            width, height = rng.integers(30, 120, 2)
            Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(folder / f"{number}.png")
            row["image"] = f"{number}.png"
        rows.append(row)
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def metrics(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compilation")
    (folder / "own.py").write_text(
        "def shorter(completions, completion_lengths, **columns):\n"
        "    return [-float(length) for length in completion_lengths]\n"
    )
    config = RunConfig(
        model=str(make_tiny_folder(folder / "model", num_hidden_layers=1)),
        output_dir=str(folder / "run"),
        data=(str(write_data(folder)),),
        max_pixels=112 * 112,
        max_steps=STEPS,
        prompts_per_step=2,
        num_generations=8,
        packing=True,
        completion_length_buckets=(8, 24),
        max_completion_length=32,
        max_prompt_length=160,
        max_rejected_share=1.0,  # most are longer, and are drawn again
        learning_rate=2e-3,
        gradient_checkpointing=False,
        reward_funcs=(f"{folder}/own.py:shorter",),
        beta=0.1,
        sync_ref_model=True,
        ref_model_sync_steps=20,
        eval_data=None,
        log_completions=False,
        tensorboard=False,
        save_steps=20,
    )
    with fast_compile():
        train(config, quiet=True)
    return read_metrics(folder / "run")


def test_nothing_is_compiled_after_the_first_step(metrics):
    assert len(metrics) == STEPS
    assert [step["step"] for step in metrics[1:] if step["compile/count"]] == []


def test_lengths_and_layouts_did_vary(metrics):
    assert len({step["completions/mean_length"] for step in metrics}) > 10
    assert len({step["packing"] for step in metrics}) >= 2


def test_a_second_process_reads_its_programs_from_disk(tmp_path):
    script = (
        "import sys, jax, jax.numpy as jnp\n"
        "from vtzero.training.compilation import COMPILATIONS, keep_programs\n"
        "print(keep_programs())\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)\n"
        "jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((3, 4)))\n"
        "print(COMPILATIONS.from_disk)\n"
    )
    environment = {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu", "PATH": ""}
    printed = [
        subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(2)
    ]
    folder = str(tmp_path / "vtzero" / "programs")
    assert [lines[0] for lines in printed] == [folder, folder]
    assert int(printed[0][1]) == 0
    assert int(printed[1][1]) > 0


def test_each_shape_of_the_documents_is_compiled_before_the_first_step(tmp_path):
    config = RunConfig(
        method="sft",
        model=TINY_BASE,
        output_dir=str(tmp_path / "run"),
        data=("scene_documents",),
        prompts_per_step=2,
        max_steps=len(FIRST_CYCLE),
        completion_only_loss=False,
        eval_data=None,
        tensorboard=False,
    )
    with fast_compile():
        train(config, quiet=True)
    metrics = read_metrics(tmp_path / "run")
    assert [step["step"] for step in metrics[1:] if step["compile/count"]] == []


def test_a_resumed_run_compiles_its_evaluation_before_its_first_step(tmp_path):
    config = RunConfig(
        model=str(make_tiny_folder(tmp_path / "model", num_hidden_layers=1)),
        output_dir=str(tmp_path / "run"),
        data=("scenes",),
        max_steps=1,
        prompts_per_step=2,
        num_generations=2,
        max_completion_length=4,
        max_prompt_length=200,
        lr_scheduler_type="constant",
        eval_data="scenes",
        eval_limit=3,
        eval_batch_size=2,
        eval_steps=3,
        tensorboard=False,
    )
    with fast_compile():
        train(config, quiet=True)
        train(replace(config, max_steps=4), quiet=True)
    metrics = read_metrics(tmp_path / "run")
    assert [step["step"] for step in metrics if step["compile/count"]] == [1, 2]
