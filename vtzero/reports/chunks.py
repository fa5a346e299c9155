"""A piece of a page that is read only when it is shown."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Chunk:
    """Data under a name: `gzipped` JSON, or a picture of the type `mime`."""

    name: str
    data: bytes
    gzipped: bool = False
    mime: str | None = None
