"""Images that a data set names by links: fetched once each, into a folder of this machine.

Knows no columns. Nothing is kept that is not an image.
"""

import os
import re
import urllib.request
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

from vtzero.data.cache_files import cached_whole
from vtzero.data.images import open_image
from vtzero.data.retries import may_pass, with_retries
from vtzero.data.rows import RowError
from vtzero.terminal import short_line

_TIMEOUT_SECONDS = 30
_MOST_SECONDS = 300
"""For all of an image: a server that sends a byte now and then never lets the other limit run out."""
_SILENT_HOSTS: set[str] = set()
_MOST_BYTES = 2**28
_PIECE = 2**16
_LONGEST_NAME = 200
"""Of 255 bytes that file systems allow; a digest follows."""


def link_folder() -> Path:
    """Where fetched images are kept: `images` in `$VTZERO_CACHE`, else in ~/.cache/vtzero."""
    return Path(os.environ.get("VTZERO_CACHE") or Path.home() / ".cache" / "vtzero") / "images"


def fetched_image(link: str, folder: Path) -> Path:
    """The file of a link's image, fetched unless it is there.

    Raises RowError, with the reason, for a link that is not http(s), does not answer, or gives no image.
    """
    path = folder / _file_name(link)
    if not path.is_file():
        data = _fetch(link)
        try:
            open_image(data)
        except ValueError as error:
            raise RowError(f"what {link} gave is not an image ({error})") from error
        with cached_whole(path) as unfinished:
            unfinished.write_bytes(data)
    return path


def _fetch(link: str) -> bytes:
    if not link.startswith(("http://", "https://")):
        raise RowError(f"{link!r} is not a link that starts with http:// or https://")
    try:
        data = _asked(link)
    except (OSError, ValueError, HTTPException) as error:
        raise RowError(f"{link} could not be fetched ({short_line(error)})") from error
    if len(data) > _MOST_BYTES:
        raise RowError(f"{link} gives more than {_MOST_BYTES} bytes, and no image")
    return data


def _asked(link: str) -> bytes:
    """With retries, until a host has not answered in all of them: a data set has thousands of its links."""
    host = urlsplit(link).netloc
    if host in _SILENT_HOSTS:
        return _read(link)
    try:
        return with_retries(lambda: _read(link), link)
    except Exception as error:
        if may_pass(error):
            _SILENT_HOSTS.add(host)
        raise


class SlowLinkError(OSError):
    """A server that sends too little; asked again it would do the same."""


def _read(link: str) -> bytes:
    by = monotonic() + _MOST_SECONDS
    data = bytearray()
    with urllib.request.urlopen(link, timeout=_TIMEOUT_SECONDS) as answer:
        # read1: what is there, where `read` would wait for all of a piece.
        while len(data) <= _MOST_BYTES and (piece := answer.read1(_PIECE)):
            data += piece
            if monotonic() > by:
                raise SlowLinkError(f"it was not whole after {_MOST_SECONDS:g} s")
    return bytes(data)


def _file_name(link: str) -> str:
    """What can be read of the link, and its digest: a/b.png and a_b.png read alike here."""
    digest = sha256(link.encode(errors="surrogatepass")).hexdigest()[:12]
    name = re.sub(r"[^\w.-]+", "_", link.partition("://")[2]).encode()[-_LONGEST_NAME:]
    path = Path(name.decode(errors="ignore"))
    return f"{path.stem}-{digest}{path.suffix}"
