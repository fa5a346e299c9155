"""vtzero's side: the step of `vtzero train` on the workload, once a turn."""

import argparse
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np
from peers import workload
from peers.turns import Turns

from vtzero.config import RunConfig
from vtzero.data.batches import collate
from vtzero.data.example import Example
from vtzero.data.processor import PreparedPrompt
from vtzero.grpo.scoring import group_logprobs
from vtzero.training.grpo import GRPO
from vtzero.training.setup import Setup, reference_parameters, set_up
from vtzero.training.state import TrainState


def main() -> None:
    """Set up, check, then a step each turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--remat", action="store_true")
    parser.add_argument("--devices", type=int, default=1)
    options = parser.parse_args()
    # One a core: what XLA:CPU does in one thread, each device then does for its share of the batch.
    jax.config.update("jax_num_cpu_devices", options.devices)
    turns = Turns()
    config = run_config(options.folder, remat=options.remat)
    setup, state = set_up(config, options.folder / "vtzero")
    setup = replace(setup, banned_ids=tuple(workload.facts(options.folder)["banned_ids"]))
    write_check(options.folder, setup, state)
    parameters = sum(leaf.size for leaf in jax.tree.leaves((state.trainable, state.frozen)))
    turns.done(
        settings={
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "devices": str(jax.devices()),
            "dtype": config.dtype,
            "gradient_checkpointing": config.gradient_checkpointing,
            "logprob_chunk": config.logprob_chunk,
        },
        parameters=parameters,
    )
    run(turns, setup, state)


def run(turns: Turns, setup: Setup, state: TrainState) -> None:
    """As the loop of a run does: data, sampling, rewards, reference, update."""
    method = GRPO(setup, reference_parameters(setup, setup.folder))
    with jax.set_mesh(setup.mesh):
        for index in count(1):
            turns.wait()
            state, _ = method.step(state, index)
            report = method.finish()
            jax.block_until_ready(state)
            turns.done(**figures(report.metrics if report else {}))


def figures(metrics: dict[str, float]) -> dict[str, Any]:
    """Phases, lengths and outcome of a step."""
    phases = {
        name.removeprefix("timing_s/"): seconds for name, seconds in metrics.items() if "timing_s/" in name
    }
    phases.pop("step", None)
    lengths = [
        metrics[name] for name in ("completions/min_length", "completions/max_length") if name in metrics
    ]
    outcome = {name: metrics[name] for name in ("reward", "kl", "num_tokens") if name in metrics}
    return {"phases": phases, "lengths": lengths, "outcome": outcome}


def run_config(folder: Path, *, remat: bool) -> RunConfig:
    """The config that `vtzero train` would be given."""
    facts = workload.facts(folder)
    return RunConfig(
        model=str(folder / "model"),
        output_dir=str(folder / "vtzero"),
        seed=workload.SEED,
        dtype="float32",
        gradient_checkpointing=remat,
        data=(str(folder / "questions.jsonl"),),
        prompt_template=workload.TEMPLATE,
        max_prompt_length=facts["image_tokens"] + facts["text_tokens"],
        prompts_per_step=workload.PROMPTS,
        num_generations=workload.GROUP,
        max_completion_length=workload.LENGTH,
        temperature=1.0,
        reward_funcs=(f"{workload.__file__}:letters",),
        beta=workload.BETA,
        loss_type="grpo",
        learning_rate=workload.LEARNING_RATE,
        lr_scheduler_type="constant",
        eval_data=None,
        log_completions=False,
        tensorboard=False,
    )


def write_check(folder: Path, setup: Setup, state: TrainState) -> None:
    """Prompt ids of the first questions, and the log-probabilities that vtzero gives to fixed completions."""
    prompts = [_prepared(setup, folder, row) for row in workload.first_rows(folder)]
    arrays = collate(prompts, setup.buckets, setup.processor.pad_id)
    completions = np.load(folder / "completions.npy")

    def score(trainable: Any, frozen: Any) -> jax.Array:
        return group_logprobs(setup.parts.merge(trainable, frozen), arrays, completions)[0]

    with jax.set_mesh(setup.mesh):
        logps = np.asarray(jax.jit(score)(state.trainable, state.frozen))
    np.savez(folder / "vtzero.npz", ids=arrays.ids, logps=logps.reshape(-1, logps.shape[-1]))


def _prepared(setup: Setup, folder: Path, row: dict[str, Any]) -> PreparedPrompt:
    images = (folder / row["image"],)
    example = Example(row["id"], row["question"], row["answer"], images, tuple(row["options"]))
    prepared = setup.processor.prepare(example, setup.template)
    assert isinstance(prepared, PreparedPrompt), prepared
    return prepared


if __name__ == "__main__":
    main()
