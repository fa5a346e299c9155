"""The held-out benchmark of a run, asked as it goes: before the first step, every so many, and at the end."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vtzero.config import ConfigError
from vtzero.data.image_paths import existing_folders
from vtzero.data.processor import Processor
from vtzero.data.prompts import prompt_template
from vtzero.evaluation.benchmarks import Benchmark, open_benchmark
from vtzero.evaluation.results import ResultFiles
from vtzero.evaluation.runner import declare, evaluate, greedy, used_settings
from vtzero.evaluation.shapes import benchmark_buckets
from vtzero.parallel.messages import tell_all
from vtzero.parallel.processes import is_first
from vtzero.parallel.sharding import even_rows
from vtzero.sampling.sampler import Sampler
from vtzero.training.blueprint import decode_settings
from vtzero.training.setup import Setup
from vtzero.training.state import TrainState


class HeldOut:
    """The held-out benchmark of a run, greedy; prompt and image limit are the run's own unless it says so."""

    def __init__(self, setup: Setup, folder: Path):
        config = setup.config
        self._setup, self._folder = setup, folder
        images = config.eval_image_folder
        self._benchmark: Benchmark = open_benchmark(
            str(config.eval_data),
            limit=config.eval_limit,
            image_folder=Path(images) if images else None,
            image_folders=existing_folders(config.image_folders),
        )
        self._processor = _eval_processor(setup)
        self._template = prompt_template(config.eval_prompt_template or config.prompt_template)
        self._buckets = benchmark_buckets(self._benchmark, self._processor, config.max_prompt_length)
        self._sampler = Sampler(setup.parts.merge, decode_settings(setup, "none"))
        self._greedy = greedy(self._processor)
        self._rows = even_rows(config.eval_batch_size, setup.mesh)

    def declare(self, state: TrainState) -> Callable[[], Any]:
        return declare(
            sampler=self._sampler,
            pieces=(state.trainable, state.frozen),
            processor=self._processor,
            buckets=self._buckets,
            batch_size=self._rows,
            parameters=self._greedy,
            mesh=self._setup.mesh,
        )

    def __call__(
        self,
        state: TrainState,
        index: int,
        progress: Callable[[int, int], None],
        wait: Callable[[Any], object],
    ) -> dict[str, Any]:
        config = self._setup.config
        files = ResultFiles(self._folder, self._benchmark.name, index, self._used()) if is_first() else None
        result = evaluate(
            self._benchmark,
            sampler=self._sampler,
            pieces=(state.trainable, state.frozen),
            processor=self._processor,
            template=self._template,
            buckets=self._buckets,
            batch_size=self._rows,
            mesh=self._setup.mesh,
            parameters=self._greedy,
            done=tell_all(None if files is None else files.done(self._rows))[0],
            on_batch=None if files is None else files.append,
            progress=progress,
            wait=wait,
        )
        if not result.items:
            reason = result.rejected[0].reason if result.rejected else "it has no items"
            raise ConfigError(f"eval_data {config.eval_data!r}: no item could be asked; {reason}")
        return tell_all(None if files is None else files.finish(result))[0]

    def _used(self) -> dict[str, Any]:
        config = self._setup.config
        return {"model": config.model, "data": config.eval_data} | used_settings(
            self._benchmark,
            processor=self._processor,
            template=self._template,
            prompt_length=config.max_prompt_length,
            completion_length=config.max_completion_length,
            parameters=self._greedy,
        )

    def done(self, index: int) -> bool:
        """Whether this step was evaluated before the run was interrupted."""
        return tell_all(self._path(index).exists())[0]

    def measured(self, index: int) -> dict[str, Any]:
        """The figures of a step that was evaluated; for the first process."""
        content: dict[str, Any] = json.loads(self._path(index).read_text())
        return content

    def before_and_after(self, last: int) -> dict[str, Any]:
        """Held-out accuracy and mean length at step 0 and at the end."""
        read = [self.measured(step) for step in (0, last)] if is_first() else []
        before, after = tell_all(read)[0]
        return {
            "accuracy_before": before["accuracy"],
            "accuracy_after": after["accuracy"],
            "accuracy_lenient_before": before["accuracy_lenient"],
            "accuracy_lenient_after": after["accuracy_lenient"],
            "mean_length_before": before["mean_length"],
            "mean_length_after": after["mean_length"],
            "eval_items": after["n"],
            "eval_rejected": after["rejected"],
        }

    def _path(self, index: int) -> Path:
        return self._folder / "eval" / f"{self._benchmark.name}-{index}.json"


def _eval_processor(setup: Setup) -> Processor:
    config = setup.config
    if config.eval_max_pixels is None:
        return setup.processor
    return Processor.from_folder(
        setup.folder, min_pixels=config.min_pixels, max_pixels=config.eval_max_pixels
    )
