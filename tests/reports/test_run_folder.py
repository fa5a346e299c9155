"""What a run folder holds is read, whatever state the run is in; what cannot be read is said."""

import json

import pytest

from vtzero.reports.run_folder import differing, read_run
from vtzero.training.completions import CompletionRow, write_completions


def written(folder, **files):
    """A folder with these files; `eval_` stands for `eval/`, and objects become lines of JSON."""
    (folder / "eval").mkdir(parents=True)
    for name, content in files.items():
        if not isinstance(content, str):
            content = "".join(json.dumps(each) + "\n" for each in content)
        (folder / name.replace("eval_", "eval/").replace("__", ".")).write_text(content)
    return folder


EVALUATION = {"accuracy": 50.0, "n": 4, "tasks": {}, "rejected_items": [{"id": "a", "reason": "b"}]}


def test_metrics_become_columns(tmp_path):
    lines = [{"step": 1, "loss": 0.5}, {"step": 3, "loss": None, "kl": 1}]
    run = read_run(str(written(tmp_path / "run", metrics__jsonl=lines)))
    assert run.metrics == {"step": [1, 3], "loss": [0.5, None], "kl": [None, 1]}
    assert (run.label, run.last_step, run.finished, run.warnings) == ("run", 3, False, [])


def test_a_run_under_way_has_a_torn_line(tmp_path):
    whole = json.dumps({"step": 1, "loss": 0.5}) + "\n"
    run = read_run(str(written(tmp_path / "run", metrics__jsonl=whole + '{"step": 2, "lo')))
    assert run.metrics["step"] == [1]
    assert run.warnings == []


@pytest.mark.parametrize("damage", ["{broken", "[1]", "\0\0", '{"step": 1, "step": 2}'])
def test_a_damaged_line_is_left_out_and_told(tmp_path, damage):
    lines = f'{{"step": 1, "loss": 1}}\n{damage}\n{{"step": 2, "loss": 2}}\n'
    run = read_run(str(written(tmp_path / "run", metrics__jsonl=lines)))
    assert run.metrics["loss"] == [1, 2]
    (warning,) = run.warnings
    assert warning.startswith("metrics.jsonl: line 2 is left out (")


@pytest.mark.parametrize("value", ['"much"', "true", "[1]", "null"])
def test_what_is_no_number_is_no_value(tmp_path, value):
    run = read_run(str(written(tmp_path / "run", metrics__jsonl=f'{{"step": 1, "loss": {value}}}\n')))
    assert run.metrics["loss"] == [None]


def test_evaluations_in_the_order_of_their_steps(tmp_path):
    files = {f"eval_scenes-{step}__json": [EVALUATION] for step in (100, 20, 0)}
    run = read_run(str(written(tmp_path / "run", **files, eval_scenes__settings__json=[{}])))
    assert [each["step"] for each in run.evaluations] == [0, 20, 100]
    assert run.evaluations[0] == {"benchmark": "scenes", "step": 0, "accuracy": 50.0, "n": 4, "tasks": {}}
    assert run.finished  # there is nothing that could go on
    assert run.warnings == []


def test_the_recipe_is_flat_and_need_not_be_one_of_today(tmp_path):
    recipe = "method: grpo\nmesh: {data: 2}\nkey_of_another_year: 3\n"
    run = read_run(str(written(tmp_path / "run", config__yaml=recipe)))
    assert run.recipe == {"method": "grpo", "mesh.data": 2, "key_of_another_year": 3}


def test_recipes_are_compared(tmp_path):
    recipes = ["beta: 0.1\nseed: 1\n", "beta: 0.1\nseed: 2\nextra: 1\n"]
    runs = [
        read_run(str(written(tmp_path / str(at), config__yaml=recipe))) for at, recipe in enumerate(recipes)
    ]
    assert differing(runs) == ["seed", "extra"]
    assert differing(runs[:1]) == []


def test_what_is_damaged_beside_the_metrics_is_told(tmp_path):
    files = {"config__yaml": "a: [", "summary__json": "{", "environment__json": "", "eval_a-1__json": "no"}
    run = read_run(str(written(tmp_path / "run", **files, metrics__jsonl=[{"step": 1}])))
    assert [warning.split()[0] for warning in run.warnings] == [
        "config.yaml",
        "eval/a-1.json",
        "environment.json",
        "summary.json",
    ]


def test_time_by_phase_of_a_run_under_way_is_that_of_its_steps(tmp_path):
    lines = [
        {"step": step, "timing_s/gen": 2.0, "timing_s/ref": None, "timing_s/step": 3.0} for step in (1, 2)
    ]
    folder = written(tmp_path / "run", metrics__jsonl=lines)
    assert read_run(str(folder)).time_by_phase() == {"gen": 4.0, "ref": 0.0}
    (folder / "summary.json").write_text('{"steps": 2, "time_by_phase": {"gen": 9.0}}')
    assert read_run(str(folder)).time_by_phase() == {"gen": 9.0}


def test_rejected_samples_are_counted_by_kind(tmp_path):
    kinds = ["sample", "reward", "sample"]
    lines = [{"step": 1, "id": "a", "kind": kind, "reason": "b"} for kind in kinds]
    run = read_run(f"a run={written(tmp_path / 'run', rejected__jsonl=lines, metrics__jsonl=[{'step': 1}])}")
    assert (run.rejected, run.label) == ({"sample": 2, "reward": 1}, "a run")


def test_a_run_of_completions_alone_is_one(tmp_path):
    write_completions(tmp_path, 1, [CompletionRow("q", "a", {}, 0.0, 0.0, 1, True)])
    assert read_run(str(tmp_path)).last_step == 0


def test_a_run_that_was_made_longer_is_not_finished_by_its_old_summary(tmp_path):
    old = {"steps": 2, "time_by_phase": {"gen": 9.0}}
    lines = [{"step": step, "timing_s/gen": 1.0} for step in (1, 2, 3)]
    files = {"metrics__jsonl": lines, "summary__json": [old]}
    run = read_run(str(written(tmp_path / "longer", **files, config__yaml="max_steps: 4\n")))
    assert (run.finished, run.summary, run.time_by_phase()) == (False, None, {"gen": 3.0})
    run = read_run(str(written(tmp_path / "done", **files | {"metrics__jsonl": lines[:2]})))
    assert (run.finished, run.summary) == (True, old)


def test_of_a_run_that_logs_now_and_then_all_steps_count(tmp_path):
    lines = [{"step": step, "timing_s/gen": 1.0} for step in (10, 20)]
    run = read_run(str(written(tmp_path / "run", metrics__jsonl=lines)))
    assert run.time_by_phase() == {"gen": 20.0}


def test_a_folder_may_have_a_name_with_an_equals_sign(tmp_path):
    folder = written(tmp_path / "lr=1e-6", metrics__jsonl=[{"step": 1}])
    assert read_run(str(folder)).label == "lr=1e-6"
    assert read_run(f"small={folder}").label == "small"


def test_an_empty_folder_is_none(tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        read_run(str(tmp_path))
    written(tmp_path / "tiny", metrics__jsonl=[{"step": 1}])
    with pytest.raises(ValueError, match=f"; it holds runs: {tmp_path}/tiny and so on"):
        read_run(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no such run folder"):
        read_run(str(tmp_path / "absent"))
