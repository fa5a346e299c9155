"""Images behind links: each link has a file of its own, and none takes for ever."""

import io
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from vtzero.data import image_links
from vtzero.data.image_links import fetched_image
from vtzero.data.rows import RowError


def picture(link: str) -> bytes:
    """Another for each link."""
    stream = io.BytesIO()
    Image.new("RGB", (len(link), 30), "red").save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def address():
    """Of a server that sends a picture whose width is the length of its path; slowly under /slow/."""
    stopped = threading.Event()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            if not self.path.startswith("/slow/"):
                self.wfile.write(picture(self.path))
            while self.path.startswith("/slow/") and not stopped.wait(0.02):
                self.wfile.write(b"x")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    stopped.set()
    server.shutdown()
    server.server_close()


def test_links_that_read_alike_have_files_of_their_own(address, tmp_path):
    # Of lengths of their own, and so of pictures.
    paths = ["/a/bc.png", "/a?/bc.png", "/a_/_bc.png", "/" + "a" * 400, "/" + "a" * 401]
    for _ in range(2):  # the second time from the folder
        found = [fetched_image(address + path, tmp_path) for path in paths]
        assert [Image.open(file).width for file in found] == list(map(len, paths))
    assert len(set(found)) == len(list(tmp_path.iterdir())) == len(paths)
    assert found[0].name.endswith(".png")
    assert [path.name.count("_a_bc-") for path in found[:3]] == [1, 1, 0]


def test_a_link_of_any_characters_has_a_file_name(tmp_path):
    for link in ("http://", "http://..", "http://\ud800/" + "椅" * 300, "http://a." + "b" * 300):
        name = image_links._file_name(link)
        assert len(name.encode()) <= 255
        assert "/" not in name
        assert name not in (".", "..")


def test_a_server_that_drips_is_given_up(address, tmp_path, monkeypatch):
    monkeypatch.setattr(image_links, "_MOST_SECONDS", 0.3)
    began = time.monotonic()
    with pytest.raises(RowError, match=r"could not be fetched.*it was not whole after 0\.3 s"):
        fetched_image(f"{address}/slow/a.png", tmp_path)
    assert time.monotonic() - began < 10
    assert list(tmp_path.iterdir()) == []
