"""The launch scripts: what they would run, what they run, and what they say to a mistake.

No cloud and no cluster: a fake gcloud, kubectl and srun stand first on PATH and write down how they were
called.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])

TPU = ["--name", "pod", "--zone", "us-west4-a"]
TYPE = ["--type", "v5litepod-16"]
SHARE = ["--share", "10.0.0.2:/vol"]
TRAIN = ["--", "train", "configs/tiny.yaml", "--reward_funcs", "[a, 'b c']"]
IMAGE = ["--name", "first", "--image", "europe-docker/project/vtzero:1", "--volume", "runs"]
JOBSET_TPU = ["tpu", *IMAGE, "--accelerator", "tpu-v5-lite-podslice", "--topology", "4x4"]
JOBSET_GPU = ["gpu", *IMAGE, "--accelerator", "nvidia-h100-80gb", "--hosts", "2"]

# Writes down its call; prints the next line of the file `states` when asked for one; fails where told to.
FAKE = """#!/usr/bin/env bash
printf '%s\\n' "${0##*/} $*" >>"$CALLS"
if [[ $* == *queued-resources*list* && -e $STATES ]]; then head -n 1 "$STATES"; sed -i 1d "$STATES"; fi
if [[ $* == *apply*--filename=-* ]]; then cat >"$CALLS.stdin"; fi
if [[ -n $FAILS && $* == *$FAILS* ]]; then exit "${FAIL_CODE:-1}"; fi
"""


class Machine:
    """A folder with the fakes on PATH, and a way to call a script there."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._calls, self._states = folder / "calls", folder / "states"
        self.environment = {
            **os.environ,
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "CALLS": str(self._calls),
            "STATES": str(self._states),
            "FAILS": "",
        }
        (folder / "bin").mkdir()
        for name in ("gcloud", "kubectl", "srun", "scontrol", "vtzero"):
            self.program(name, FAKE)

    def program(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def call(self, script: str, *arguments: str, states: str = "", **environment: str) -> Any:
        self._calls.unlink(missing_ok=True)
        self._states.write_text("".join(f"{state}\n" for state in states.split(" ")) if states else "")
        return subprocess.run(
            ["bash" if script.endswith("sbatch") else str(LAUNCH / script)]
            + ([str(LAUNCH / script)] if script.endswith("sbatch") else [])
            + list(arguments),
            env={**self.environment, **environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=30,
        )

    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines() if self._calls.exists() else []

    def verbs(self) -> list[str]:
        """The calls of gcloud without their flags."""
        return [re.search(r"(queued-resources|tpu-vm) (\S+)", call)[2] for call in self.calls()]  # type: ignore[index]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


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
    "slurm": ("slurm_gpu.sbatch", TRAIN, ["srun --kill-on-bad-exit=1 vtzero train", "--distributed"]),
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


def test_tpu_retry_makes_it_again(machine: Machine) -> None:
    arguments = ["run", "--retry", "1", "--poll", "0", *TPU, *TYPE, *SHARE, *TRAIN]
    states = " ACTIVE SUSPENDED ACTIVE"  # none yet; there; taken away in the run; there again
    result = machine.call("tpu_pod.sh", *arguments, states=states, FAILS="tpu_worker.sh run", FAIL_CODE="255")
    assert result.returncode == 255
    steps = ["scp", "ssh", "ssh"]
    assert machine.verbs() == ["list", "create", "list", *steps, "list", "delete", "create", "list", *steps]


def test_tpu_retry_does_not_repeat_a_mistake(machine: Machine) -> None:
    arguments = ["run", "--retry", "5", *TPU, *TYPE, *SHARE, *TRAIN]
    result = machine.call(
        "tpu_pod.sh", *arguments, states="ACTIVE ACTIVE", FAILS="worker.sh run", FAIL_CODE="2"
    )
    assert result.returncode == 2
    assert machine.verbs() == ["list", "list", "scp", "ssh", "ssh"]


class Worker:
    """tpu_worker.sh in a folder of its own."""

    def __init__(self, folder: Path):
        self.folder = folder / "vtzero"
        (self.folder / "launch").mkdir(parents=True)
        shutil.copy(LAUNCH / "tpu_worker.sh", self.folder / "launch")

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        command = ["bash", "vtzero/launch/tpu_worker.sh", *arguments]
        return subprocess.Popen(
            command, cwd=self.folder.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def call(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=20)
        return process.returncode, output

    def wait_for(self, text: str) -> None:
        log = self.folder / "run.log"
        _wait_until(lambda: log.exists() and text in log.read_text())


def _wait_until(condition: Any, seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.02)


needs_flock = pytest.mark.skipif(not (shutil.which("flock") and shutil.which("setsid")), reason="Linux only")


@needs_flock
def test_worker_passes_output_and_exit_code_on(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    assert worker.call("status") == (0, "no run yet\n")
    assert worker.call("run", "bash", "-c", "echo one; exit 3") == (3, "one\n")
    assert worker.call("status") == (0, "ended with exit code 3\none\n")


@needs_flock
def test_worker_follows_a_run_that_outlived_its_connection(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    first = worker.start("run", "bash", "-c", "echo once; until [[ -e go ]]; do sleep 0.05; done; exit 4")
    worker.wait_for("once")
    first.kill()  # as a connection that breaks
    first.wait()
    assert worker.call("status") == (0, "running\nonce\n")
    second = worker.start("run", "echo", "twice")
    time.sleep(0.2)
    (worker.folder / "go").touch()
    output, _ = second.communicate(timeout=20)
    assert (second.returncode, "once" in output, "twice" in output) == (4, True, False)


@needs_flock
@pytest.mark.parametrize(("trap", "code"), [("exit 0", 0), ("", 1)], ids=["saves", "takes no notice"])
def test_worker_stop(trap: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATIENCE", "1")
    worker = Worker(tmp_path)
    run = worker.start("run", "bash", "-c", f"trap '{trap}' TERM; echo up; while true; do sleep 0.05; done")
    worker.wait_for("up")
    assert worker.call("stop") == (0, "")
    run.communicate(timeout=20)
    assert run.returncode == code
    assert worker.call("stop") == (0, "")


def test_slurm_runs_one_process_a_gpu(machine: Machine) -> None:
    job = {"SLURM_GPUS_ON_NODE": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_JOB_ID": "17"}
    result = machine.call("slurm_gpu.sbatch", *TRAIN, FAILS="train", FAIL_CODE="5", **job)
    assert result.returncode == 5
    assert machine.calls() == ["srun --kill-on-bad-exit=1 vtzero " + " ".join(TRAIN[1:]) + " --distributed"]
    result = machine.call("slurm_gpu.sbatch", *TRAIN, **{**job, "SLURM_NTASKS_PER_NODE": "1"})
    assert result.returncode == 2
    assert "--ntasks-per-node=4" in result.stderr
    assert machine.calls() == []


def test_slurm_queues_again_near_the_time_limit(machine: Machine) -> None:
    machine.program("srun", "#!/usr/bin/env bash\ntrap 'echo saved >saved; exit' TERM\ntouch up\n"
                    "while true; do sleep 0.05; done\n")  # fmt: skip
    command = ["bash", str(LAUNCH / "slurm_gpu.sbatch"), *TRAIN]
    job = subprocess.Popen(command, env={**machine.environment, "SLURM_JOB_ID": "17"}, cwd=machine.folder)
    _wait_until((machine.folder / "up").exists)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=20) == 0
    assert (machine.folder / "saved").exists()
    assert machine.calls() == ["scontrol requeue 17"]


def test_gpu_host_runs_the_command(machine: Machine) -> None:
    assert machine.call("gpu_host.sh", *TRAIN, FAILS="train", FAIL_CODE="9").returncode == 9
    assert machine.calls() == ["vtzero " + " ".join(TRAIN[1:])]


# The fields of jobset.x-k8s.io/v1alpha2, and of batch/v1 and v1 beneath it, that the manifests use.
POD = {
    "restartPolicy": str,
    "terminationGracePeriodSeconds": int,
    "hostNetwork": bool,
    "dnsPolicy": str,
    "nodeSelector": {str: str},
    "tolerations": [{"key": str, "operator": str, "value": str, "effect": str}],
    "containers": [
        {
            "name": str,
            "image": str,
            "workingDir": str,
            "command": [str],
            "args": [str],
            "env": [{"name": str, "value": str, "valueFrom": {"fieldRef": {"fieldPath": str}}}],
            "resources": {"limits": {str: int}},
            "volumeMounts": [{"name": str, "mountPath": str, "subPath": str}],
        }
    ],
    "volumes": [{"name": str, "persistentVolumeClaim": {"claimName": str}, "emptyDir": {"medium": str}}],
}
EXIT_CODES = {"containerName": str, "operator": str, "values": [int]}
JOB = {
    "parallelism": int,
    "completions": int,
    "completionMode": str,
    "backoffLimit": int,
    "podFailurePolicy": {"rules": [{"action": str, "onExitCodes": EXIT_CODES}]},
    "template": {"spec": POD},
}
JOBSET = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str, "annotations": {str: str}},
    "spec": {
        "network": {"enableDNSHostnames": bool, "subdomain": str},
        "failurePolicy": {
            "maxRestarts": int,
            "rules": [{"name": str, "action": str, "onJobFailureReasons": [str]}],
        },
        "replicatedJobs": [{"name": str, "replicas": int, "template": {"spec": JOB}}],
    },
}


def _check(value: Any, schema: Any, where: str) -> None:
    if isinstance(schema, list):
        assert isinstance(value, list), where
        for item in value:
            _check(item, schema[0], f"{where}[]")
    elif isinstance(schema, dict):
        assert isinstance(value, dict), where
        for key, item in value.items():
            assert key in schema or str in schema, f"{where}.{key} is no field of it"
            _check(item, schema.get(key, schema.get(str)), f"{where}.{key}")
    else:
        assert type(value) is schema, f"{where} is {value!r}"


def _rendered(machine: Machine, arguments: list[str]) -> tuple[Any, Any, Any]:
    """The JobSet, its job and its pod."""
    result = machine.call("jobset.sh", "render", *arguments, *TRAIN)
    assert result.returncode == 0, result.stderr
    manifest = yaml.safe_load(result.stdout)
    _check(manifest, JOBSET, "JobSet")
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    return manifest, job, job["template"]["spec"]


@pytest.mark.parametrize("arguments", [JOBSET_TPU, JOBSET_GPU], ids=["tpu", "gpu"])
def test_jobset_is_one(arguments: list[str], machine: Machine) -> None:
    manifest, job, pod = _rendered(machine, [*arguments, "--restarts", "4"])
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert manifest["metadata"]["name"] == "first"
    assert manifest["spec"]["failurePolicy"]["maxRestarts"] == 4
    assert job["parallelism"] == job["completions"]
    [container] = pod["containers"]
    # A pod failure policy is refused with any other, and must name a container that is there.
    assert pod["restartPolicy"] == "Never"
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == container["name"]
    assert container["args"] == [*TRAIN[1:], "--distributed"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }


def test_jobset_tpu_counts_hosts(machine: Machine) -> None:
    manifest, job, pod = _rendered(machine, [*JOBSET_TPU, "--slices", "2"])
    assert (manifest["spec"]["replicatedJobs"][0]["replicas"], job["parallelism"]) == (2, 4)
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": 4}
    _, job, _ = _rendered(machine, [*JOBSET_TPU, "--topology", "2x2x4"])
    assert job["parallelism"] == 4


def test_jobset_gpu_names_the_coordinator(machine: Machine) -> None:
    manifest, job, pod = _rendered(machine, JOBSET_GPU)
    values = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
    # JOBSET-REPLICATEDJOB-JOB-POD.SUBDOMAIN is the name that JobSet gives to a pod.
    job_name = manifest["spec"]["replicatedJobs"][0]["name"]
    subdomain = manifest["spec"]["network"]["subdomain"]
    assert values["JAX_COORDINATOR_ADDRESS"] == f"first-{job_name}-0-0.{subdomain}:8476"
    assert values["JAX_NUM_PROCESSES"] == str(job["completions"]) == "2"
    assert "JAX_PROCESS_ID" in values
    assert job["completionMode"] == "Indexed"
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 8}


def test_jobset_fills_in_named_variables_only(machine: Machine) -> None:
    words = ["train", "${NAME}", "$(x)", 'a "b" & \\']
    result = machine.call("jobset.sh", "render", *JOBSET_GPU, "--", *words)
    [container] = yaml.safe_load(result.stdout)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"][
        "spec"
    ]["containers"]
    assert container["args"] == [*words, "--distributed"]


def test_jobset_apply_hands_the_manifest_to_kubectl(machine: Machine) -> None:
    for _ in range(2):
        assert machine.call("jobset.sh", "apply", *JOBSET_GPU, "--namespace", "ours", *TRAIN).returncode == 0
        assert machine.calls() == ["kubectl apply --filename=- --namespace=ours"]
    assert yaml.safe_load((machine.folder / "calls.stdin").read_text())["kind"] == "JobSet"


def _local(*arguments: str, **options: Any) -> "subprocess.Popen[str]":
    command = [sys.executable, str(LAUNCH / "local.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def _python(text: str) -> list[str]:
    return [
        "--",
        sys.executable,
        "-c",
        f"import json, os, sys, time\nme = os.environ['JAX_PROCESS_ID']\n{text}",
    ]


def test_local_gives_each_its_place(tmp_path: Path) -> None:
    keys = "JAX_PROCESS_ID JAX_NUM_PROCESSES JAX_COORDINATOR_ADDRESS JAX_PLATFORMS XLA_FLAGS"
    report = _python(f"print(json.dumps([os.environ[key] for key in {keys.split()!r}]))")
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2 --xla_dump_to=/nowhere",
    }
    process = _local("3", "--devices", "4", "--logs", str(tmp_path), *report, env=environment)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    texts = [output, *((tmp_path / f"process-{number}.log").read_text() for number in (1, 2))]
    found = [json.loads(text) for text in texts]
    assert [line[0] for line in found] == ["0", "1", "2"]
    flags = "--xla_dump_to=/nowhere --xla_force_host_platform_device_count=4"
    assert {tuple(line[1:]) for line in found} == {("3", found[0][2], "cpu", flags)}
    assert re.fullmatch(r"127\.0\.0\.1:\d+", found[0][2])


def test_local_is_enough_for_jax() -> None:
    """Two processes of two devices find each other and add up over all four."""
    script = _python(
        "import jax, jax.numpy as jnp\n"
        "address, count = os.environ['JAX_COORDINATOR_ADDRESS'], int(os.environ['JAX_NUM_PROCESSES'])\n"
        "jax.distributed.initialize(address, count, int(me))\n"
        "mesh = jax.make_mesh((4,), ('all',))\n"
        "place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('all'))\n"
        "rows = jax.make_array_from_callback((4,), place, lambda at: jnp.arange(4.0)[at])\n"
        "print(jax.process_count(), jax.device_count(), float(jax.jit(jnp.sum)(rows)))"
    )
    process = _local("2", "--devices", "2", *script)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert output.splitlines()[-1] == "2 4 6.0"  # what stands before is Gloo's


def test_local_ends_all_when_one_fails(tmp_path: Path) -> None:
    script = _python(
        "open(f'{sys.argv[1]}/pid-{me}', 'w').write(str(os.getpid()))\n"
        "if me != '1': time.sleep(60)\n"
        "while len(os.listdir(sys.argv[1])) < 3: time.sleep(0.02)\n"
        "print('no luck'); sys.exit(3)"
    )
    pids, logs = tmp_path / "pids", tmp_path / "logs"
    pids.mkdir()
    started = time.monotonic()
    process = _local("3", "--logs", str(logs), *script, str(pids))
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 3
    assert time.monotonic() - started < 10
    assert "local.py: process 1 ended with exit code 3; ending the others\n" in errors
    assert "no luck" in errors
    for path in pids.iterdir():
        assert not Path(f"/proc/{path.read_text()}").exists()


def test_local_says_which_was_killed() -> None:
    process = _local("2", *_python("os.kill(os.getpid(), 9) if me == '1' else time.sleep(60)"))
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + 9
    assert "process 1 was killed by SIGKILL" in errors


def test_local_can_let_the_others_end_by_themselves(tmp_path: Path) -> None:
    script = _python("sys.exit(3) if me == '1' else time.sleep(0.5)\nprint('ended by itself')")
    process = _local("2", "--wait-others", "10", *script)
    output, _ = process.communicate(timeout=20)
    assert (process.returncode, output) == (3, "ended by itself\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_passes_signals_on(number: signal.Signals, tmp_path: Path) -> None:
    script = _python(
        "import signal\n"
        "def end(number, _): print(me, number, flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end); signal.signal(signal.SIGINT, end)\n"
        "open(f'{sys.argv[1]}/up-{me}', 'w').close(); time.sleep(60)"
    )
    process = _local("2", "--logs", str(tmp_path), *script, str(tmp_path))
    _wait_until(lambda: len(list(tmp_path.glob("up-*"))) == 2)
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert output == f"0 {int(number)}\n"
    assert (tmp_path / "process-1.log").read_text() == f"1 {int(number)}\n"
    assert f"{number.name}: ending all processes" in errors


def test_local_dry_run_and_mistakes(tmp_path: Path) -> None:
    process = _local(
        "2", "--devices", "2", "--logs", str(tmp_path / "logs"), "--dry-run", "--", "vtzero", "train"
    )
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert [line.endswith(" vtzero train") for line in output.splitlines()] == [True, True]
    assert not (tmp_path / "logs").exists()
    for arguments in (
        ["0", "--", "true"],
        ["2"],
        ["2", "--", "no-such-command"],
        ["2", "--speed", "1", "--", "true"],
    ):
        process = _local(*arguments)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 2
        assert errors.splitlines()[-1].startswith("local.py: ")
