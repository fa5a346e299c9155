"""Data sets of the Hugging Face hub as local parquet files, of which only the rows asked for are read.

Knows no columns: what a row means stands in the schemas.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vtzero.data.cache_files import cached_whole
from vtzero.data.retries import with_retries
from vtzero.failures import full_disk
from vtzero.parallel.messages import ask_first
from vtzero.terminal import error_line

ROWS_PER_GROUP = 64
"""Small row groups: reading one row at random decodes no more than this many."""

_TIMEOUT_SECONDS = 15


@dataclass(frozen=True)
class HubSet:
    """One split of a data set on the hub; `revision` is a branch, tag or commit (None: its main branch)."""

    repo: str
    config: str | None
    split: str
    revision: str | None = None


class HubError(FileNotFoundError):
    """A data set could not be had from the hub: one line with the reason and the way out."""


class NoRowsError(ValueError):
    """A stream ends before its first row."""


def hub_file(hub: HubSet, limit: int | None = None, folder: Path | None = None) -> Path:
    """A local parquet file with the first `limit` rows of a split, all of them for None.

    It is made once, in `folder` (else `$VTZERO_CACHE`, else ~/.cache/vtzero/hub), by streaming: no more is
    downloaded than the row groups that hold those rows. Images stay the bytes that were published.
    All processes of a job must call it, in one order: the first fetches, and the others find the file in a
    cache that they share with it, or fetch their own.

    Raises HubError when the hub cannot be reached or has no such rows, ValueError for a limit below 1, and
    what the system said, in every process, when the disk of the first is full.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    path = cached_path(hub, limit, folder)
    failure = ask_first(lambda: _failure_of_fetching(hub, path, limit))
    if failure is not None:
        raise failure
    _fetch(hub, path, limit)
    return path


def _failure_of_fetching(hub: HubSet, path: Path, limit: int | None) -> OSError | None:
    """An answer and no exception: the other processes wait for it."""
    try:
        _fetch(hub, path, limit)
    except HubError as error:
        return error
    except Exception as error:  # of a kind that the others may not know
        return error if type(error) is OSError else OSError(full_disk(error) or error_line(error))
    return None


def _fetch(hub: HubSet, path: Path, limit: int | None) -> None:
    if path.is_file():
        return
    try:
        with_retries(lambda: write_stream(_stream(hub), path, limit), hub.repo)
    except NoRowsError as error:
        raise HubError(f"{hub.repo}: its split {hub.split} holds no rows; name another split") from error
    except Exception as error:
        if full_disk(error) is not None:
            raise
        # The libraries below raise nearly every kind of exception for a network that fails.
        raise HubError(_explanation(hub, error)) from error


def cached_path(hub: HubSet, limit: int | None = None, folder: Path | None = None) -> Path:
    """Where `hub_file` keeps these rows, fetched or not."""
    return (folder or _cache_folder()) / _file_name(hub, limit)


def write_stream(stream: Any, path: Path, limit: int | None = None) -> None:
    """Write the first rows of a `datasets.IterableDataset` as parquet; the file appears whole or not at all.

    Raises NoRowsError when there are none.
    """
    with cached_whole(path) as unfinished:
        _write(_tables(stream, limit), unfinished)


def _write(tables: Iterator[pa.Table], path: Path) -> None:
    first = next(tables, None)
    if first is None:
        raise NoRowsError("it holds no rows")
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first, row_group_size=ROWS_PER_GROUP)
        for table in tables:
            writer.write_table(table.cast(first.schema), row_group_size=ROWS_PER_GROUP)


def _tables(stream: Any, limit: int | None) -> Iterator[pa.Table]:
    # As Arrow tables nothing is decoded, whatever columns hold images.
    rows = stream if limit is None else stream.take(limit)
    return iter(rows.with_format("arrow").iter(batch_size=ROWS_PER_GROUP))


def _stream(hub: HubSet) -> Any:
    # Here, since these imports take a second, and most runs read local files.
    from datasets import load_dataset
    from huggingface_hub import HfApi

    # Asked first: load_dataset would try for half a minute before it says that there is no network.
    # The commit keeps a long stream on one version of the data set.
    commit = HfApi().dataset_info(hub.repo, revision=hub.revision, timeout=_TIMEOUT_SECONDS).sha
    return load_dataset(hub.repo, hub.config, split=hub.split, revision=commit, streaming=True)


def _explanation(hub: HubSet, error: Exception) -> str:
    return (
        f"{hub.repo}: it could not be reached on the Hugging Face hub ({error_line(error)}); "
        "download it where there is a network and give the local file (--benchmark NAME=FILE.parquet, for "
        "training --data FILE.parquet)"
    )


def _file_name(hub: HubSet, limit: int | None) -> str:
    rows = "all" if limit is None else f"first-{limit}"
    parts = (hub.repo, hub.config or "default", hub.split, hub.revision or "main", rows)
    return "--".join(re.sub(r"[^\w.-]+", "_", part) for part in parts) + ".parquet"


def _cache_folder() -> Path:
    given = os.environ.get("VTZERO_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "vtzero" / "hub"
