"""A data set of the hub becomes a local file of its first rows, or an error that says what to do instead."""

import io
import resource
from pathlib import Path

import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, List, Value, load_dataset
from fixtures.jobs import Job
from PIL import Image as Picture

from vtzero.data.hub import ROWS_PER_GROUP, HubError, HubSet, hub_file, write_stream
from vtzero.failures import FAILED, described

CV_BENCH = HubSet("nyu-visionx/CV-Bench", None, "test")
ROWS = 150


def picture_bytes(number):
    stream = io.BytesIO()
    Picture.new("RGB", (6, 6), (number, 0, 0)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A parquet file with the hub's own column types, image columns included."""
    rows = [
        {
            "question": f"q{number}",
            "image": {"bytes": picture_bytes(number), "path": f"{number}.jpg"},
            "image_2": None,
            "image_bytes": [{"bytes": picture_bytes(number), "path": None}] * 2,
            "choices": ["left", "right"],
        }
        for number in range(ROWS)
    ]
    features = Features(
        {
            "question": Value("string"),
            "image": Image(),
            "image_2": Image(),
            "image_bytes": List(Image()),
            "choices": List(Value("string")),
        }
    )
    path = tmp_path_factory.mktemp("hub") / "test.parquet"
    Dataset.from_list(rows, features=features).to_parquet(path)
    return path


def streamed(*paths):
    files = {"test": [str(path) for path in paths]}
    return load_dataset("parquet", data_files=files, split="test", streaming=True)


def test_the_first_rows_are_written_as_they_were_published(published, tmp_path):
    write_stream(streamed(published), tmp_path / "out.parquet", limit=100)
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == pq.read_table(published).to_pylist()[:100]


def test_all_rows_are_written_in_small_groups(published, tmp_path):
    write_stream(streamed(published), tmp_path / "out.parquet")
    metadata = pq.ParquetFile(tmp_path / "out.parquet").metadata
    groups = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
    assert sum(groups) == ROWS
    assert max(groups) <= ROWS_PER_GROUP


def test_images_are_not_decoded(published, tmp_path):
    table = pq.read_table(published)
    broken = [{"bytes": b"no image", "path": None}] * ROWS
    column = pa.array(broken, table.schema.field("image").type)
    pq.write_table(table.set_column(1, table.schema.field("image"), column), tmp_path / "broken.parquet")
    write_stream(streamed(tmp_path / "broken.parquet"), tmp_path / "out.parquet", limit=1)
    assert pq.read_table(tmp_path / "out.parquet").to_pylist()[0]["image"]["bytes"] == b"no image"


def test_a_stream_that_breaks_leaves_no_file(published, tmp_path):
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(published.read_bytes()[:-100])
    target = tmp_path / "out" / "out.parquet"
    with pytest.raises(Exception, match="Parquet"):
        write_stream(streamed(published, cut), target)
    assert list(target.parent.iterdir()) == []


def test_a_file_that_is_there_is_used_without_the_hub(published, tmp_path, closed_hub):
    with pytest.raises(HubError):
        hub_file(CV_BENCH, 5, tmp_path)
    name = "nyu-visionx_CV-Bench--default--test--main--first-5.parquet"
    write_stream(streamed(published), tmp_path / name, limit=5)
    assert hub_file(CV_BENCH, 5, tmp_path) == tmp_path / name
    with pytest.raises(HubError):
        hub_file(CV_BENCH, 6, tmp_path)


def test_the_folder_is_the_environments(published, tmp_path, closed_hub, monkeypatch):
    monkeypatch.setenv("VTZERO_CACHE", str(tmp_path))
    path = tmp_path / "a_b--2D--test--v1--all.parquet"
    write_stream(streamed(published), path)
    assert hub_file(HubSet("a/b", "2D", "test", "v1")) == path


def test_no_network_says_which_local_file_to_give(tmp_path, closed_hub):
    with pytest.raises(HubError, match=r"nyu-visionx/CV-Bench: it could not be reached.*NAME=FILE") as caught:
        hub_file(CV_BENCH, None, tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_files():
    """No file may grow beyond 4 KiB, which to who writes is as a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_is_no_fault_of_the_hub(published, tmp_path, monkeypatch):
    monkeypatch.setattr("vtzero.data.hub._stream", lambda hub: streamed(published))
    with pytest.raises(OSError, match="File too large") as caught:
        hub_file(CV_BENCH, None, tmp_path)
    assert not isinstance(caught.value, HubError)
    assert described(caught.value) == (FAILED, "cannot write (File too large)")
    assert list(tmp_path.iterdir()) == []


def test_no_rows_are_told_as_such(published, tmp_path, monkeypatch):
    pq.ParquetWriter(tmp_path / "empty.parquet", pq.read_schema(published)).close()
    monkeypatch.setattr("vtzero.data.hub._stream", lambda hub: streamed(tmp_path / "empty.parquet"))
    with pytest.raises(HubError, match=r"^nyu-visionx/CV-Bench: its split test holds no rows; name another"):
        hub_file(CV_BENCH, None, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_limit_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        hub_file(CV_BENCH, 0, tmp_path)


def test_one_process_of_a_job_fetches_for_all_that_share_its_cache(published, tmp_path):
    """Those that do not share it fetch their own; what fails in the first fails in all."""
    program = [str(Path(__file__).with_name("two_fetch.py"))]
    Job(2, [published, tmp_path], tmp_path, devices=2, program=program).run()
    readers = sorted(path.name for path in tmp_path.glob("*-read-by-*"))
    assert readers == ["own-read-by-0", "own-read-by-1", "shared-read-by-0"]


@pytest.fixture
def closed_hub(monkeypatch):
    """The hub's address is a port of this machine on which nothing listens."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
