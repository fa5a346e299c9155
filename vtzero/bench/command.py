"""The verb: ceilings, the phases of a config, comparisons; prints tables and returns all figures."""

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from vtzero.bench.choices import compare_filters, compare_short
from vtzero.bench.comparisons import Difference, compare, known_comparisons
from vtzero.bench.grouped import REFERENCE, GroupedCase, compare_grouped
from vtzero.bench.growth import LENGTHS, measure_growth
from vtzero.bench.phases import PHASES, Phase, measure_phases
from vtzero.bench.programs import Programs
from vtzero.bench.shapes import config_shapes
from vtzero.bench.table import (
    ceiling_figures,
    ceiling_table,
    difference_figures,
    difference_table,
    grouped_figures,
    grouped_table,
    growth_figures,
    growth_table,
    phase_figures,
    phase_table,
)
from vtzero.config import ConfigError, RunConfig
from vtzero.data.processor import Processor
from vtzero.models.qwen2_vl.config import PUBLISHED
from vtzero.models.qwen2_vl.costs import parameters
from vtzero.ranges import shown
from vtzero.training.ceilings import Limits, Measured, measure, published
from vtzero.training.outline import compute_dtype, remat_of
from vtzero.training.recipe import model_config
from vtzero.training.setup import BLANK, model_folder

GROUPED, GROWTH, SHORT, FILTERS = "grouped", "growth", "short", "filters"


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """What to measure: a published `size` in the place of the config's model, shapes, phases, comparisons.

    `only` and `compare` are names, or `all` or `none`; `lengths` are those of the comparison `growth`.
    Raises ValueError for a name or number that is none of them.
    """

    size: str | None = None
    prompt_length: int | None = None
    image_size: tuple[int, int] | None = None
    only: tuple[str, ...] = ("all",)
    compare: tuple[str, ...] = ("none",)
    repeats: int = 3
    lengths: tuple[int, ...] = LENGTHS

    def __post_init__(self) -> None:
        if self.size is not None and self.size not in PUBLISHED:
            raise ValueError(f"--size is {self.size!r}; the published sizes are {', '.join(PUBLISHED)}")
        if self.repeats < 1:
            raise ValueError(f"--repeats is {self.repeats}; it must be at least 1")
        if not self.lengths or min(self.lengths) < 2:
            raise ValueError(f"--lengths is {self.lengths}; each must be at least 2")
        _ = self.phases, self.comparisons

    def check_alone(self) -> None:
        """Raise ValueError where something is asked that needs a config, and there is none."""
        asked = replace(self, repeats=BenchSettings.repeats)
        if asked != BenchSettings():
            raise ValueError("without a config only the machine's ceilings are measured; name a config first")

    @property
    def phases(self) -> tuple[str, ...]:
        return _names("--only", self.only, PHASES)

    @property
    def comparisons(self) -> tuple[str, ...]:
        known = (GROUPED, GROWTH, SHORT, FILTERS, *(comparison.name for comparison in known_comparisons()))
        return _names("--compare", self.compare, known)


def _names(flag: str, asked: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    if list(asked) == ["all"]:
        return tuple(known)
    if list(asked) == ["none"]:
        return ()
    if unknown := [name for name in asked if name not in known]:
        raise ValueError(f"{flag} names {unknown[0]!r}; it takes all, none, or of {', '.join(known)}")
    return tuple(name for name in known if name in asked)


_MOST_SIDE, _MOST_LENGTH = 2**15, 2**20


def parse_image_size(text: str) -> tuple[int, int]:
    """(width, height) of "640x480"; one number is a square's side. Raises ValueError for anything else."""
    sides = [_whole(side, _MOST_SIDE) for side in text.lower().split("x")]
    if len(sides) > 2 or (first := sides[0]) is None or (last := sides[-1]) is None:
        raise ValueError(
            f"--image-size is {shown(text)}; give pixels as WIDTHxHEIGHT, at most {_MOST_SIDE} each"
        )
    return first, last


def parse_lengths(text: str) -> tuple[int, ...]:
    """Numbers with commas between; raises ValueError for anything else."""
    lengths = [_whole(part, _MOST_LENGTH) for part in text.split(",")]
    if None in lengths:
        raise ValueError(f"--lengths is {shown(text)}; give numbers of tokens, commas between")
    return tuple(length for length in lengths if length is not None)


def _whole(text: str, most: int) -> int | None:
    """The whole number from 1 to `most` that a text is; None for any other."""
    text = text.strip()
    number = int(text) if text.isdecimal() and len(text) < 20 else 0
    return number if 1 <= number <= most else None


def bench(config: RunConfig | None, settings: BenchSettings) -> dict[str, Any]:
    """Measure, print, and return every figure in JSON's types; without a config the ceilings alone.

    Raises ConfigError for a config that has no groups, or shapes that do not fit.
    """
    if config is None:
        settings.check_alone()
    dtype = compute_dtype("auto" if config is None else config.dtype)
    run = None if config is None else _Bench(config, settings)
    device = jax.devices()[0]
    print_line(f"measuring what {device.device_kind} can do in {dtype}")
    measured, peak = measure(dtype, repeats=settings.repeats), published(device.device_kind, dtype)
    show(ceiling_table(measured, peak))
    figures = {
        "device": {
            "kind": device.device_kind,
            "platform": device.platform,
            "count": jax.device_count(),
            "jax": jax.__version__,
        },
        "dtype": str(dtype),
        "ceilings": ceiling_figures(measured, peak),
    }
    return figures if run is None else figures | run(measured, peak)


class _Bench:
    """One config at one set of shapes."""

    def __init__(self, config: RunConfig, settings: BenchSettings):
        if config.method != "grpo":
            raise ConfigError(f"method is {config.method!r}; the bench measures the steps of grpo")
        self._settings = settings
        self._model = PUBLISHED[settings.size] if settings.size else model_config(config)
        self._shapes = config_shapes(
            config,
            self._model,
            most_patches=None if settings.size else _most_patches(config),
            prompt_length=settings.prompt_length,
            image_size=settings.image_size,
        )
        self._config = replace(config, max_prompt_length=self._shapes.prompt)

    def __call__(self, measured: Measured, peak: Limits | None) -> dict[str, Any]:
        shapes = self._shapes
        print_line(
            f"{self._settings.size or self._config.model}: {shapes.batch} prompts of {shapes.prompt} tokens "
            f"with {shapes.patches} patches, {shapes.group} answers of {shapes.completion} tokens each"
        )
        return {
            "model": self._settings.size or self._config.model,
            "parameters": sum(parameters(self._model).values()),
            "shapes": asdict(shapes) | {"patches": shapes.patches},
            "mesh": asdict(self._config.mesh),
            **self._phases(measured.limits, peak),
            **self._comparisons(measured.limits),
        }

    def _phases(self, limits: Limits, peak: Limits | None) -> dict[str, Any]:
        if not self._settings.phases:
            return {"phases": {}, "memory": None}
        phases = self._measure(self._config, self._settings.phases)
        rows = [phase_figures(phase, limits, peak, jax.device_count()) for phase in phases.values()]
        show(phase_table(rows))
        memory = peak_memory(phases.values())
        print_line(f"peak memory: {memory['bytes'] / 2**20:,.0f} MiB a device, from {memory['source']}")
        return {"phases": {row["name"]: row for row in rows}, "memory": memory}

    def _measure(self, config: RunConfig, names: Collection[str]) -> dict[str, Phase]:
        programs = Programs(config, self._model, self._shapes)
        phases = {}
        with jax.set_mesh(programs.mesh):
            for phase in measure_phases(programs, names, self._settings.repeats):
                print_line(f"{phase.name}: compiled in {phase.compile_seconds:.1f} s")
                phases[phase.name] = phase
        return phases

    def _comparisons(self, limits: Limits) -> dict[str, Any]:
        names, repeats = self._settings.comparisons, self._settings.repeats
        figures: dict[str, Any] = {}
        if GROUPED in names:
            figures[GROUPED] = self._grouped(repeats)
        if GROWTH in names:
            figures[GROWTH] = self._growth(limits, repeats)
        differences = []
        for difference in chain(self._choices(names, repeats), compare(names, self._config, self._measure)):
            print_line(f"{difference.comparison}: {difference.value}, {difference.phase}")
            differences.append(difference)
        if differences:
            show(difference_table(differences))
        return figures | {"comparisons": [difference_figures(row) for row in differences]}

    def _choices(self, names: Collection[str], repeats: int) -> Iterator[Difference]:
        if FILTERS in names:
            rows = self._shapes.batch * self._shapes.group
            yield from compare_filters(rows, self._model.text.vocab_size, repeats)
        if SHORT in names:
            programs = Programs(self._config, self._model, self._shapes)
            with jax.set_mesh(programs.mesh):
                yield from compare_short(programs, repeats)

    def _grouped(self, repeats: int) -> list[dict[str, Any]]:
        """The reference case, then the config's own model and shapes."""
        shapes = self._shapes
        own = GroupedCase(
            name="this config",
            model=self._model,
            batch=shapes.batch,
            prompt=shapes.prompt,
            group=shapes.group,
            completion=shapes.completion,
            patches=shapes.patches,
            dtype=compute_dtype(self._config.dtype),
            remat=remat_of(self._config),
        )
        rows = [row for case in (REFERENCE, own) for row in compare_grouped(case, repeats)]
        show(grouped_table(rows))
        return [grouped_figures(row) for row in rows]

    def _growth(self, limits: Limits, repeats: int) -> list[dict[str, Any]]:
        programs = Programs(self._config, self._model, self._shapes)
        with jax.set_mesh(programs.mesh):
            rows = measure_growth(programs, limits, self._settings.lengths, repeats)
        show(growth_table(rows))
        return [growth_figures(row) for row in rows]


def _most_patches(config: RunConfig) -> int | None:
    """Of one image under the limits of config and model folder; None while there is no such folder."""
    try:
        folder = model_folder("tiny" if config.model == BLANK else config.model)
    except FileNotFoundError:
        return None
    return Processor.from_folder(folder, max_pixels=config.max_pixels).max_patches()


def peak_memory(phases: Iterable[Phase]) -> dict[str, Any]:
    """The most bytes in use on one device, and who counted: the device, or else the compiler."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return {"bytes": int(stats["peak_bytes_in_use"]), "source": "the device's own count"}
    largest = max((phase.memory or 0 for phase in phases), default=0)
    return {"bytes": largest, "source": "the compiler's count of the largest program"}


def print_line(text: str) -> None:
    """What is being done: beside the results, not among them."""
    print(text, file=sys.stderr, flush=True)


def show(table: Table) -> None:
    """Wide enough to be read in a file too."""
    console = Console()
    (console if console.is_terminal else Console(width=150)).print(table)
