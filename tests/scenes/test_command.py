"""`vtzero scenes` as a person uses it."""

import json

import pytest
from fixtures.command import vtzero

from vtzero.cli import main


def lines(capsys):
    printed, error = capsys.readouterr()
    return printed.splitlines(), error.splitlines()


def test_a_folder_gets_the_data_set(tmp_path, capsys):
    assert main(["scenes", str(tmp_path / "out"), "--train", "5", "--test", "4", "--json"]) == 0
    printed, _ = lines(capsys)
    assert json.loads(printed[-1]) == {"folder": str(tmp_path / "out"), "train": 5, "test": 4}
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["SAT_train.parquet", "cv_bench_test.parquet"]


def test_a_sheet_needs_no_folder(tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert main(["scenes", "--sheet", str(sheet), "--sheet-rows", "1", "--sheet-columns", "4"]) == 0
    assert lines(capsys) == ([f"wrote {sheet}"], [])
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_a_folder_and_a_sheet_are_written_together(tmp_path, capsys):
    out, sheet = tmp_path / "out", tmp_path / "sheet.png"
    small = ["--train", "1", "--test", "1", "--sheet-rows", "1", "--sheet-columns", "2"]
    assert main(["scenes", str(out), "--sheet", str(sheet), *small]) == 0
    assert lines(capsys) == ([f"wrote {sheet}", f"wrote {out}"], [])
    assert sheet.exists()
    assert main(["scenes", str(out), "--sheet", str(sheet), *small, "--json"]) == 0
    printed, _ = lines(capsys)
    assert json.loads(printed[-1]) == {
        "sheet": str(sheet),
        "scenes": 2,
        "folder": str(out),
        "train": 1,
        "test": 1,
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name a folder for the data set, --sheet FILE.png, or both"),
        (["out", "--train", "0"], "train must be at least 1"),
        (["--sheet", "sheet.png", "--sheet-rows", "0"], "from 1 to 20 rows"),
        (["--sheet", "sheet.png", "--sheet-columns", "1000000"], "from 1 to 20 columns"),
        (["--sheet", "sheet.gif"], "name it FILE.png"),
        (["--sheet", "folder.png"], "folder.png is a folder"),
        (["--sheet", "file/sheet.png"], "file: no folder can be made there"),
        (["file"], "file: no folder can be made there"),
        (["file/out"], "file/out: no folder can be made there"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder.png").mkdir()
    assert main(["scenes", *arguments]) == 2
    printed, (error,) = lines(capsys)
    assert printed == []
    assert error.startswith("vtzero scenes: ")
    assert words in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


def test_the_real_command_draws_a_sheet(tmp_path):
    printed, error = vtzero("scenes", "--sheet", tmp_path / "sheet.png", "--sheet-rows", 1)
    assert (printed, error) == (f"wrote {tmp_path / 'sheet.png'}\n", "")
