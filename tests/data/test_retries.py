"""A network that fails for a moment is asked again, one that says no is not; with a server made here."""

import io
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants
import pytest
from PIL import Image

from vtzero.data import retries
from vtzero.data.hub import HubError, HubSet, hub_file
from vtzero.data.image_links import fetched_image
from vtzero.data.retries import WAITS, may_pass, with_retries
from vtzero.data.rows import RowError


@pytest.fixture(autouse=True)
def waited(monkeypatch):
    """The seconds that were waited, which take no time here."""
    seconds = []
    monkeypatch.setattr(retries, "sleep", seconds.append)
    return seconds


@pytest.fixture
def server():
    """Answers with the first that is left of `answers` (status, body), and with the last for ever."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            status, body = self.server.answers[0]
            if len(self.server.answers) > 1:
                self.server.answers.pop(0)
            if status is None:
                self.connection.close()
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    httpd.asked, httpd.answers = [], [(200, b"")]
    httpd.address = f"http://127.0.0.1:{httpd.server_port}"
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()


def picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("failure", [503, 429, None], ids=["busy", "too many", "broken off"])
def test_an_image_is_there_at_the_third_try(server, tmp_path, waited, capsys, failure):
    server.answers = [(failure, b""), (failure, b""), (200, picture())]
    path = fetched_image(f"{server.address}/a.png", tmp_path)
    assert Image.open(path).size == (40, 30)
    assert len(server.asked) == 3
    assert all(wait <= second <= 1.5 * wait for wait, second in zip(WAITS, waited, strict=False))
    assert capsys.readouterr().err.count("asked again in") == 2


def test_an_image_that_never_comes_is_given_up_with_its_reason(server, tmp_path, waited):
    server.answers = [(503, b"")]
    with pytest.raises(RowError, match=r"could not be fetched.*503"):
        fetched_image(f"{server.address}/a.png", tmp_path)
    assert len(server.asked) == len(WAITS) + 1
    assert len(waited) == len(WAITS)
    with pytest.raises(RowError, match="503"):
        fetched_image(f"{server.address}/b.png", tmp_path)
    assert len(server.asked) == len(WAITS) + 2  # the host's further images are asked for once


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_no_is_not_asked_again(server, tmp_path, status):
    server.answers = [(status, b"")]
    with pytest.raises(RowError, match=str(status)):
        fetched_image(f"{server.address}/a.png", tmp_path)
    assert len(server.asked) == 1


@pytest.mark.parametrize(("status", "times"), [(503, len(WAITS) + 1), (404, 1), (401, 1)])
def test_the_hub_is_asked_again_while_it_may_answer(server, tmp_path, monkeypatch, status, times):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
    server.answers = [(status, b"")]
    with pytest.raises(HubError, match=r"a/b: it could not be reached.*local file"):
        hub_file(HubSet("a/b", None, "test"), folder=tmp_path)
    # The hub's own library may ask something else once.
    assert server.asked.count("/api/datasets/a/b") == times


def test_a_hub_without_a_network_is_asked_as_often(tmp_path, monkeypatch, waited):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError):
        hub_file(HubSet("a/b", None, "test"), folder=tmp_path)
    assert len(waited) == len(WAITS)


def test_an_error_of_our_own_is_raised_at_once(waited):
    def wrong() -> None:
        raise ValueError("no such column")

    with pytest.raises(ValueError, match="no such column"):
        with_retries(wrong, "rows")
    assert waited == []


def test_a_name_that_cannot_be_looked_up_may_pass():
    with pytest.raises(urllib.error.URLError) as caught:
        urllib.request.urlopen("http://no-such-host.invalid/", timeout=5)
    assert may_pass(caught.value)
