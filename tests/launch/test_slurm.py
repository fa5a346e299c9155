"""GPU nodes under Slurm, with stand-ins for its commands."""

import shlex
import signal
import subprocess

import pytest
from fixtures.launching import TRAIN, Machine, wait_until

COMMAND = ["srun", "--kill-on-bad-exit=0", "--wait=60", "vtzero", *TRAIN[1:], "--distributed"]
JOB = {"SLURM_GPUS_ON_NODE": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_JOB_ID": "17"}

# As the real one, it kills its processes when it gets SIGTERM itself; they are told by scancel or by Slurm.
SRUN = """#!/usr/bin/env bash
trap 'exit 137' TERM
touch up
until [[ -e told ]]; do sleep 0.05; done
sleep 0.2
touch saved
exit $STEP_CODE
"""
SCANCEL = """#!/usr/bin/env bash
echo "scancel $*" >>"$CALLS"
touch told
"""


def test_a_dry_run_can_be_pasted(machine: Machine) -> None:
    printed = machine.call("slurm_gpu.sbatch", "--dry-run", *TRAIN).stdout
    settings = [
        "XLA_PYTHON_CLIENT_MEM_FRACTION=0.92",
        f"JAX_COMPILATION_CACHE_DIR={machine.folder}/cache/programs",
    ]
    assert shlex.split(printed) == [*settings, *COMMAND]


def test_one_process_a_gpu(machine: Machine) -> None:
    result = machine.call("slurm_gpu.sbatch", *TRAIN, FAILS="train", FAIL_CODE="5", **JOB)
    assert result.returncode == 5
    assert machine.calls() == [" ".join(COMMAND)]
    result = machine.call("slurm_gpu.sbatch", *TRAIN, **{**JOB, "SLURM_NTASKS_PER_NODE": "1"})
    assert result.returncode == 2
    assert "--ntasks-per-node=4" in result.stderr
    assert machine.calls() == []


@pytest.mark.parametrize("given", ["", "/elsewhere"])
def test_compiled_programs_are_kept_where_all_nodes_see_them(given: str, machine: Machine) -> None:
    machine.program("srun", '#!/usr/bin/env bash\necho "$JAX_COMPILATION_CACHE_DIR"\n')
    own = {"JAX_COMPILATION_CACHE_DIR": given} if given else {}
    printed = machine.call("slurm_gpu.sbatch", *TRAIN, **own).stdout
    assert printed == (given or f"{machine.folder}/cache/programs") + "\n"


def running(machine: Machine, **environment: str) -> "subprocess.Popen[bytes]":
    """A job whose step waits to be told, and then ends with `STEP_CODE`."""
    machine.program("srun", SRUN)
    machine.program("scancel", SCANCEL)
    job = machine.start("slurm_gpu.sbatch", *TRAIN, **JOB, **environment)
    wait_until((machine.folder / "up").exists)
    return job


@pytest.mark.parametrize(
    ("code", "again"),
    [(75, True), (143, True), (0, False), (2, False)],
    ids=["saved", "killed", "done", "mistake"],
)
def test_near_the_time_limit_the_processes_save_and_the_job_is_queued_again(
    code: int, again: bool, machine: Machine
) -> None:
    job = running(machine, STEP_CODE=str(code))
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=20) == (0 if again else code)
    assert (machine.folder / "saved").exists()
    assert machine.calls() == ["scancel --signal=TERM 17", *["scontrol requeue 17"] * again]


def test_processes_that_do_not_save_in_time_are_not_waited_for(machine: Machine) -> None:
    job = running(machine, STEP_CODE="75", SAVE_SECONDS="1")
    machine.program("scancel", "#!/usr/bin/env bash\nexit 1\n")
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=20) == 0
    assert machine.calls() == ["scontrol requeue 17"]
    (machine.folder / "told").touch()  # ends the stand-in


def test_a_run_that_slurm_told_to_save_is_queued_again(machine: Machine) -> None:
    """As it tells the processes alone when a partition grants the preempted a time of grace."""
    result = machine.call("slurm_gpu.sbatch", *TRAIN, FAILS="train", FAIL_CODE="75", **JOB)
    assert result.returncode == 0
    assert machine.calls() == [" ".join(COMMAND), "scontrol requeue 17"]
    result = machine.call("slurm_gpu.sbatch", *TRAIN, FAILS="train", FAIL_CODE="1", **JOB)
    assert (result.returncode, len(machine.calls())) == (1, 1)


def test_a_cancelled_job_does_not_come_back(machine: Machine) -> None:
    job = running(machine, STEP_CODE="75")
    (machine.folder / "told").touch()
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=20) == 75
    assert (machine.folder / "saved").exists()
    assert machine.calls() == []
