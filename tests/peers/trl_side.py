"""TRL's side: `GRPOTrainer` on the workload, one optimizer step a turn."""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import trl
from datasets import Dataset, Image
from peers import workload
from peers.turns import Turns
from transformers import AutoTokenizer, Qwen2VLProcessor, TrainerCallback
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from trl import GRPOConfig, GRPOTrainer
from trl.extras.profiling import ProfilingContext

from vtzero.data.prompts import IMAGE

# As the base checkpoint is asked: the image, then the text, and no roles.
BARE_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}" + IMAGE + "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


class ImageProcessor(Qwen2VLProcessor):
    """Without the video processor, the only part for which transformers asks for torchvision."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> type:
        return type(argument)


class StepByTurns(TrainerCallback):
    """Holds the trainer between two steps: a turn reaches from one `on_step_end` to the next."""

    def __init__(self, turns: Turns, phases: "Phases"):
        self._turns, self._phases = turns, phases
        self._seen = 0
        self.trainer: Any = None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._turns.wait()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        metrics = self.trainer._metrics["train"]
        before, self._seen = self._seen, metrics["num_tokens"][-1]
        self._turns.done(
            phases=self._phases.taken(),
            lengths=[metrics[f"completions/{which}_length"][-1] for which in ("min", "max")],
            outcome={name: metrics[name][-1] for name in ("reward", "kl")}
            | {"num_tokens": self._seen - before},
        )
        self._turns.wait()


class Phases:
    """TRL's own timers, which it would send to a service only."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        phases = self

        def record(context: ProfilingContext, duration: float) -> None:
            phases._record(context.name.removeprefix("GRPOTrainer."), duration)

        ProfilingContext._log_metrics = record

    def _record(self, name: str, duration: float) -> None:
        # The reference is scored while inputs are prepared, the policy inside the loss.
        if name == "_get_per_token_logps_and_entropies":
            name = "policy" if "reference" in self._seconds else "reference"
        self._seconds[name] += duration

    def taken(self) -> dict[str, float]:
        """Seconds of each phase since the last call; the backward pass has what is left of a step."""
        seconds, self._seconds = self._seconds, defaultdict(float)
        prepared = sum(seconds[name] for name in ("transformers.generate", "reference", "letters"))
        return {
            "generate": seconds["transformers.generate"],
            "reference": seconds["reference"],
            "reward": seconds["letters"],
            "prepare": seconds["_prepare_inputs"] - prepared,
            "forward": seconds["compute_loss"],
        }


def main() -> None:
    """Set up, check, then a step each turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--attention", required=True)
    parser.add_argument("--checkpointing", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    turns, phases = Turns(), Phases()
    hold = StepByTurns(turns, phases)
    hold.trainer = trainer = make_trainer(options, hold)
    write_check(options.folder, trainer)
    phases.taken()
    arguments = trainer.args
    turns.done(
        settings={
            "trl": trl.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "attention": trainer.model.config._attn_implementation,
            "dtype": str(trainer.model.dtype),
            "gradient_checkpointing": arguments.gradient_checkpointing,
            "optim": str(arguments.optim),
        },
        parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
    )
    trainer.train()


def make_trainer(options: argparse.Namespace, hold: StepByTurns) -> GRPOTrainer:
    """TRL as fast as its settings make it on a CPU: everything in one batch, nothing computed again."""
    folder = options.folder
    arguments = GRPOConfig(
        output_dir=str(folder / "trl"),
        model_init_kwargs={"attn_implementation": options.attention, "dtype": "float32"},
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=options.checkpointing,
        per_device_train_batch_size=workload.PROMPTS * workload.GROUP,
        gradient_accumulation_steps=1,
        num_generations=workload.GROUP,
        max_completion_length=workload.LENGTH,
        generation_kwargs={"suppress_tokens": workload.facts(folder)["banned_ids"]},
        temperature=1.0,
        beta=workload.BETA,
        num_iterations=1,
        loss_type="grpo",
        learning_rate=workload.LEARNING_RATE,
        lr_scheduler_type="constant",
        dataloader_num_workers=0,
        max_steps=1_000_000,
        logging_steps=1_000_000,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=workload.SEED,
    )
    return GRPOTrainer(
        model=str(folder / "model"),
        reward_funcs=workload.letters,
        args=arguments,
        train_dataset=questions(folder),
        processing_class=processor(folder / "model"),
        callbacks=[hold],
    )


def processor(folder: Path) -> ImageProcessor:
    """The PIL image processor: on a CPU several times faster than the one of torchvision."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    images = Qwen2VLImageProcessorPil.from_pretrained(folder)
    return ImageProcessor(images, tokenizer, None, chat_template=BARE_TEMPLATE)


def questions(folder: Path) -> Dataset:
    """The questions in the columns that TRL reads."""
    rows = Dataset.from_json(str(folder / "questions.jsonl"))
    rows = rows.map(
        lambda row: {
            "prompt": [{"role": "user", "content": row["text"]}],
            "image": str(folder / row["image"]),
        },
        remove_columns=[name for name in rows.column_names if name != "image"],
    )
    return rows.cast_column("image", Image())


def write_check(folder: Path, trainer: GRPOTrainer) -> None:
    """Prompt ids of the first questions, and the log-probabilities that TRL gives to fixed completions."""
    group, rows = workload.GROUP, questions(folder).select(range(workload.PROMPTS))
    texts = [IMAGE + row["text"] for row in workload.first_rows(folder) for _ in range(group)]
    images = [[image] for image in rows["image"] for _ in range(group)]
    inputs = trainer.processing_class(images=images, text=texts, padding=True, return_tensors="pt")
    completions = torch.from_numpy(np.load(folder / "completions.npy")).long().flatten(0, 1)
    nothing = torch.zeros_like(completions)
    with torch.no_grad():
        logps, *_ = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([inputs["input_ids"], completions], 1),
            torch.cat([inputs["attention_mask"], nothing + 1], 1),
            completions.shape[1],
            pixel_values=inputs["pixel_values"],
            image_grid_thw=inputs["image_grid_thw"],
            num_images=[1] * len(texts),
            mm_token_type_ids=torch.cat([inputs["mm_token_type_ids"], nothing], 1),
        )
    np.savez(folder / "trl.npz", ids=inputs["input_ids"][::group].numpy(), logps=logps.numpy())


if __name__ == "__main__":
    main()
