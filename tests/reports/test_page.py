"""The file of a report's page: no payload can leave its element, and nothing but our scripts may run."""

import base64
import gzip
import hashlib
import json
import re
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fixtures.report_payload import HOSTILE, one_run, picture, two_runs

from vtzero.reports.page import SCRIPTS, Chunk, packed, write_page
from vtzero.rewards.text import AHA_WORDS

ASSETS = Path(__file__).parents[2] / "vtzero" / "assets" / "report"


class Elements(HTMLParser):
    """Every element in order, and the text between its beginning and the next tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self.texts.append("")
        self.inside = True

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.texts[-1] += data

    def of(self, tag: str = "script", **wanted: str) -> list[str]:
        """What stands in the elements of a tag that have these attributes."""
        every = zip(self.found, self.texts, strict=True)
        return [text for (name, own), text in every if name == tag and wanted.items() <= own.items()]


def page_of(tmp_path, payload, chunks=()) -> str:
    path = tmp_path / "report.html"
    write_page(path, payload, chunks)
    return path.read_text(encoding="utf-8")


def test_hostile_text_comes_back_from_its_element_as_it_was(tmp_path):
    payload = {"version": "0.1.0", "runs": [one_run(0, name=HOSTILE, warnings=[HOSTILE, "{{chunks}}"])]}
    page = page_of(tmp_path, payload)
    elements = Elements(page)
    assert json.loads(elements.of(id="payload")[0]) == payload
    ours = [tag for tag, _ in Elements(page_of(tmp_path, {"version": "0.1.0", "runs": []})).found]
    assert [tag for tag, _ in elements.found] == ours
    assert "\u2028" not in page
    assert "\u202e" not in page


def test_chunks_come_back_as_they_were(tmp_path):
    elements = Elements(page_of(tmp_path, {"runs": []}, [packed("r0-s10", {"text": HOSTILE}), picture()]))
    (step,) = elements.of(id="r0-s10")
    assert json.loads(gzip.decompress(base64.b64decode(step))) == {"text": HOSTILE}
    (image,) = elements.of(id="m0-0")
    assert base64.b64decode(image) == picture().data
    assert ("script", {"type": "text/plain", "id": "m0-0", "data-type": "image/png"}) in elements.found


def test_a_large_chunk_is_one_base64_text(tmp_path):
    data = bytes(range(256)) * 3000
    (text,) = Elements(
        page_of(tmp_path, {"runs": []}, [Chunk("m0-7", data, gzip=False, mime="image/png")])
    ).of(id="m0-7")
    assert base64.b64decode(text, validate=True) == data


def test_only_our_scripts_and_styles_may_run(tmp_path):
    elements = Elements(page_of(tmp_path, *two_runs()))
    (policy,) = [a["content"] for _, a in elements.found if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    every = zip(elements.found, elements.texts, strict=True)
    running = [text for (tag, a), text in every if tag == "script" and "type" not in a]
    assert len(running) == len(SCRIPTS)
    assert rules["script-src"].split() == list(map(hash_of, running))
    assert rules["style-src"].split() == [hash_of(text) for text in elements.of(tag="style")]
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    assert "unsafe" not in policy


def hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_page_names_nothing_outside_itself(tmp_path):
    page = page_of(tmp_path, {"version": "0.1.0", "runs": []})
    assert set(re.findall(r"\w+://[^\s\"'`]+", page)) == {"http://www.w3.org/2000/svg"}
    sources = [value for _, a in Elements(page).found for name in ("src", "href") if (value := a.get(name))]
    assert all(source.startswith(("#", "data:")) for source in sources)


def test_the_same_payload_gives_the_same_bytes(tmp_path):
    first = page_of(tmp_path, *two_runs())
    assert page_of(tmp_path, *two_runs()) == first


def test_what_is_no_number_is_null(tmp_path):
    run = one_run(0, metrics={"step": [1, 2], "loss": [float("nan"), float("-inf")]})
    (payload,) = Elements(page_of(tmp_path, {"runs": [run]})).of(id="payload")
    assert json.loads(payload)["runs"][0]["metrics"]["loss"] == [None, None]


def test_chunks_are_written_as_they_come(tmp_path):
    size, count = 2**20, 60
    chunks = (Chunk(f"m0-{number}", bytes(size), gzip=False, mime="image/png") for number in range(count))
    tracemalloc.start()
    try:
        write_page(tmp_path / "report.html", {"runs": []}, chunks)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "report.html").stat().st_size > count * size
    assert most < 8 * size


def test_a_page_that_fails_leaves_the_one_before_it(tmp_path):
    before = page_of(tmp_path, {"runs": []})
    with pytest.raises(ValueError, match="two chunks have the name m0-0"):
        write_page(tmp_path / "report.html", {"runs": []}, [picture(), picture()])
    assert (tmp_path / "report.html").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("name", ["payload", "r0", 'm0"><script>', "r0-s1 x", "../m0", ""])
def test_a_chunk_has_a_name_that_the_page_looks_for(name):
    with pytest.raises(ValueError, match="is no name of a chunk"):
        Chunk(name, b"", gzip=False)


@pytest.mark.parametrize("mime", ["text/html", 'image/png" onload="x', ""])
def test_a_picture_is_of_an_image_type(mime):
    with pytest.raises(ValueError, match="is no type of an image"):
        Chunk("m0-0", b"", gzip=False, mime=mime)


def test_every_script_of_the_folder_is_in_the_page():
    assert sorted(SCRIPTS) == sorted(path.name for path in ASSETS.glob("*.js"))


def test_no_script_writes_markup():
    for path in ASSETS.glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", path.read_text()
        ), path


def test_the_page_marks_the_words_that_are_counted():
    (words,) = re.findall(r"const AHA = \{(.*?)\};", (ASSETS / "texts.js").read_text(), re.DOTALL)
    assert sorted(re.findall(r"(\w+):", words)) == sorted(AHA_WORDS)
