"""Several processes fill one cache at once: each file is whole, and nobody fails."""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from threading import Barrier, Thread

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vtzero.data.cache_files import cached_whole
from vtzero.data.hub import write_stream
from vtzero.data.image_links import fetched_image


@pytest.fixture(autouse=True)
def every_process_is_number_1(monkeypatch):
    """As in containers, which share a folder and no process numbers."""
    monkeypatch.setattr(os, "getpid", lambda: 1)


def at_once(write):
    """Call it in two threads; what both return."""
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(write) for _ in range(2)]
        return [each.result(timeout=20) for each in both]


class Stream:
    """Rows as the hub sends them, others to each that reads; both are half done before either ends."""

    def __init__(self, versions):
        self.versions, self.readers, self.half_done = versions, count(), Barrier(2, timeout=20)

    def with_format(self, _):
        return self

    def iter(self, batch_size):
        first, *rest = self.versions[next(self.readers)]
        yield first
        self.half_done.wait()
        yield from rest


def test_two_that_stream_one_data_set_both_have_it(tmp_path):
    versions = [[questions(name, part) for part in range(parts)] for name, parts in (("a", 3), ("long", 9))]
    stream, path = Stream(versions), tmp_path / "cache" / "set.parquet"
    at_once(lambda: write_stream(stream, path))
    assert pq.read_table(path) in [pa.concat_tables(tables) for tables in versions]
    assert list(path.parent.iterdir()) == [path]


def questions(name, part):
    return pa.table({"question": [f"{name * 9} {part} {number}" for number in range(64)]})


def test_two_that_fetch_one_image_both_have_it(tmp_path):
    asked = Barrier(2, timeout=20)
    picture = io.BytesIO()
    Image.new("RGB", (600, 600), (9, 8, 7)).save(picture, "PNG")

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.wait()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(picture.getvalue())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    Thread(target=server.serve_forever, daemon=True).start()
    link = f"http://127.0.0.1:{server.server_port}/one.png"
    one, other = at_once(lambda: fetched_image(link, tmp_path / "images"))
    server.shutdown()
    server.server_close()
    assert one == other
    assert one.read_bytes() == picture.getvalue()
    assert list((tmp_path / "images").iterdir()) == [one]


def test_what_another_has_finished_meanwhile_stays(tmp_path):
    path = tmp_path / "file"
    with cached_whole(path) as later:
        with cached_whole(path) as sooner:
            assert later != sooner
            sooner.write_text("whole")
        opened = path.open()
        later.write_text("whole")
    assert os.fstat(opened.fileno()).st_ino == path.stat().st_ino
    opened.close()
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_nothing(tmp_path):
    def fail():
        with cached_whole(tmp_path / "new" / "file") as unfinished:
            unfinished.write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert list((tmp_path / "new").iterdir()) == []
