"""Every launch script: what it would run, and what it says to a mistake."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.launching import IMAGE, JOBSET_GPU, JOBSET_TPU, LAUNCH, SHARE, TPU, TRAIN, TYPE, Machine

SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)


# pip puts it beside Python, which need not be on PATH.
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.mark.skipif(not SHELLCHECK, reason="no shellcheck here")
def test_shellcheck() -> None:
    command = [str(SHELLCHECK), "--external-sources", f"--source-path={LAUNCH.parent}", *map(str, SCRIPTS)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


DRY_RUNS = {
    "create": (
        "tpu_pod.sh",
        ["create", *TPU, *TYPE, "--spot"],
        ["queued-resources create pod --node-id=pod", "--spot"],
    ),
    "setup": ("tpu_pod.sh", ["setup", *TPU, *SHARE], ["tar -C", "scp vtzero.tar.gz", "setup 10.0.0.2:/vol"]),
    "run": (
        "tpu_pod.sh",
        ["run", *TPU, *TRAIN],
        ["--worker=all", "run vtzero train configs/tiny.yaml", "--distributed"],
    ),
    "retry": (
        "tpu_pod.sh",
        ["run", "--retry", "3", *TPU, *TYPE, *SHARE, *TRAIN],
        ["create", "setup", "run vtzero"],
    ),
    "status": ("tpu_pod.sh", ["status", *TPU], ["list", "tpu_worker.sh status"]),
    "stop": ("tpu_pod.sh", ["stop", *TPU], ["tpu_worker.sh stop"]),
    "fetch": ("tpu_pod.sh", ["fetch", *TPU, "--run", "tiny"], ["scp pod:vtzero/runs/tiny runs"]),
    "delete": ("tpu_pod.sh", ["delete", *TPU], ["queued-resources delete pod --force"]),
    "jobset": ("jobset.sh", ["apply", *JOBSET_TPU, *TRAIN], ["kind: JobSet", "kubectl apply --filename=-"]),
    "jobset status": ("jobset.sh", ["status", "--name", "a"], ["get jobset a"]),
    "jobset logs": ("jobset.sh", ["logs", "--name", "a"], ["kubectl logs --follow"]),
    "jobset delete": ("jobset.sh", ["delete", "--name", "a"], ["delete jobset a --ignore-not-found"]),
    "gpu host": ("gpu_host.sh", ["--gpus", "0,1", *TRAIN], ["CUDA_VISIBLE_DEVICES=0,1", "vtzero train"]),
    "slurm": (
        "slurm_gpu.sbatch",
        TRAIN,
        ["srun --kill-on-bad-exit=0 --wait=60 vtzero train", "--distributed"],
    ),
}


@pytest.mark.parametrize("name", DRY_RUNS)
def test_a_dry_run_prints_and_runs_nothing(name: str, machine: Machine) -> None:
    script, arguments, expected = DRY_RUNS[name]
    before_command = arguments.index("--") if "--" in arguments else len(arguments)
    result = machine.call(script, *arguments[:before_command], "--dry-run", *arguments[before_command:])
    assert result.returncode == 0, result.stderr
    for text in expected:
        assert text in result.stdout
    assert machine.calls() == []
    assert {path.name for path in machine.folder.iterdir()} == {"bin", "states"}


MISTAKES = {
    "no verb": ("tpu_pod.sh", []),
    "verb": ("tpu_pod.sh", ["launch", *TPU]),
    "flag": ("tpu_pod.sh", ["create", *TPU, "--speed", "9"]),
    "no name": ("tpu_pod.sh", ["status", "--zone", "z"]),
    "name": ("tpu_pod.sh", ["status", "--name", "A pod", "--zone", "z"]),
    "no value": ("tpu_pod.sh", ["create", "--name"]),
    "flag for a value": ("tpu_pod.sh", ["create", "--name", "--zone", "z"]),
    "no type": ("tpu_pod.sh", ["create", *TPU]),
    "type": ("tpu_pod.sh", ["create", *TPU, "--type", "v9-8"]),
    "share": ("tpu_pod.sh", ["setup", *TPU, "--share", "gs://bucket"]),
    "no command": ("tpu_pod.sh", ["run", *TPU]),
    "retry": ("tpu_pod.sh", ["run", "--retry", "often", *TPU, *TRAIN]),
    "retry without share": ("tpu_pod.sh", ["run", "--retry", "2", *TPU, *TYPE, *TRAIN]),
    "fetch nothing": ("tpu_pod.sh", ["fetch", *TPU]),
    "no kind": ("jobset.sh", ["apply", *IMAGE]),
    "topology": ("jobset.sh", ["render", "tpu", *IMAGE, "--accelerator", "a", "--topology", "4by4", *TRAIN]),
    "chips": ("jobset.sh", ["render", *JOBSET_TPU, "--chips", "3", *TRAIN]),
    "hosts of a TPU": ("jobset.sh", ["render", *JOBSET_TPU, "--hosts", "3", *TRAIN]),
    "no hosts": ("jobset.sh", ["render", "gpu", *IMAGE, "--accelerator", "a", *TRAIN]),
    "image": ("jobset.sh", ["render", *JOBSET_GPU, "--image", "a: b", *TRAIN]),
    "line break": ("jobset.sh", ["render", *JOBSET_GPU, "--", "train", "a\nb"]),
    "nothing to run": ("gpu_host.sh", []),
    "gpus": ("gpu_host.sh", ["--gpus", "two", *TRAIN]),
    "gpu host flag": ("gpu_host.sh", ["--cpus", "2", *TRAIN]),
    "slurm": ("slurm_gpu.sbatch", ["train", "configs/tiny.yaml"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, machine: Machine) -> None:
    script, arguments = MISTAKES[name]
    result = machine.call(script, *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(rf"{re.escape(script)}: .+\n", result.stderr)
    assert machine.calls() == []
