"""Processes that cannot join their job, or fail as they do, end it within a time that is known."""

import socket
from pathlib import Path

import pytest
from fixtures.jobs import Job

from vtzero.parallel.processes import start

IMPATIENT, LINGERING = (str(Path(__file__).with_name(name)) for name in ("impatient.py", "lingering.py"))


@pytest.mark.parametrize("number", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_where_the_other_is_not_there_one_line_says_what_to_check(number, tmp_path):
    job = Job(2, ["export", tmp_path, tmp_path / "out"], tmp_path, program=[IMPATIENT, "2"])
    job.processes[1 - number].kill()
    assert job.codes(60)[number] == 1
    said = job.logs[number].read_text().splitlines()[0]
    assert said.startswith("vtzero export: cannot join the other processes at 127.0.0.1:")
    assert "not all were there within 2 s; check that every process" in said


def test_a_coordinators_port_that_is_taken_is_said():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        job = {"JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": f"host:{port}"}
        with pytest.raises(ChildProcessError, match=f"cannot listen at port {port} of this machine: Address"):
            start(job | {"JAX_PROCESS_ID": "0"})


@pytest.mark.parametrize("number", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_config_that_one_process_cannot_read_ends_all_with_the_code_of_a_mistake(number, tmp_path):
    (tmp_path / f"{number}.yaml").write_text("stteps: 3")
    (tmp_path / f"{1 - number}.yaml").write_text(f"output_dir: {tmp_path}/run")
    job = Job(2, ["train", tmp_path / "$SEED.yaml"], tmp_path, program=[IMPATIENT, "300"])
    assert job.codes(60) == [2, 2]
    one, other = (job.logs[each].read_text().splitlines()[-1] for each in (number, 1 - number))
    assert one.startswith("vtzero train: ")
    assert "stteps" in one
    assert other == one.replace("train: ", f"train: process {number}: ")
    assert not (tmp_path / "run").exists()


def test_a_process_that_ends_after_the_first_keeps_its_own_code(tmp_path):
    job = Job(2, ["train", tmp_path / "absent.yaml"], tmp_path, program=[LINGERING])
    assert job.codes(60) == [2, 2]
