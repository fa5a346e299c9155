"""What the columns of a known data set mean: one stored row -> Example. Knows no file formats.

Columns as published: SAT (array/SAT), CV-Bench (nyu-visionx/CV-Bench), BLINK (BLINK-Benchmark/BLINK), the
`problem`/`solution` pairs of R1-V and open-r1-multimodal (CLEVR, GeoQA), R1-V's test files; a person's own.
Geo170K, GSM8K and MATH have columns that others have too: a data set's name alone chooses those schemas.
"""

import math
import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vtzero.data.example import Example, ImageSource
from vtzero.data.image_paths import ImageFolders
from vtzero.data.rows import Row, RowError
from vtzero.terminal import short_line


@dataclass(frozen=True)
class Place:
    """Where a row stands: its label, number and image folders, and the seed that shuffles its options."""

    id: str
    index: int
    folders: ImageFolders
    seed: int


@dataclass(frozen=True)
class Schema:
    """A set of columns, and how a row of them becomes an Example (raising RowError when it cannot).

    `images` are the columns that hold images and `task` the one that holds the kind of question; a file may
    lack them.
    """

    name: str
    required: tuple[str, ...]
    read: Callable[[Row, Place], Example]
    images: tuple[str, ...] = ("image", "images")
    task: str = "task"


def recognise(columns: Collection[str], where: str) -> Schema:
    """The first schema whose columns are all there; if none, ValueError naming found and expected columns."""
    for schema in SCHEMAS:
        if set(schema.required) <= set(columns):
            _check_own(schema, columns, where)
            return schema
    expected = "; ".join(f"{schema.name}: {', '.join(schema.required)}" for schema in SCHEMAS)
    raise ValueError(f"{where}: its columns are {_listed(columns)}, but one of these is expected: {expected}")


def named_schema(schemas: Sequence[Schema], columns: Collection[str], where: str, name: str) -> Schema:
    """The first of a named data set's schemas whose columns are all there.

    Raises ValueError naming the file, the columns that the nearest schema misses, and those found.
    """
    missing = [[column for column in schema.required if column not in columns] for schema in schemas]
    nearest = min(range(len(schemas)), key=lambda number: len(missing[number]))
    if not missing[nearest]:
        return schemas[nearest]
    plural = "s" if len(missing[nearest]) > 1 else ""
    raise ValueError(
        f"{where}: it lacks the column{plural} {', '.join(missing[nearest])} that {name} has "
        f"(its columns are {_listed(columns)})"
    )


def _check_own(schema: Schema, columns: Collection[str], where: str) -> None:
    """A misspelt image column must not pass for a question without images, nor one of two be overlooked."""
    present = {"image", "images"} & set(columns)
    if schema is not OWN or len(present) == 1:
        return
    if present:
        raise ValueError(f"{where}: it has a column image and a column images; keep one of them")
    unknown = set(columns) - {"id", "question", "answer", "options", "task"}
    if unknown:
        raise ValueError(
            f"{where}: there is no column image or images, but {_listed(unknown)}; "
            f"rename the images' column, or drop what is not used (its columns are {_listed(columns)})"
        )


def _read_own(row: Row, place: Place) -> Example:
    options = tuple(_texts(row, "options")) if row.get("options") is not None else ()
    answer = _text(row, "answer").strip()
    if re.search(r"^#### ", answer, re.MULTILINE):
        raise RowError("the answer ends like GSM8K's in '####'; name the file as gsm8k=FILE")
    return Example(
        id=_optional(row, "id") or place.id,
        question=_text(row, "question"),
        answer=_among(answer, options),
        images=_own_images(row, place.folders),
        options=options,
        task=_optional(row, "task"),
        columns=_rest(row),
    )


def _read_sat(row: Row, place: Place) -> Example:
    answers = _texts(row, "answers")
    order = np.random.default_rng([place.seed, place.index]).permutation(len(answers))
    options = tuple(answers[i] for i in order)
    return Example(
        id=place.id,
        question=_text(row, "question"),
        answer=_among(_text(row, "correct_answer").strip(), options),
        images=_images(row, "image_bytes", place.folders),
        options=options,
        task=_optional(row, "question_type"),
        columns=_rest(row),
    )


def _read_cv_bench(row: Row, place: Place) -> Example:
    return _lettered(row, place, ("image",), task=_optional(row, "task"))


_BLINK_IMAGES = ("image_1", "image_2", "image_3", "image_4")


def _read_blink(row: Row, place: Place) -> Example:
    names = [name for name in _BLINK_IMAGES if row.get(name) is not None]
    return _lettered(row, place, tuple(names), task=_optional(row, "sub_task"))


def _lettered(row: Row, place: Place, image_names: tuple[str, ...], *, task: str) -> Example:
    choices = tuple(_texts(row, "choices"))
    return Example(
        id=_optional(row, "idx") or place.id,
        question=_text(row, "question"),
        answer=_choice(_text(row, "answer"), choices),
        images=tuple(_image(row.get(name), name, place.folders) for name in image_names),
        options=choices,
        task=task,
        columns=_rest(row),
    )


def _read_problem(row: Row, place: Place) -> Example:
    solution = _text(row, "solution")
    inside, closed, _ = solution.partition("<answer>")[2].partition("</answer>")
    answer = (inside if closed else solution).strip()
    if not answer:
        raise RowError("solution holds no answer")
    return Example(
        place.id, _text(row, "problem"), answer, _own_images(row, place.folders), columns=_rest(row)
    )


def _read_test_file(row: Row, place: Place) -> Example:
    return Example(
        id=place.id,
        question=_text(row, "question"),
        answer=_text(row, "ground_truth").strip(),
        images=(_image(row.get("image_path"), "image_path", place.folders),),
        columns=_rest(row),
    )


def _read_geo170k(row: Row, place: Place) -> Example:
    """Geo170K's questions as R1-Multimodal-Journey has them: the answer is the letter of "Answer: B"."""
    return _geometry(row, place, _text(row, "question"), _text(row, "answer"))


def _read_geo170k_conversation(row: Row, place: Place) -> Example:
    """LLaVA's layout: `conversations` of {"from", "value"}; of several questions the first is asked."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or len(turns) < 2 or not all(isinstance(turn, dict) for turn in turns[:2]):
        raise RowError("conversations holds no question with its answer")
    question, answer = (_text(turn, "value") for turn in turns[:2])
    return _geometry(row, place, question.replace("<image>", "").strip(), answer)


def _geometry(row: Row, place: Place, question: str, explained: str) -> Example:
    found = re.search(_GEO170K_ANSWER, explained)
    if found is None:
        raise RowError("the answer has no letter after 'Answer:'")
    # As R1-Multimodal-Journey's gen_dataset.py builds it.
    thought = re.sub(_GEO170K_ANSWER, "", explained).strip()
    solution = f"<think>{thought}</think> <answer>{found.group(1)}</answer>"
    return Example(
        id=place.id,
        question=question,
        answer=found.group(1),
        images=(_image(row.get("image"), "image", place.folders),),
        columns=_rest(row) | {"solution": solution},
    )


_GEO170K_ANSWER = r"Answer:\s*([A-Z])"


def _read_gsm8k(row: Row, place: Place) -> Example:
    """The number after "####", without the commas between thousands; `solution` keeps the whole answer."""
    explained = _text(row, "answer")
    _, marked, answer = explained.rpartition("####")
    if not marked or not answer.strip():
        raise RowError("the answer has no number after '####'")
    columns = _rest(row) | {"solution": explained}
    return Example(place.id, _text(row, "question"), answer.strip().replace(",", ""), columns=columns)


def _read_math(row: Row, place: Place) -> Example:
    """MATH: what stands in the last box of `solution`, or the column `answer` where there is one."""
    stated = row.get("answer") is not None
    answer = _text(row, "answer").strip() if stated else last_boxed(_text(row, "solution"))
    if not answer:
        raise RowError("solution holds no \\boxed{answer}")
    task = _optional(row, "type") or _optional(row, "subject")
    return Example(place.id, _text(row, "problem"), answer, task=task, columns=_rest(row))


def last_boxed(solution: str) -> str:
    r"""The contents of the last `\boxed{...}` or `\fbox{...}`, braces within it balanced; else ""."""
    opened = [match.end() for match in re.finditer(r"\\(?:boxed|fbox)\s*\{", solution)]
    if not opened:
        return ""
    depth = 1
    for place in range(opened[-1], len(solution)):
        depth += {"{": 1, "}": -1}.get(solution[place], 0)
        if depth == 0:
            return solution[opened[-1] : place].strip()
    return ""


OWN = Schema("your own data", ("question", "answer"), _read_own)
SAT = Schema(
    "SAT",
    ("image_bytes", "question", "answers", "correct_answer"),
    _read_sat,
    ("image_bytes",),
    "question_type",
)
GEO170K = Schema("Geo170K", ("image", "question", "answer"), _read_geo170k)
GEO170K_CONVERSATIONS = Schema("Geo170K", ("image", "conversations"), _read_geo170k_conversation)
GSM8K = Schema("GSM8K", ("question", "answer"), _read_gsm8k, images=())
MATH = Schema("MATH", ("problem", "solution"), _read_math, images=(), task="type")
MATH_ANSWERS = Schema("MATH", ("problem", "answer"), _read_math, images=(), task="type")
R1_V = Schema("R1-V", ("image", "problem", "solution"), _read_problem)
SCHEMAS = (
    SAT,
    Schema("CV-Bench", ("image", "question", "choices", "answer"), _read_cv_bench),
    Schema("BLINK", ("image_1", "question", "choices", "answer"), _read_blink, _BLINK_IMAGES, "sub_task"),
    R1_V,
    Schema("R1-V tests", ("image_path", "question", "ground_truth"), _read_test_file, ("image_path",)),
    OWN,
)


def _text(row: Row, name: str) -> str:
    return _as_text(row.get(name), name)


def _optional(row: Row, name: str) -> str:
    """As `_text`, "" where there is none; it names things in messages and tables, so it is one line."""
    value = row.get(name)
    nothing = value is None or value != value or (isinstance(value, str) and not value.strip())
    return "" if nothing else short_line(_text(row, name))


def _texts(row: Row, name: str) -> list[str]:
    values = row.get(name)
    if not isinstance(values, list):
        raise RowError(f"{name} is not a list")
    return [_as_text(value, name).strip() for value in values]


def _as_text(value: Any, name: str) -> str:
    if value is None or value != value:
        raise RowError(f"{name} is missing")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RowError(f"{name} is neither text nor a number, but {_kind(value)}")
    text = _number(value, name) if isinstance(value, float) else str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError(f"{name} holds half of a surrogate pair, which is no character") from error
    if not _shows(text):
        raise RowError(f"{name} is missing")
    return text


def _shows(text: str) -> bool:
    """Whether there is more in it than white space and what has no shape."""
    return any(letter.isprintable() and not letter.isspace() for letter in text)


def _number(value: float, name: str) -> str:
    """A whole number without a fraction: a column of whole numbers with a gap is stored as fractions."""
    if not math.isfinite(value):
        raise RowError(f"{name} is not a finite number")
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else str(value)


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", dict: "an object", list: "a list", bytes: "bytes"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _among(answer: str, options: tuple[str, ...]) -> str:
    if options and answer not in options:
        raise RowError(f"the answer {answer!r} is not among the options {list(options)}")
    return answer


def _choice(answer: str, choices: tuple[str, ...]) -> str:
    letter = re.fullmatch(r"\(?([A-Z])\)?", answer.strip())
    if letter is None:
        raise RowError(f"the answer {answer!r} is not a letter such as (A)")
    number = ord(letter.group(1)) - ord("A")
    if number >= len(choices):
        raise RowError(f"the answer {answer!r} is beyond the {len(choices)} choices")
    return choices[number]


def _own_images(row: Row, folders: ImageFolders) -> tuple[ImageSource, ...]:
    if "images" in row:
        return _images(row, "images", folders)
    return (_image(row["image"], "image", folders),) if "image" in row else ()


def _images(row: Row, name: str, folders: ImageFolders) -> tuple[ImageSource, ...]:
    values = row.get(name)
    if not isinstance(values, list):
        raise RowError(f"{name} is not a list")
    return tuple(_image(value, name, folders) for value in values)


def _image(value: Any, name: str, folders: ImageFolders) -> ImageSource:
    """Bytes, a path, or Hugging Face's {"bytes", "path"}, in which either may be missing."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if not value:
        raise RowError(f"{name} is missing")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise RowError(f"{name} is neither a path nor the bytes of an image")
    path = folders.own / value
    if not os.path.isfile(path):
        raise RowError(f"{name}: there is no file {path}")
    if not folders.may_hold(path):
        raise RowError(f"{name}: {path} lies {folders.way_in()}")
    return path


def _rest(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not re.fullmatch(r"images?(_bytes|_\d+)?", name)}


def _listed(columns: Collection[str]) -> str:
    return short_line(", ".join(sorted(columns)) or "none")
