"""Several processes train as one: the numbers of one, on any mesh, and one that writes."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from fixtures.command import options
from fixtures.jobs import VTZERO, Job
from fixtures.tiny_folder import make_tiny_folder

from vtzero.training.completions import read_completions
from vtzero.training.metrics import read_metrics

CONFIG = Path(__file__).parents[2] / "configs" / "tiny.yaml"
STEPS, SECONDS = 4, 60
# Processes, and the mesh over their four devices. Along `tensor` several processes share samples.
JOBS = [
    (2, {"data": 4}, "mixed"),
    (2, {"tensor": 4}),
    *(
        pytest.param((count, mesh), marks=pytest.mark.slow)
        for count, mesh in [
            (2, {"data": 4}),
            (2, {"data": 2, "tensor": 2}),
            (2, {"fsdp": 2, "tensor": 2}),
            (4, {"data": 4}),
            (4, {"fsdp": 4}),
            (4, {"tensor": 4}),
            (4, {"data": 2, "tensor": 2}),
            (4, {"fsdp": 2, "tensor": 2}),
            (4, {"data": 2, "fsdp": 2}),
        ]
    ),
]
ALONE = (1, {"data": 4})
SETTINGS = {
    "max_steps": STEPS,
    "save_steps": 2,
    "eval_steps": STEPS,
    "eval_limit": 5,
    "eval_batch_size": 4,
    "prompts_per_step": 4,
    "num_generations": 4,
    "max_completion_length": 6,
    "max_prompt_length": 400,
    "learning_rate": 1e-3,
    "beta": 0.1,
    "logging_steps": 1,
}
REWARD = """
def parity(completions, **columns):
    return [float(sum(map(ord, text)) % 2) for text in completions]
"""
# A mesh whose order mixes the devices of two processes, as the wires of a TPU slice do.
MIXED = """
import sys
import jax
from vtzero.cli import main
from vtzero.training import setup

make_mesh = setup.make_mesh
setup.make_mesh = lambda settings: make_mesh(settings, [jax.devices()[at] for at in (0, 2, 3, 1)])
sys.exit(main())
"""
OF_THE_MACHINE = ("timing_s/", "perf/", "compile/", "tokens_per")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    (folder / "own.py").write_text(REWARD)
    return make_tiny_folder(folder / "model", num_hidden_layers=1)


def command(model: Path, folder: Path, **changes) -> list:
    own = {"model": model, "output_dir": folder, "reward_funcs": f"[{model.parent}/own.py:parity]"}
    return ["train", CONFIG, *options(**SETTINGS | own | changes)]


@pytest.fixture(scope="module")
def runs(model, tmp_path_factory):
    """The folder of a finished run in so many processes on a mesh, made when it is asked for."""
    base = tmp_path_factory.mktemp("runs")
    (base / "mixed.py").write_text(MIXED)

    @cache
    def run(name: str) -> Path:
        count, mesh, *mixed = json.loads(name)
        folder = base / f"run-{len(list(base.glob('run-*')))}"
        sizes = {f"mesh.{axis}": mesh.get(axis, 1) for axis in ("data", "fsdp", "tensor")}
        program = [str(base / "mixed.py")] if mixed else VTZERO
        Job(count, command(model, folder, **sizes), base, program=program).run()
        return folder

    return lambda job: run(json.dumps(job))


def numbers(step: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in step.items() if not name.startswith(OF_THE_MACHINE)}


@pytest.mark.parametrize("job", JOBS, ids=str)
def test_numbers_and_answers_are_those_of_one_process(runs, job):
    alone, together = (read_metrics(runs(which)) for which in (ALONE, job))
    assert [step["step"] for step in together] == [1, 2, 3, 4]
    assert any(step["grad_norm"] for step in alone)
    for one, other in zip(alone, together, strict=True):
        assert numbers(other) == pytest.approx(numbers(one), rel=1e-5, abs=1e-6)
    for step in range(1, STEPS + 1):
        one, other = (read_completions(runs(which), steps=[step]) for which in (ALONE, job))
        for column in ("prompt", "completion", "image", "rewards/parity", "answer"):
            assert [row[column] for row in one] == [row[column] for row in other]
    assert results(runs(job)) == results(runs(ALONE))


def results(folder: Path) -> list[dict]:
    (path,) = (folder / "eval").glob(f"*-{STEPS}.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("job", JOBS, ids=str)
def test_only_the_first_process_writes(runs, job):
    found = [{path.name for path in runs(which).iterdir()} for which in (ALONE, job)]
    assert found[0] == found[1]
    sizes = json.loads((runs(job) / "summary.json").read_text())["mesh"]
    assert {axis: size for axis, size in sizes.items() if size > 1} == job[1]
    one, other = ((runs(which) / "export" / "model.safetensors").read_bytes() for which in (ALONE, job))
    one, other = (np.frombuffer(each[-4096:], np.float32) for each in (one, other))
    np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-6)


SFT = {
    "method": "sft",
    "max_steps": 2,
    "save_steps": 2,
    "eval_data": "null",
    "prompts_per_step": 4,
    "max_completion_length": 12,
    "max_prompt_length": 200,
    "learning_rate": 1e-3,
}


@pytest.mark.slow
def test_supervised_numbers_are_those_of_one_process(model, tmp_path):
    """Every third row has an answer that is too long."""
    answers = ["left", "a long answer " * 20, "right of it"] * 4
    rows = [{"question": f"What is {number}?", "answer": answer} for number, answer in enumerate(answers)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mixed.py").write_text(MIXED)
    own = {"model": model, "data": tmp_path / "rows.jsonl"}
    for count, program in ((1, VTZERO), (2, [str(tmp_path / "mixed.py")])):
        settings = options(**SFT | own, output_dir=tmp_path / f"run-{count}")
        Job(count, ["train", CONFIG, *settings], tmp_path, program=program).run()
    alone, together = (read_metrics(tmp_path / f"run-{count}") for count in (1, 2))
    assert sum(step["rejected_samples"] for step in alone) > 0
    for one, other in zip(alone, together, strict=True):
        assert numbers(other) == pytest.approx(numbers(one), rel=1e-5, abs=1e-6)
    rejected = [(tmp_path / f"run-{count}" / "rejected.jsonl").read_text() for count in (1, 2)]
    assert rejected[0] == rejected[1]


TELLS_WHAT_IT_PREPARES = """
import sys
import jax
from pathlib import Path
from vtzero import cli
from vtzero.data.processor import Processor

prepare = Processor.prepare

def telling(self, example, template):
    with Path(f"prepared-{jax.process_index()}").open("a") as file:
        file.write(example.id + "\\n")
    return prepare(self, example, template)

Processor.prepare = telling
sys.exit(cli.main(sys.argv[1:]))
"""


def test_an_evaluation_is_that_of_one_process_and_each_prepares_its_share(model, tmp_path, monkeypatch):
    """A second start that asks in another way is a mistake that the first process finds, and ends both."""
    asked = {"limit": 7, "batch-size": 4, "max-completion-length": 12, "max-prompt-length": 300}
    monkeypatch.chdir(tmp_path)
    for count, program in ((1, VTZERO), (2, ("-c", TELLS_WHAT_IT_PREPARES))):
        out = tmp_path / f"out-{count}"
        Job(count, ["eval", *options(model=model, out=out, **asked)], tmp_path, program=program).run()
    prepared = [(tmp_path / f"prepared-{process}").read_text().split("\n")[:-1] for process in (0, 1)]
    rows = [json.loads(line) for line in (out / "eval" / "scenes-0.jsonl").read_text().splitlines()]
    ids = [row["id"] for row in rows]
    # The last batch has three items: the second process has one of them, and one that fills the batch up.
    assert prepared == [ids[0:2] + ids[4:6], [*ids[2:4], ids[6], ids[4]]]
    for name in ("scenes-0.json", "scenes-0.jsonl"):
        one, other = ((tmp_path / f"out-{count}" / "eval" / name).read_bytes() for count in (1, 2))
        assert one == other
    job = Job(2, ["eval", *options(model=model, out=out, **asked | {"limit": 6})], tmp_path)
    assert job.codes(SECONDS) == [2, 2]
    assert "was made with another items 7, now 6" in job.logs[1].read_text()


CANNOT_READ = """
import sys
import jax
from vtzero import cli
from vtzero.data.example import Rejected
from vtzero.data.processor import Processor

prepare = Processor.prepare

def fails_once(self, example, template):
    if jax.process_index() == 1 and example.id.endswith("2"):
        return Rejected(example.id, "the link cannot be reached")
    return prepare(self, example, template)

Processor.prepare = fails_once
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_what_one_process_cannot_read_no_process_asks(model, tmp_path):
    asked = {"limit": 7, "batch-size": 2, "max-completion-length": 12, "max-prompt-length": 300}
    outs = []
    for count, program in ((1, VTZERO), (2, ("-c", CANNOT_READ))):
        outs.append(tmp_path / f"out-{count}")
        Job(count, ["eval", *options(model=model, out=outs[-1], **asked)], tmp_path, program=program).run()
    whole, rest = (
        {
            row["id"]: row
            for row in map(json.loads, (out / "eval" / "scenes-0.jsonl").read_text().splitlines())
        }
        for out in outs
    )
    assert len(rest) == len(whole) - 1
    assert all(row["output"] == whole[name]["output"] for name, row in rest.items())
    assert json.loads((outs[1] / "eval" / "scenes-0.json").read_text())["rejected"] == 1


def test_processes_that_disagree_on_the_config_say_so(model, tmp_path):
    job = Job(2, [*command(model, tmp_path / "run"), "--seed", "$SEED"], tmp_path)
    assert job.codes(SECONDS) == [2, 2]
    assert "process 1 has another seed; start all processes with one config" in job.logs[0].read_text()
