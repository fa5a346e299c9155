"""`vtzero rescore` on files of every layout that it knows, and on files that it must refuse."""

import json
from pathlib import Path

import pytest

from vtzero.cli import main
from vtzero.evaluation.rescore import parse_choices

OUTPUTS = {
    "a": ("<answer>(B)</answer>", True),
    "b": ("It is to the right.", False),
    "c": ("left or right", False),
    "d": ("<answer>left</answer>", False),
}


def own_rows(**more):
    return [
        {
            "task": "Relation" if name < "c" else "Depth",
            "id": name,
            "prompt": "Where? ",
            "choices": ["left", "right"],
            "answer": "(B)",
            "output": output,
            "correct": correct,
            **more,
        }
        for name, (output, correct) in OUTPUTS.items()
    ]


def blink_rows():
    said = ["Point B, which is higher, is closer.", "I cannot tell.", "(A) A is closer"]
    letters = ["(B)", "(Z)", "(B)"]
    return [
        {"idx": f"val_Relative_Depth_{n}", "answer": "(B)", "full_prediction": text, "prediction": letter}
        for n, (text, letter) in enumerate(zip(said, letters, strict=True), 1)
    ]


def r1v_rows(outputs, gold):
    return [
        {"question": {"question": "How many?"}, "ground_truth": gold, "model_output": output}
        for output in outputs
    ]


@pytest.fixture
def write(tmp_path):
    def write(content, name="outputs.json", lines=False):
        path = tmp_path / name
        text = "\n".join(map(json.dumps, content)) if lines else json.dumps(content)
        path.write_text(text)
        return str(path)

    return write


def figures(capsys, *arguments):
    assert main(["rescore", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def refusal(capsys, *arguments):
    assert main(["rescore", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_its_own_file(write, capsys):
    report = figures(capsys, write(own_rows(), lines=True))
    assert (report["layout"], report["scorer"]) == ("vtzero", "strict")
    assert (report["n"], report["correct"], report["accuracy"]) == (4, 2, 50.0)
    assert {task: (part["correct"], part["n"]) for task, part in report["tasks"].items()} == {
        "Relation": (2, 2),
        "Depth": (0, 2),
    }
    assert report["interval"] == pytest.approx([15.0, 85.0], abs=0.1)


def test_with_tags_required_it_repeats_what_the_evaluation_counted(write, capsys):
    path = write(own_rows(), lines=True)
    report = figures(capsys, path, "--require-tags")
    assert report["correct"] == report["stored"]["correct"] == 1
    assert report["differences"] == []
    loose = figures(capsys, path)
    assert [(found["id"], found["stored"], found["scored"]) for found in loose["differences"]] == [
        ("b", False, True)
    ]


@pytest.mark.parametrize(("scorer", "correct"), [("strict", 2), ("lenient", 3), ("paper", 2)])
def test_each_scorer_by_name(write, capsys, scorer, correct):
    assert figures(capsys, write(own_rows(), lines=True), "--scorer", scorer)["correct"] == correct


def test_both_totals_where_the_sources_are_known(write, capsys):
    rows = own_rows()
    for row, source in zip(rows, ("ADE20K", "COCO", "Omni3D", "Omni3D"), strict=True):
        row["source"] = source
    report = figures(capsys, write(rows, lines=True))
    assert report["accuracy"] == 50.0
    assert report["official"]["accuracy"] == 50.0  # ½ ((100 + 100) / 2 + 0)
    rows[1]["output"] = "left"
    assert figures(capsys, write(rows, lines=True))["official"]["accuracy"] == 25.0
    assert figures(capsys, write(own_rows(), lines=True))["official"] is None


def test_blink(write, capsys):
    report = figures(capsys, write({"val": blink_rows(), "test": [{"idx": "x"}]}))
    assert (report["layout"], report["scorer"], report["n"], report["correct"]) == ("blink", "strict", 3, 1)
    assert (report["agreement"]["correct"], report["agreement"]["n"]) == (2, 3)
    assert [(found["stored_letter"], found["scored_letter"]) for found in report["differences"]] == [
        ("B", "A")
    ]


def test_choices_of_a_task_that_is_not_known(write, capsys):
    rows = [{**row, "idx": row["idx"].replace("Relative_Depth", "Art_Style")} for row in blink_rows()]
    path = write(rows)
    assert "choices of BLINK's task 'Art_Style' are not known" in refusal(capsys, path)
    assert figures(capsys, path, "--choices", "A is closer, B is closer")["correct"] == 1


def test_choices_from_the_command_line():
    assert parse_choices("left, right") == ("left", "right")
    assert parse_choices('["red, round", "blue"]') == ("red, round", "blue")
    assert parse_choices("") == ()
    for malformed in ('["a"', "[1, 2]"):
        with pytest.raises(ValueError, match="list"):
            parse_choices(malformed)


def test_choices_with_commas(write, capsys):
    rows = own_rows(choices=["red, round", "red"], answer="red, round")
    rows[0]["output"], rows[1]["output"] = "<answer>Red, round</answer>", "red"
    assert figures(capsys, write(rows, lines=True))["correct"] == 1


def test_an_evaluations_own_scorer_is_taken_from_its_summary(write, capsys):
    rows = own_rows(choices=[], answer="18")
    for row in rows:
        row["output"] = "<answer>$18.00$</answer>"
    path = write(rows, name="gsm8k-0.jsonl", lines=True)
    assert figures(capsys, path)["correct"] == 0
    Path(path).with_suffix(".json").write_text(json.dumps({"scoring": "math"}))
    report = figures(capsys, path)
    assert (report["scorer"], report["accuracy"]) == ("math", 100.0)


def test_any_line_break_of_unicode_may_stand_in_an_output(write, capsys):
    rows = own_rows()
    rows[0]["output"] = "one\u2028two\x85three " + rows[0]["output"]
    path = write(rows, lines=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    Path(path).write_text("".join(lines), encoding="utf-8")
    assert figures(capsys, path)["n"] == len(rows)


@pytest.mark.parametrize(
    ("gold", "outputs", "scorer"),
    [(4, ["<answer>4</answer>", "4"], "superclevr"), ("4°", ["$4°$", "so it is five"], "geoqa")],
)
def test_r1v_files_go_to_the_scorer_of_their_answers(write, capsys, gold, outputs, scorer):
    report = figures(capsys, write({"accuracy": 50.0, "results": r1v_rows(outputs, gold)}))
    assert (report["layout"], report["scorer"], report["accuracy"]) == ("r1v", scorer, 50.0)


@pytest.mark.parametrize("empty", [None, "absent"])
def test_an_item_without_output_is_counted_and_listed_but_not_scored(write, capsys, empty):
    rows = own_rows()
    rows[1]["output"] = None
    if empty == "absent":
        del rows[1]["output"]
    report = figures(capsys, write(rows, lines=True))
    assert (report["n"], report["correct"], report["missing"], report["missing_items"]) == (3, 1, 1, ["b"])
    main(["rescore", write(rows, lines=True)])
    assert "1 without an output, in no figure: b" in capsys.readouterr().out


def test_what_a_person_reads(write, capsys):
    assert main(["rescore", write(own_rows(), lines=True), "--differences"]) == 0
    printed = capsys.readouterr().out
    assert "vtzero layout, scorer strict" in printed
    assert "50.00" in printed
    assert "the file's own verdicts: 1 of 4, 25.00 %" in printed
    assert "1 differ: b" in printed
    assert "b: wrong → right, answer (B): It is to the right." in printed


def test_refused_contents(write, capsys, tmp_path):
    (tmp_path / "cut.jsonl").write_text('{"id": 1}\n{"id":')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "image.json").write_bytes(b"\xff\xd8\xff")
    assert "no file" in refusal(capsys, str(tmp_path / "none.json"))
    assert "line 2 is not JSON" in refusal(capsys, str(tmp_path / "cut.jsonl"))
    assert "holds no item" in refusal(capsys, str(tmp_path / "empty.jsonl"))
    assert "is not text" in refusal(capsys, str(tmp_path / "image.json"))
    assert "holds no item" in refusal(capsys, write([]))
    assert "item 0 is int" in refusal(capsys, write([3]))
    unknown = refusal(capsys, write([{"text": "B", "gold": "B"}]))
    assert "keys gold, text" in unknown
    assert "blink: answer, full_prediction, idx, prediction" in unknown


def test_refused_items(write, capsys):
    rows = own_rows()
    rows[2]["answer"] = "(E)"
    assert "item 'c': its answer '(E)' names none of its choices" in refusal(capsys, write(rows))
    del rows[1]["choices"]
    assert "item 1 lacks choices" in refusal(capsys, write(rows))
    assert "no item has an output (key 'output')" in refusal(capsys, write(own_rows(output=None)))
    assert "has choices of its own" in refusal(capsys, write(own_rows()), "--choices", "a, b")


def test_refused_scorers(write, capsys):
    path = write(own_rows())
    assert "unknown scorer 'loose'; known are strict, lenient" in refusal(capsys, path, "--scorer", "loose")
    assert "belongs to the scorer strict" in refusal(capsys, path, "--scorer", "paper", "--require-tags")
    assert "is no count" in refusal(capsys, path, "--scorer", "superclevr")
    open_questions = write(r1v_rows(["<answer>4</answer>"], 4))
    assert "has no choices" in refusal(capsys, open_questions, "--scorer", "paper")
