"""A TPU slice from request to deletion, with a stand-in for gcloud."""

import re
import shlex

import pytest
from fixtures.launching import SHARE, TPU, TRAIN, TYPE, Machine


def test_tpu_create_waits_until_it_is_there(machine: Machine) -> None:
    result = machine.call(
        "tpu_pod.sh", "create", *TPU, *TYPE, "--poll", "0", states=" WAITING_FOR_RESOURCES ACTIVE"
    )
    assert result.returncode == 0, result.stderr
    assert machine.verbs() == ["list", "create", "list", "list"]
    assert "--spot" not in machine.calls()[1]
    assert "--runtime-version=v2-alpha-tpuv5-lite" in machine.calls()[1]


def test_tpu_create_again_changes_nothing(machine: Machine) -> None:
    assert machine.call("tpu_pod.sh", "create", *TPU, *TYPE, states="ACTIVE ACTIVE").returncode == 0
    assert machine.verbs() == ["list", "list"]


def test_tpu_create_after_a_preemption_replaces_the_request(machine: Machine) -> None:
    states = "SUSPENDING SUSPENDED ACTIVE"
    assert machine.call("tpu_pod.sh", "create", *TPU, *TYPE, "--poll", "0", states=states).returncode == 0
    assert machine.verbs() == ["list", "list", "delete", "create", "list"]


def test_tpu_create_fails_when_the_request_does(machine: Machine) -> None:
    assert machine.call("tpu_pod.sh", "create", *TPU, *TYPE, "--poll", "0", states=" FAILED").returncode == 1


def test_tpu_state_that_cannot_be_read_is_not_absence(machine: Machine) -> None:
    assert machine.call("tpu_pod.sh", "delete", *TPU, FAILS="list").returncode == 1
    assert machine.verbs() == ["list"]


def test_tpu_delete(machine: Machine) -> None:
    assert machine.call("tpu_pod.sh", "delete", *TPU, states="ACTIVE").returncode == 0
    assert machine.verbs() == ["list", "delete"]
    assert machine.call("tpu_pod.sh", "delete", *TPU).returncode == 0
    assert machine.verbs() == ["list"]


def test_tpu_setup_sends_the_code_to_all(machine: Machine) -> None:
    assert machine.call("tpu_pod.sh", "setup", *TPU, *SHARE, "--project", "mine").returncode == 0
    assert machine.verbs() == ["scp", "ssh"]
    assert all("--worker=all" in call and "--project=mine" in call for call in machine.calls())


def test_tpu_run_passes_the_exit_code_on(machine: Machine) -> None:
    result = machine.call("tpu_pod.sh", "run", *TPU, *TRAIN, FAILS="tpu_worker.sh run", FAIL_CODE="7")
    assert result.returncode == 7
    command = re.search(r"--command=(.*?) --ssh-flag", machine.calls()[0])
    assert command
    assert shlex.split(command[1])[3:] == ["vtzero", *TRAIN[1:], "--distributed"]


@pytest.mark.parametrize("code", [255, 75], ids=["connection lost", "saved"])
def test_tpu_retry_makes_it_again(code: int, machine: Machine) -> None:
    arguments = ["run", "--retry", "1", "--poll", "0", *TPU, *TYPE, *SHARE, *TRAIN]
    states = " ACTIVE SUSPENDED ACTIVE"  # none yet; there; taken away in the run; there again
    result = machine.call("tpu_pod.sh", *arguments, states=states, FAILS="worker.sh run", FAIL_CODE=str(code))
    assert result.returncode == code
    steps = ["scp", "ssh", "ssh"]
    assert machine.verbs() == ["list", "create", "list", *steps, "list", "delete", "create", "list", *steps]


@pytest.mark.parametrize("code", [2, 130], ids=["mistake", "stopped"])
def test_tpu_retry_does_not_repeat_what_is_meant_to_end(code: int, machine: Machine) -> None:
    arguments = ["run", "--retry", "5", *TPU, *TYPE, *SHARE, *TRAIN]
    fails = {"FAILS": "worker.sh run", "FAIL_CODE": str(code)}
    result = machine.call("tpu_pod.sh", *arguments, states="ACTIVE ACTIVE", **fails)
    assert result.returncode == code
    assert machine.verbs() == ["list", "list", "scp", "ssh", "ssh"]
