"""One of two processes of a job that open data sets of the hub. Run by `test_hub.py`.

The hub's place is taken by a local file; each that reads it leaves a note of that.
"""

import sys
from pathlib import Path

import jax
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from vtzero.data import hub, retries
from vtzero.parallel.processes import start

published, folder = Path(sys.argv[1]), Path(sys.argv[2])
start()
me = jax.process_index()


def streamed(asked: hub.HubSet):
    if asked.repo == "not/there":
        raise ConnectionError(f"asked by {me}")
    if asked.repo == "full/disk":
        raise RuntimeError(f"{me} cannot write") from OSError(28, "No space left on device", "a.parquet")
    (folder / f"{asked.split}-read-by-{me}").touch()
    return load_dataset("parquet", data_files={"train": str(published)}, split="train", streaming=True)


hub._stream = streamed
retries.sleep = lambda _: None
shared = hub.hub_file(hub.HubSet("a/b", None, "shared"), 5, folder / "shared")
assert pq.read_table(shared).num_rows == 5
own = hub.hub_file(hub.HubSet("a/b", None, "own"), 5, folder / f"own-{me}")
assert pq.read_table(own).num_rows == 5
with pytest.raises(hub.HubError, match="asked by 0"):
    hub.hub_file(hub.HubSet("not/there", None, "train"), 5, folder)
with pytest.raises(OSError, match="No space left on device") as caught:
    hub.hub_file(hub.HubSet("full/disk", None, "train"), 5, folder)
assert not isinstance(caught.value, hub.HubError)
