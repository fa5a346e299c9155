"""Published training sets by name: from files of exactly their columns, and from the hub."""

import json

import huggingface_hub
import pytest
from fixtures.data_files import gsm8k_row, png, sat_row, stored, write_published

from vtzero.data.example import Example, Rejected
from vtzero.data.images import open_image
from vtzero.data.named_sets import NAMED_SETS
from vtzero.data.schemas import last_boxed
from vtzero.data.sources import open_source


def red(source):
    return open_image(source).getpixel((0, 0))[0]


def open_named(name, path, **options):
    return open_source(f"{name}={path}", **options)


# --- SAT ---


def test_sat_by_name_reads_what_its_columns_show(tmp_path):
    rows = [sat_row(index, images=1 + index % 2) for index in range(6)]
    path = write_published(tmp_path / "SAT_train.parquet", "sat", rows)
    named, bare = open_named("sat", path), open_source(path)
    assert [row.options for row in named] == [row.options for row in bare]
    assert [len(row.images) for row in named] == [1, 2, 1, 2, 1, 2]
    assert named[1].task == "obj_movement"
    assert [red(image) for image in named[1].images] == [3, 4]


def test_options_that_contain_commas_survive(tmp_path):
    answers = ["left, then up", "right, then up", "nowhere"]
    rows = [sat_row(index, answers=answers, correct_answer=answers[0]) for index in range(8)]
    source = open_named("sat", write_published(tmp_path / "SAT.parquet", "sat", rows))
    assert all(sorted(row.options) == sorted(answers) for row in source)
    assert {row.answer for row in source} == {"left, then up"}
    assert len({row.options for row in source}) > 1


def test_an_answer_that_is_not_among_the_options_is_set_aside(tmp_path):
    rows = [sat_row(0, correct_answer="below"), sat_row(1)]
    source = open_named("sat", write_published(tmp_path / "SAT.parquet", "sat", rows))
    assert "'below' is not among the options" in source[0].reason
    assert isinstance(source[1], Example)


def test_sat_static_leaves_out_what_moves(tmp_path):
    kinds = ["other", "obj_movement", "goal_aim", "counting", "perspective", "action_sequence"]
    rows = [sat_row(index, question_type=kind) for index, kind in enumerate(kinds)]
    path = write_published(tmp_path / "SAT_train.parquet", "sat", rows)
    source = open_named("sat_static", path)
    assert [row.task for row in source] == ["other", "counting"]
    assert source.counts.other_types == 4
    assert len(open_named("sat", path)) == 6


# --- problems with solutions ---


@pytest.mark.parametrize("name", ["clevr", "geoqa_r1v"])
def test_r1_v_sets(name, tmp_path):
    row = {"image": stored(9), "problem": "How many items?", "solution": "<answer> 3 </answer>"}
    source = open_named(name, write_published(tmp_path / "train.parquet", "r1_v", [row]))
    assert (source[0].question, source[0].answer, red(source[0].images[0])) == ("How many items?", "3", 9)
    assert source[0].columns["solution"] == "<answer> 3 </answer>"


def test_open_r1_8k(tmp_path):
    solution = "<think>\nAC is 3,\nso 9.\n</think>\n\n<answer>9 cm</answer>"
    row = {
        "image": stored(5),
        "problem": "How long is AB?",
        "solution": solution,
        "original_question": "AB?",
        "original_answer": "9",
    }
    (example,) = open_named("open_r1_8k", write_published(tmp_path / "t.parquet", "open_r1_8k", [row]))
    assert (example.answer, example.columns["original_answer"]) == ("9 cm", "9")
    assert example.columns["solution"] == solution


# --- Geo170K ---

EXPLAINED = "Angle A is 40.\nSo it is B.\nAnswer:B"
SOLUTION = "<think>Angle A is 40.\nSo it is B.</think> <answer>B</answer>"


def test_geo170k_as_r1_multimodal_journey_keeps_it(tmp_path):
    """A JSON list beside its pictures."""
    (tmp_path / "geo").mkdir()
    (tmp_path / "geo" / "1.png").write_bytes(png(12))
    rows = [
        {"image": "geo/1.png", "question": "Which?\nChoices:\nA: 30\nB: 40", "answer": EXPLAINED},
        {"image": "geo/1.png", "question": "Which?", "answer": "It is 40."},
        {"image": "geo/2.png", "question": "Which?", "answer": "Answer: A"},
    ]
    (tmp_path / "qa_tuning_20k.json").write_text(json.dumps(rows))
    source = open_named("geo170k", tmp_path / "qa_tuning_20k.json")
    assert (source[0].answer, source[0].columns["solution"], red(source[0].images[0])) == ("B", SOLUTION, 12)
    assert source[0].question == rows[0]["question"]
    assert source[1].reason == "the answer has no letter after 'Answer:'"
    assert "there is no file" in source[2].reason


def test_geo170k_as_r1_multimodal_journeys_script_writes_it(tmp_path):
    row = {"image": stored(3), "image_path": "/away/1.png", "problem": "Which?", "solution": SOLUTION}
    (example,) = open_named("geo170k", write_published(tmp_path / "train.parquet", "journey", [row]))
    assert (example.question, example.answer, red(example.images[0])) == ("Which?", "B", 3)


def test_geo170k_as_the_hub_has_it(tmp_path):
    turns = [{"from": "human", "value": "<image>\nWhich?"}, {"from": "gpt", "value": EXPLAINED}]
    row = {"id": "1", "image": stored(4), "conversations": turns, "data_source": "geo170k(qa)"}
    silent = row | {"conversations": turns[:1]}
    source = open_named("geo170k", write_published(tmp_path / "t.parquet", "llava", [row, silent]))
    assert (source[0].question, source[0].answer) == ("Which?", "B")
    assert source[0].columns["solution"] == SOLUTION
    assert source[1].reason == "conversations holds no question with its answer"


# --- text alone ---


def test_gsm8k(tmp_path):
    rows = [gsm8k_row(7), {"question": "And?", "answer": "18"}, {"question": "And?", "answer": "so ####"}]
    source = open_named("gsm8k", write_published(tmp_path / "train.parquet", "gsm8k", rows))
    assert (source[0].question, source[0].answer) == (rows[0]["question"], "7001")
    assert source[0].images == source[0].options == ()
    assert source[0].columns["solution"] == rows[0]["answer"]
    assert [row.reason for row in (source[1], source[2])] == ["the answer has no number after '####'"] * 2


def test_gsm8k_without_its_name_is_not_asked_for_whole_explanations(tmp_path):
    source = open_source(write_published(tmp_path / "train.parquet", "gsm8k", [gsm8k_row(1)]))
    assert source[0].reason.endswith("name the file as gsm8k=FILE")


def test_math(tmp_path):
    solution = r"Since $\boxed{1}$ is wrong, $x = \boxed{\frac{1}{2}}$."
    row = {"problem": "What is x?", "level": "Level 3", "type": "Algebra", "solution": solution}
    rows = [row, row | {"solution": "Nobody knows."}]
    source = open_named("math", write_published(tmp_path / "train.parquet", "math", rows))
    assert (source[0].answer, source[0].task) == (r"\frac{1}{2}", "Algebra")
    assert source[1].reason == r"solution holds no \boxed{answer}"


def test_math_whose_answer_is_a_column(tmp_path):
    (tmp_path / "m.jsonl").write_text(json.dumps({"problem": "What is x?", "answer": 7}))
    assert open_named("math", tmp_path / "m.jsonl")[0].answer == "7"


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"\boxed{3}", "3"),
        (r"\boxed{ a, b }.", "a, b"),
        (r"\fbox{4}", "4"),
        (r"first \boxed{1}, then \boxed{\sqrt{2}}", r"\sqrt{2}"),
        (r"\boxed {5}", "5"),
        (r"\boxed{5", ""),
        (r"\mathboxed{5}", ""),
        ("5", ""),
    ],
)
def test_the_last_box(solution, answer):
    assert last_boxed(solution) == answer


def test_an_empty_and_a_huge_text(tmp_path):
    rows = [{"question": " ", "answer": "#### 1"}, {"question": "1 + 1? " * 200_000, "answer": "#### 2"}]
    source = open_named("gsm8k", write_published(tmp_path / "t.parquet", "gsm8k", rows))
    assert source[0].reason == "question is missing"
    assert len(source[1].question) == 1_400_000


# --- names, columns, the hub ---


@pytest.mark.parametrize("name", NAMED_SETS)
def test_a_file_that_lacks_a_column_is_named_with_it(name, tmp_path):
    column = {"gsm8k": "answer", "sat": "correct_answer", "sat_static": "correct_answer"}.get(name, "problem")
    rows = [{"question": "q", "image": "a.png", "solution": "s"}]
    if name.startswith("sat"):
        rows = [{"image_bytes": [], "question": "q", "answers": ["a"]}]
    if name == "geo170k":
        column, rows = "answer", [{"question": "q", "image": "a.png"}]
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(rows[0]))
    with pytest.raises(ValueError, match=f"t.jsonl: it lacks the column {column} that {name} has") as caught:
        open_named(name, path)
    assert f"its columns are {', '.join(sorted(rows[0]))}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names_list_the_known(tmp_path):
    path = write_published(tmp_path / "t.parquet", "gsm8k", [gsm8k_row(1)])
    for spec in ("gms8k", f"gms8k={path}"):
        with pytest.raises(ValueError, match=r"a known source \(known: clevr, .*gsm8k, .*scenes\)"):
            open_source(spec)
    with pytest.raises(ValueError, match="scenes is drawn and takes no file"):
        open_source(f"scenes={path}")


def test_a_file_whose_path_has_an_equals_sign(tmp_path):
    folder = tmp_path / "year=2024"
    folder.mkdir()
    (folder / "m.jsonl").write_text('{"question": "q", "answer": "a"}')
    assert open_source(folder / "m.jsonl")[0].answer == "a"


def test_several_files_of_a_name(tmp_path):
    for number in range(2):
        write_published(tmp_path / f"{number}.parquet", "gsm8k", [gsm8k_row(number + 1)])
    assert [row.answer for row in open_named("gsm8k", tmp_path / "*.parquet")] == ["1001", "2001"]


def test_a_json_file_must_be_a_list_of_objects(tmp_path):
    (tmp_path / "a.json").write_text('{"question": "q"}')
    with pytest.raises(ValueError, match=r"a\.json: not a JSON list of objects; .* \.jsonl"):
        open_source(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("[")
    with pytest.raises(ValueError, match=r"b\.json: not JSON"):
        open_source(tmp_path / "b.json")
    (tmp_path / "c.json").write_text('[{"question": "q", "answer": "a"}, 3]')
    assert isinstance(open_source(tmp_path / "c.json")[1], Rejected)


def test_a_name_alone_is_the_hubs_first_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("VTZERO_CACHE", str(tmp_path))
    rows = [gsm8k_row(index) for index in range(1, 4)]
    write_published(tmp_path / "openai_gsm8k--main--train--main--first-3.parquet", "gsm8k", rows)
    assert [row.answer for row in open_source("gsm8k", limit=3)] == ["1001", "2001", "3001"]
    write_published(tmp_path / "openai_gsm8k--main--test--main--all.parquet", "gsm8k", rows[:1])
    assert [row.answer for row in open_source("gsm8k", split="test")] == ["1001"]


@pytest.mark.parametrize("name", NAMED_SETS)
def test_no_network_says_which_local_file_to_give(name, tmp_path, monkeypatch):
    monkeypatch.setenv("VTZERO_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    expected = rf"{NAMED_SETS[name].hub.repo}: it could not be reached.*as data give {name}=FILE\.parquet"
    with pytest.raises(FileNotFoundError, match=expected) as caught:
        open_source(name)
    assert "\n" not in str(caught.value)
