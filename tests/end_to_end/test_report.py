"""`vtzero report` of a real run, and of everything that is not quite one."""

import json
import re
import subprocess
import sys

import pytest
from fixtures.one_run import STEPS, make_base


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    base = make_base(tmp_path_factory.mktemp("report"))
    assert base.run(base.folder / "run") == (0, "")
    return base.folder / "run"


def report(*arguments):
    command = [sys.executable, "-m", "vtzero.cli", "report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def payload_of(page):
    found = re.search(r'<script type="application/json" id="payload">(.*?)</script>', page, re.DOTALL)
    return json.loads(found[1])


def test_a_run_becomes_one_page_in_its_folder(run):
    done = report(run, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["page"] == str(run / "report.html")
    page = (run / "report.html").read_text()
    told = payload_of(page)["runs"][0]
    assert told["metrics"]["step"] == list(range(1, STEPS + 1))
    assert [each["step"] for each in told["evaluations"]] == [0, 4, 8]
    assert told["status"] == "finished"
    assert told["environment"]["jax"]
    assert told["completions"]["rows"] == STEPS * 2 * 2
    for step in range(1, STEPS + 1):
        assert f'id="r0-s{step}"' in page
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "https://" not in page.replace("https://arxiv.org/", "").replace("https://github.com/", "")


def test_the_same_run_gives_the_same_page(run, tmp_path):
    for name in "ab":
        assert report(run, "--out", tmp_path / f"{name}.html").returncode == 0
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_several_runs_with_their_names_share_a_page(run, tmp_path):
    done = report(f"one={run}", f"other={run}", "--out", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.html").read_text()
    assert [told["label"] for told in payload_of(page)["runs"]] == ["one", "other"]
    assert 'id="r1-s1"' in page


def test_figures_are_files(run, tmp_path):
    pytest.importorskip("matplotlib")
    done = report(run, "--out", tmp_path / "page.html", "--figures", tmp_path / "figures")
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"figure-1.png", "figure-1.svg", "reward.svg"} <= names


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "name at least one run folder"),
        (["absent"], "absent: no such run folder"),
        (["."], "holds no run"),
        ([".", "--max-size", "0.1"], "--max-size is 0.1"),
        ([".", "--max-size", "nan"], "--max-size is nan"),
        (["run", "--out", "run"], "--out run: is a folder; give the page's file, such as run/report.html"),
        (["run", "--out", "run/metrics.jsonl/page.html"], "run/metrics.jsonl: no folder can be made there"),
        (["run", "--figures", "run/metrics.jsonl"], "run/metrics.jsonl: no folder can be made there"),
        (["run", "--table", "3", "--out", "page.html"], "leave out --out"),
    ],
)
def test_a_mistake_is_one_line(arguments, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1}\n')
    done = report(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    (said,) = done.stderr.splitlines()
    assert line in said


def cut_short(run, folder):
    """The folder of a run that is under way: no summary, no export, a torn line."""
    (folder / "eval").mkdir(parents=True)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:3]) + lines[3][:20])
    (folder / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    return folder


def test_a_run_under_way_has_a_page(run, tmp_path):
    folder = cut_short(run, tmp_path / "run")
    assert report(folder).returncode == 0
    told = payload_of((folder / "report.html").read_text())["runs"][0]
    assert (told["status"], told["last_step"]) == ("not finished", 3)
    assert (told["evaluations"], told["completions"], told["warnings"]) == ([], None, [])


def test_a_run_with_a_damaged_table_says_which(run, tmp_path):
    folder = cut_short(run, tmp_path / "run")
    (folder / "completions").mkdir()
    (folder / "completions" / "completions_00002.parquet").write_bytes(b"PAR1 torn")
    done = report(folder)
    assert done.returncode == 0, done.stderr
    told = payload_of((folder / "report.html").read_text())["runs"][0]
    assert "completions_00002.parquet" in told["warnings"][0]
    assert told["completions"] is None
