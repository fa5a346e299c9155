"""The command line as a person uses it: the real command, its files, its errors in one line."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from fixtures.command import options, vtzero
from fixtures.fast_compile import FAST_COMPILE_FLAGS
from fixtures.tiny_folder import make_tiny_folder
from PIL import Image

from vtzero.training.completions import read_completions

CONFIG = Path(__file__).parents[2] / "configs" / "tiny.yaml"
REAL_IMAGES = Path(__file__).parents[3] / "shared" / "real" / "images"
SMALL = {
    "max_steps": 2,
    "prompts_per_step": 2,
    "num_generations": 2,
    "max_completion_length": 6,
    "max_prompt_length": 400,
    "eval_limit": 4,
    "eval_batch_size": 4,
    "tensorboard": "false",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_folder(tmp_path_factory.mktemp("model") / "folder")


def test_train_fills_the_run_folder_and_prints_its_summary(model, tmp_path):
    out = tmp_path / "run"
    printed, _ = vtzero("train", CONFIG, "--json", *options(model=model, output_dir=out, **SMALL))
    summary = json.loads(printed.splitlines()[-1])
    assert summary == json.loads((out / "summary.json").read_text())
    assert {"accuracy_before", "accuracy_after", "steps", "seconds", "time_by_phase"} <= summary.keys()
    assert summary["steps"] == 2
    found = {path.name for path in out.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "completions", "checkpoints", "eval", "export"} <= found
    assert "\x1b" not in printed  # not a terminal: plain lines
    again, _ = vtzero("train", CONFIG, *options(model=model, output_dir=out, **SMALL))
    assert "step 1/2" not in again  # nothing is left to do


def test_eight_devices_train_as_one_does(model, tmp_path):
    reward = tmp_path / "mine.py"
    reward.write_text("def parity(completions, **columns):\n    return [len(c) % 2 for c in completions]\n")
    settings = SMALL | {"prompts_per_step": 8, "eval_data": "null", "reward_funcs": f"[{reward}:parity]"}
    eight = {"XLA_FLAGS": f"{FAST_COMPILE_FLAGS} --xla_force_host_platform_device_count=8"}
    one, many = tmp_path / "one", tmp_path / "many"
    vtzero("train", CONFIG, *options(model=model, output_dir=one, **settings))
    mesh = {"mesh.data": 4, "mesh.fsdp": 2}
    vtzero("train", CONFIG, *options(model=model, output_dir=many, **settings, **mesh), environment=eight)
    drawn, again = (read_completions(folder, columns=["completion"]) for folder in (one, many))
    assert len(drawn) == 32
    assert drawn == again
    norms, others = (
        [json.loads(line)["grad_norm"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (one, many)
    )
    assert min(norms) > 0.01
    assert norms == pytest.approx(others, rel=1e-4)


def test_a_run_over_another_runs_folder_is_refused(model, tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 5\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    _, error = vtzero("train", CONFIG, *options(model=model, output_dir=tmp_path), code=2)
    assert "seed" in error
    assert len(error.splitlines()) == 1


def test_import_and_export_give_the_same_tensors(model, tmp_path):
    vtzero("import", model, tmp_path / "orbax")
    vtzero("export", tmp_path / "orbax", tmp_path / "back")
    for name in ("model.safetensors", "config.json", "tokenizer.json", "preprocessor_config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (model / name).read_bytes()


def test_eval_reports_every_item_and_the_table(model, tmp_path):
    printed, _ = vtzero(
        "eval",
        "--json",
        "--model",
        model,
        "--limit",
        4,
        "--batch-size",
        4,
        "--max-completion-length",
        4,
        "--out",
        tmp_path,
    )
    figures = json.loads(printed.splitlines()[-1])
    assert figures["n"] == 4
    assert len((tmp_path / "eval" / "scenes-0.jsonl").read_text().splitlines()) == 4


def test_sample_answers_a_question_about_a_picture(model, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    arguments = ["--model", model, "--image", tmp_path / "picture.png", "-n", 3, "--max-completion-length", 5]
    asked = ["sample", "--json", *arguments, "--answer", "2", "How many dots?"]
    printed, _ = vtzero(*asked)
    answers = json.loads(printed.splitlines()[-1])["answers"]
    assert len(answers) == 3
    assert all(set(answer["rewards"]) == {"accuracy_strict", "format_paper"} for answer in answers)
    again = json.loads(vtzero(*asked)[0].splitlines()[-1])["answers"]
    assert [one["ids"] for one in again] == [one["ids"] for one in answers]  # same seed, same words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "nowhere.yaml"], ["nowhere.yaml", "no such config file"]),
        (["train", CONFIG, "--learning_rat", "1"], ["learning_rat", "did you mean 'learning_rate'"]),
        (["train", CONFIG, "--top_p", "2"], ["top_p is 2", "(0, 1]"]),
        (["train", CONFIG, "--model", "nowhere"], ["nowhere", "no such folder"]),
        (["train", CONFIG, "--data", "none.jsonl"], ["none.jsonl"]),
        (["train", CONFIG, "--prompt_template", "r2"], ["r2", "r1_zero_base"]),
        (["train", CONFIG, "--reward_funcs", "[nice]"], ["nice", "accuracy_strict"]),
        (["eval", "--benchmark", "cvbench9000"], ["cvbench9000", "scenes"]),
        (["export", "nowhere", "out"], ["nowhere"]),
        (["import", "nowhere", "out"], ["nowhere"]),
        (["sample", "--image", "none.png", "What?"], ["none.png"]),
    ],
    ids=lambda value: "-".join(map(str, value[-2:])) if isinstance(value, list) else "",
)
def test_a_users_mistake_is_one_line_and_exit_code_2(arguments, words, model, tmp_path):
    if arguments[0] in ("train", "eval", "sample") and "--model" not in arguments:
        arguments = [
            *arguments[:1],
            *(arguments[1:2] if arguments[0] == "train" else []),
            "--model",
            model,
            *arguments[2 if arguments[0] == "train" else 1 :],
        ]
    if arguments[0] == "train":
        arguments = [*arguments, "--output_dir", tmp_path / "run"]
    _, error = vtzero(*arguments, code=2)
    assert len(error.splitlines()) == 1
    assert all(word in error for word in words)


def test_weights_cut_short_are_named(tmp_path):
    broken = make_tiny_folder(tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    _, error = vtzero("eval", "--model", broken, code=2)
    assert "model.safetensors" in error
    assert len(error.splitlines()) == 1


def test_a_tokenizer_cut_short_is_one_line(model, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    path = broken / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:-200])
    _, error = vtzero("sample", "Why?", "--model", broken, code=2)
    assert "broken/tokenizer.json: not JSON" in error
    assert len(error.splitlines()) == 1


def test_a_librarys_error_is_a_failure_with_its_traceback(model, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import tensorboardX.event_file_writer as it\nit.EventsWriter = lambda *a, **k: [].index(1)\n"
    )
    broken = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    settings = SMALL | {"output_dir": tmp_path / "run", "tensorboard": "true"}
    _, error = vtzero("train", CONFIG, *options(model=model, **settings), code=1, environment=broken)
    assert "Traceback" in error


def test_bad_rows_are_set_aside_and_the_run_goes_on(model, tmp_path):
    _write_pictures(tmp_path)
    rows = [
        {"id": "good", "image": "good.png", "question": "How many?", "answer": "2", "options": ["1", "2"]},
        {"id": "cut", "image": "cut.png", "question": "How many?", "answer": "2"},
        {"id": "silent", "image": "good.png", "question": "How many?"},
        {"id": "long", "image": "good.png", "question": "How many? " * 200, "answer": "2"},
    ]
    data = tmp_path / "own.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "run"
    settings = SMALL | {"eval_data": "null", "prompts_per_step": 4}
    vtzero("train", CONFIG, *options(model=model, data=data, output_dir=out, **settings))
    set_aside = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    reasons = {record["id"]: record["reason"] for record in set_aside}
    assert set(reasons) == {"cut", "own.jsonl:3", "long"}
    assert "answer" in reasons["own.jsonl:3"]
    assert "bucket" in reasons["long"]
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert sum(line["rejected_samples"] for line in metrics) == len(set_aside)
    assert len(metrics) == 2


def test_the_tiny_base_is_made_from_nothing_and_exported(tmp_path):
    settings = SMALL | {"output_dir": tmp_path / "base", "prompts_per_step": 2, "max_prompt_length": 112}
    vtzero("train", CONFIG.with_name("tiny_base.yaml"), *options(**settings))
    exported = {path.name for path in (tmp_path / "base" / "export").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"} <= exported


def test_a_mistake_at_the_start_does_not_bind_the_folder(model, tmp_path):
    settings = SMALL | {"output_dir": tmp_path / "run", "max_steps": 1, "eval_data": "null"}
    vtzero("train", CONFIG, *options(model=model, data="typo.jsonl", **settings), code=2)
    vtzero("train", CONFIG, *options(model=model, **settings))


def test_a_run_that_did_nothing_does_not_bind_its_folder(model, tmp_path):
    settings = SMALL | {"output_dir": tmp_path / "run", "max_steps": 1, "eval_data": "null"}
    useless = tmp_path / "mine.py"
    useless.write_text("def f(completions):\n    return [1.0] * len(completions)\n")
    command = ["train", CONFIG, *options(model=model, **settings)]
    _, error = vtzero(*command, "--reward_funcs", f"[{useless}:f]", code=2)
    assert "step 1: no completion has a score (f: TypeError: f() got an unexpected keyword" in error
    assert "rejected.jsonl has every reason" in error
    (tmp_path / "file").write_text("")
    _, error = vtzero(*command, "--output_dir", tmp_path / "file" / "run", code=2)
    assert "is no folder; choose another output_dir" in error


def test_an_evaluation_in_which_nothing_can_be_asked_is_one_line(model, tmp_path):
    settings = SMALL | {"output_dir": tmp_path / "run", "max_prompt_length": 10}
    _, error = vtzero("train", CONFIG, *options(model=model, **settings), code=2)
    assert "no item could be asked" in error
    assert len(error.splitlines()) == 1


def test_a_reward_that_raises_costs_its_samples_and_nothing_else(model, tmp_path):
    reward = tmp_path / "mine.py"
    reward.write_text(
        "def picky(completions, **columns):\n"
        "    if len(completions) > 1 or len(completions[0]) % 2:\n"
        "        raise RuntimeError('odd length')\n"
        "    return [1.0]\n"
    )
    out = tmp_path / "run"
    settings = SMALL | {"eval_data": "null", "reward_funcs": f"[{reward}:picky]"}
    vtzero("train", CONFIG, *options(model=model, output_dir=out, **settings))
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert sum(line["reward_failures"] for line in metrics) > 0
    records = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert any("odd length" in record["reason"] and record["kind"] == "reward" for record in records)


@pytest.mark.skipif(not REAL_IMAGES.is_dir(), reason="the real frames are not here")
def test_a_persons_own_photographs_train_and_evaluate(model, tmp_path):
    (tmp_path / "frames").symlink_to(REAL_IMAGES)
    frames = sorted(REAL_IMAGES.glob("*.jpg"))
    rows = [
        {
            "image": f"frames/{frame.name}",
            "question": "Is there a chair?",
            "answer": "yes",
            "options": ["yes", "no"],
        }
        for frame in frames
    ]
    data = tmp_path / "frames.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "run"
    settings = SMALL | {"data": data, "eval_data": data, "max_pixels": 112 * 112, "eval_limit": 3}
    printed, _ = vtzero("train", CONFIG, "--json", *options(model=model, output_dir=out, **settings))
    assert json.loads(printed.splitlines()[-1])["steps"] == 2
    assert (out / "rejected.jsonl").read_text() == ""


def _write_pictures(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "good.png")
    whole = (folder / "good.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
