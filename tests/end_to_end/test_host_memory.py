"""A long run holds no more memory at its end than at its beginning."""

import numpy as np
import pytest
from fixtures.tiny_folder import make_tiny_folder

from vtzero.config import RunConfig
from vtzero.training.loop import train
from vtzero.training.metrics import read_metrics

STEPS, WARM = 1000, 200


@pytest.mark.slow
def test_host_memory_is_flat_over_a_thousand_steps(tmp_path):
    config = RunConfig(
        model=str(make_tiny_folder(tmp_path / "model", num_hidden_layers=1)),
        output_dir=str(tmp_path / "run"),
        data=("scenes",),
        max_steps=STEPS,
        prompts_per_step=2,
        num_generations=2,
        max_completion_length=4,
        max_prompt_length=200,
        reward_funcs=("format_paper",),
        eval_data=None,
        save_steps=250,
    )
    train(config, quiet=True)
    held = np.array([step["perf/cpu_memory_used_gb"] for step in read_metrics(tmp_path / "run")])
    early, late = np.median(held[WARM : 2 * WARM]), np.median(held[-WARM:])
    print(f"resident memory: {early:.3f} GiB at steps {WARM}-{2 * WARM}, {late:.3f} GiB at the end")
    assert late < 1.03 * early
