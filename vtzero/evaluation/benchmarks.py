"""Benchmarks by name or by file: what is asked, in which words, what answers it, and who scores it.

Knows no model. Names and splits are those of the paper's evaluation and of R1-V's; see `BENCHMARKS`.
"""

import glob
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vtzero.data.benchmark_schemas import AIME24, VSR, coco_image
from vtzero.data.example import Example, Rejected
from vtzero.data.hub import HubSet, hub_file
from vtzero.data.image_links import fetched_image, link_folder
from vtzero.data.image_paths import ImageFolders
from vtzero.data.rows import Row, RowError, Rows, open_rows
from vtzero.data.schemas import GSM8K, SCHEMAS, Place, Schema
from vtzero.data.sources import Source, open_source
from vtzero.evaluation.extraction import resolve_choice
from vtzero.evaluation.items import BenchmarkItem
from vtzero.evaluation.scorers import gold_index
from vtzero.evaluation.verdicts import Scoring

SCENES = "scenes"

_R1V_FILES = "src/eval/prompts of github.com/Deep-Agent/R1-V"
_KNOWN = {schema.name: schema for schema in SCHEMAS}


def _one_image(row: Row) -> bool:
    """The paper's evaluation leaves out BLINK's questions about several images."""
    return row.get("image_2") is None


@dataclass(frozen=True)
class Definition:
    """A benchmark by name.

    Attributes:
        schema: how a row is read; `columns` must be there beside those that it requires.
        hub: where it is published; empty where it is not on the hub, then `found` says where its file is.
        images: the most images that an item shows.
        scoring: the scorers of its outputs.
        keep: which rows belong to it.
        image_files: the rows name files, which `image_folder` holds.
        image_links: the rows hold links that images can be fetched from, in a column `image_link`.
    """

    schema: Schema
    columns: tuple[str, ...] = ()
    hub: tuple[HubSet, ...] = ()
    found: str = ""
    images: int = 1
    scoring: Scoring = "choices"
    keep: Callable[[Row], bool] | None = None
    image_files: bool = False
    image_links: bool = False


def _cv_bench(config: str) -> Definition:
    return Definition(
        _KNOWN["CV-Bench"],
        columns=("task", "source", "prompt"),
        hub=(HubSet("nyu-visionx/CV-Bench", config, "test"),),
        scoring="paper_choices",
    )


BENCHMARKS: dict[str, Definition] = {
    "cv_bench": _cv_bench("default"),
    "cv_bench_2d": _cv_bench("2D"),
    "cv_bench_3d": _cv_bench("3D"),
    "blink": Definition(
        _KNOWN["BLINK"],
        columns=("sub_task", "image_2", "prompt"),
        hub=tuple(
            HubSet("BLINK-Benchmark/BLINK", config, "val")
            for config in ("Relative_Depth", "Spatial_Relation")
        ),
        scoring="paper_choices",
        keep=_one_image,
    ),
    "vsr": Definition(
        VSR,
        columns=("relation", "image_link"),
        hub=(HubSet("cambridgeltl/vsr_random", None, "test"),),
        scoring="paper_choices",
        image_files=True,
        image_links=True,
    ),
    "superclevr": Definition(
        _KNOWN["R1-V tests"],
        found=f"superclevr_test200_counting_problems.jsonl, {_R1V_FILES}",
        scoring="superclevr",
        image_files=True,
    ),
    "geoqa": Definition(
        _KNOWN["R1-V tests"],
        found=f"geoqa_test_prompts.jsonl, {_R1V_FILES}",
        scoring="geoqa",
        image_files=True,
    ),
    "gsm8k": Definition(GSM8K, hub=(HubSet("openai/gsm8k", "main", "test"),), images=0, scoring="math"),
    "aime24": Definition(
        AIME24, hub=(HubSet("HuggingFaceH4/aime_2024", "default", "train"),), images=0, scoring="math"
    ),
}
"""The benchmarks known by name, beside `scenes`, whose held-out items are drawn."""


@dataclass(frozen=True)
class Benchmark:
    """A named, finite list of questions; a row that could not be read is `Rejected` in its place.

    `images` is the most that an item shows, `scoring` names the scorers of its outputs.
    """

    name: str
    examples: Source
    images: int = 1
    scoring: Scoring = "choices"


def open_benchmark(
    spec: str | Path,
    *,
    limit: int | None = None,
    image_folder: Path | None = None,
    fetch_images: bool = False,
    image_folders: Sequence[Path] = (),
) -> Benchmark:
    """Open a benchmark: NAME from the hub, NAME=FILE from a file of that benchmark's columns, or FILE.

    A FILE ends in .jsonl or .parquet and may be several (`test-*.parquet`); alone, it may have any columns
    that `open_source` knows, and its stem is the benchmark's name. `limit` keeps the first items only.
    `image_folder` holds the images that a benchmark's rows name (else the folder of its file), and with
    `fetch_images` those that are not there are fetched from their links. Rows of a FILE alone may name images
    in its folder, in `image_folder` and in `image_folders`.

    Raises ValueError for an unknown name, columns that are missing or unknown or an empty file,
    FileNotFoundError for a file, folder or hub that is not there.
    """
    name, equals, path = str(spec).partition("=")
    if name in BENCHMARKS:
        images = _Images(BENCHMARKS[name], name, image_folder, fetch_images)
        return _open_named(name, path if equals else None, limit, images)
    text = str(spec)
    if fetch_images or (text == SCENES and image_folder is not None):
        raise ValueError(f"{spec}: --image-folder and --fetch-images are for {', '.join(_with_files())}")
    if text == SCENES:
        return Benchmark(text, open_source(text, split="test", limit=limit))
    check_benchmark(text)
    further = (image_folder,) if image_folder is not None else ()
    _check_folder(image_folder)
    examples = open_source(text, limit=limit, image_folders=(*image_folders, *further))
    return Benchmark(_file_name(text), examples, most_images(examples))


def check_benchmark(spec: str) -> None:
    """Raise ValueError where `open_benchmark` would for the name alone; nothing is opened or fetched."""
    name, equals, _ = spec.partition("=")
    is_file = spec.endswith((".jsonl", ".parquet")) and not (equals and name.isidentifier())
    if spec != SCENES and name not in BENCHMARKS and not is_file:
        raise ValueError(
            f"unknown benchmark {spec!r}; give {', '.join((SCENES, *BENCHMARKS))}, NAME=FILE for a local "
            "file of one of these, or the path of a .jsonl or .parquet file"
        )


def check_openable(
    spec: str,
    *,
    limit: int | None = None,
    image_folder: Path | None = None,
    image_folders: Sequence[Path] = (),
) -> None:
    """Raise as `open_benchmark` would, but for files of a named benchmark that are yet to be fetched."""
    name, equals, path = spec.partition("=")
    if name not in BENCHMARKS:
        open_benchmark(spec, limit=limit, image_folder=image_folder, image_folders=image_folders)
    elif image_folder is not None and not image_folder.exists():
        return
    elif not equals:
        _check_published(name, _Images(BENCHMARKS[name], name, image_folder, False))
    elif glob.glob(path):
        open_benchmark(spec, limit=limit, image_folder=image_folder)


def most_images(examples: Source) -> int:
    """The most images that an item shows; every row is read, and no image decoded."""
    rows = (examples[index] for index in range(len(examples)))
    return max((len(row.images) for row in rows if isinstance(row, Example)), default=0)


def benchmark_item(example: Example) -> BenchmarkItem:
    """What the scorers need of an example; without options it is an open question.

    The answer is the text of a choice, or its letter where scorers would read that text as another choice's
    letter (the choices "(B)" and "(A)").

    Raises ValueError when the answer names no choice.
    """
    item = BenchmarkItem(example.id, example.task, example.question, example.options, example.answer)
    if not example.options:
        return item
    if example.answer in example.options:
        index = example.options.index(example.answer)
        if resolve_choice(example.answer, example.options) != index:
            item = replace(item, answer=f"({chr(ord('A') + index)})")
    gold_index(item)
    return item


def as_asked(example: Example) -> Example:
    """The example in the words that its benchmark publishes, if any, with the choices inside them.

    CV-Bench and BLINK carry the whole question, lettered choices included, in a column `prompt`, and the
    paper's evaluation asks exactly that; VSR's is worded there. Source: turningpoint-ai/VisualThinker-R1-Zero
    and its development fork, `src/eval`.
    """
    prompt = example.columns.get("prompt")
    if not example.options or "choices" not in example.columns or not isinstance(prompt, str):
        return example
    return replace(example, question=prompt, options=())


@dataclass(frozen=True)
class _Images:
    """Where the images of a benchmark's rows are looked for."""

    definition: Definition
    name: str
    folder: Path | None
    fetch: bool

    def __post_init__(self) -> None:
        if self.folder is not None and not self.definition.image_files:
            raise ValueError(f"{self.name} holds its images; leave out --image-folder")
        _check_folder(self.folder)
        if self.fetch and not self.definition.image_links:
            raise ValueError(f"{self.name} has no links to its images; leave out --fetch-images")

    def check_findable(self) -> None:
        """For files without a folder of their own, as the hub's."""
        if self.definition.image_files and self.folder is None and not self.fetch:
            raise ValueError(f"{self.name} names images that it does not hold; {_way_to_images(self.name)}")


def _check_folder(image_folder: Path | None) -> None:
    if image_folder is not None and not image_folder.is_dir():
        raise FileNotFoundError(f"--image-folder {image_folder}: no such folder")


def _open_named(name: str, path: str | None, limit: int | None, images: _Images) -> Benchmark:
    definition = BENCHMARKS[name]
    if path is None:
        _check_published(name, images)
        files = [hub_file(hub, None if definition.keep else limit) for hub in definition.hub]
    else:
        files = _matching(path)
    rows = [_checked(open_rows(file), name, definition) for file in files]
    return Benchmark(name, NamedRows(name, rows, images, limit), definition.images, definition.scoring)


def _check_published(name: str, images: _Images) -> None:
    definition = images.definition
    if not definition.hub:
        raise ValueError(f"{name} is not on the hub; give its file, {name}=FILE.jsonl ({definition.found})")
    images.check_findable()


class NamedRows:
    """The rows of a named benchmark, of one file or several, that belong to it."""

    def __init__(self, name: str, files: Sequence[Rows], images: _Images, limit: int | None):
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        self._name, self._files, self._images = name, files, images
        self._definition = images.definition
        self._places = self._kept()[:limit]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int, /) -> Example | Rejected:
        index = range(len(self))[index]
        number, row = self._places[index]
        rows = self._files[number]
        folder = self._images.folder or rows.path.parent
        place = Place(f"{self._name}-{index}", index, ImageFolders(folder), 0)
        try:
            return self._definition.schema.read(self._with_image(rows.read(row), folder), place)
        except RowError as error:
            return Rejected(place.id, f"{rows.label(row)}: {error}")

    def __repr__(self) -> str:
        return self._name

    def _kept(self) -> list[tuple[int, int]]:
        """(file, row) of each item; a row that cannot be read stays, and is rejected when it is asked for."""
        every = [(number, row) for number, rows in enumerate(self._files) for row in range(len(rows))]
        return [place for place in every if self._belongs(*place)] if self._definition.keep else every

    def _belongs(self, number: int, row: int) -> bool:
        assert self._definition.keep is not None
        try:
            return self._definition.keep(self._files[number].read(row))
        except RowError:
            return True

    def _with_image(self, row: Row, folder: Path) -> Row:
        """The row, its image fetched where that was asked for and no local folder has it."""
        if not self._images.fetch or coco_image(str(row.get("image")), folder) is not None:
            return row
        return {**row, "image": str(fetched_image(str(row.get("image_link")), link_folder()).absolute())}


def _checked(rows: Rows, name: str, definition: Definition) -> Rows:
    expected = (*definition.schema.required, *definition.columns)
    missing = [column for column in expected if column not in rows.columns]
    if missing:
        raise ValueError(
            f"{rows.path}: there is no column {', '.join(missing)}, which {name} has "
            f"(its columns are {', '.join(rows.columns) or 'none'})"
        )
    return rows


def _matching(path: str) -> list[Path]:
    found = sorted(glob.glob(path)) if glob.has_magic(path) and not Path(path).exists() else [path]
    if not found:
        raise FileNotFoundError(f"{path}: no file matches")
    return [Path(file) for file in found]


def _with_files() -> list[str]:
    return [name for name, definition in BENCHMARKS.items() if definition.image_files]


def _way_to_images(name: str) -> str:
    ways = ["give their folder (--image-folder DIR)"]
    if BENCHMARKS[name].image_links:
        ways.append("have them fetched (--fetch-images)")
    return " or ".join(ways)


def _file_name(path: str) -> str:
    """The stem as part of a file name: without the characters of a pattern."""
    return re.sub(r"[^\w.-]+", "", Path(path).stem).strip("-.") or "benchmark"
