"""One HTML page that shows runs, written to a file piece by piece. Knows no run folder.

The page asks for nothing outside itself. Its scripts and styles are those of `assets/report`, and its
Content-Security-Policy lets nothing else run, so that text of models and data can only be text.
"""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TextIO

from vtzero.training.told import finite
from vtzero.whole_files import written_whole

SCRIPTS = (
    "dom.js",
    "numbers.js",
    "scales.js",
    "charts.js",
    "bars.js",
    "runs.js",
    "summary.js",
    "results.js",
    "curves.js",
    "recipe.js",
    "chunks.js",
    "selection.js",
    "filters.js",
    "texts.js",
    "group.js",
    "completions.js",
    "page.js",
)
"""In the order in which the page reads them: each uses those before it."""

_ASSETS = files("vtzero") / "assets" / "report"
_NAME = re.compile(r"i\d+|m\d+-\d+|r\d+-s\d+")
_IMAGE = re.compile(r"image/[a-z0-9.+-]+")
_PIECE = 3 * 2**16  # bytes; a multiple of 3, so that the pieces' base64 can be joined


@dataclass(frozen=True)
class Chunk:
    """A part of the page that is decoded only when it is shown.

    `name` is `iRUN` (a run's index), `rRUN-sSTEP` (a step's groups) or `mRUN-NUMBER` (a picture). `data` is
    embedded as it is: a gzip stream of JSON where `gzip` is true (`packed` makes one), else a file of type
    `mime`.
    """

    name: str
    data: bytes
    gzip: bool
    mime: str | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name of a chunk; they are i0, r0-s10 and m0-0")
        if self.mime is not None and not _IMAGE.fullmatch(self.mime):
            raise ValueError(f"chunk {self.name}: {self.mime!r} is no type of an image")


def packed(name: str, value: Any) -> Chunk:
    """A chunk of JSON, compressed; the same value gives the same bytes."""
    return Chunk(name, gzip.compress(_json(value).encode(), compresslevel=9, mtime=0), gzip=True)


def write_page(path: Path, payload: Mapping[str, Any], chunks: Iterable[Chunk]) -> None:
    """Write the page of a payload and its chunks, which are taken one at a time and not kept.

    The same payload and chunks give the same bytes. NaN and infinity are null in the page.

    Raises ValueError for a name that two chunks have; then no page is written, and an earlier one stays.
    """
    before, after = _frame(payload)
    with written_whole(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="\n") as file:
        file.write(before)
        names: set[str] = set()
        for chunk in chunks:
            if chunk.name in names:
                raise ValueError(f"two chunks have the name {chunk.name}")
            names.add(chunk.name)
            _write_chunk(file, chunk)
        file.write(after)


def _frame(payload: Mapping[str, Any]) -> tuple[str, str]:
    """What stands before the chunks and after them."""
    style = _asset("page.css")
    scripts = [_asset(name) for name in SCRIPTS]
    page = _asset("page.html")
    parts = {
        "policy": _policy(style, scripts),
        "style": f"<style>{style}</style>",
        # `<` would end the element or begin a comment; all beyond ASCII is escaped by `_json`.
        "payload": _json(payload).replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026"),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    # In one pass, so that a payload that says `{{scripts}}` is not filled in.
    page = re.sub(r"\{\{(policy|style|payload|scripts)\}\}", lambda match: parts[match[1]], page)
    before, _, after = page.rpartition("{{chunks}}")
    return before, after


def _policy(style: str, scripts: Iterable[str]) -> str:
    allowed = " ".join(map(_hash, scripts))
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    return json.dumps(finite(value), separators=(",", ":"), allow_nan=False)


def _write_chunk(file: TextIO, chunk: Chunk) -> None:
    mime = f' data-type="{chunk.mime}"' if chunk.mime else ""
    file.write(f'<script type="text/plain" id="{chunk.name}"{mime}>')
    for piece in _pieces(chunk.data):
        file.write(base64.b64encode(piece).decode("ascii"))
    file.write("</script>\n")


def _pieces(data: bytes) -> Iterator[bytes]:
    return (data[start : start + _PIECE] for start in range(0, len(data), _PIECE))
