"""A Kubernetes JobSet: what the manifests say, by the API's own fields, and what kubectl is told."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures import launching
from fixtures.launching import JOBSET_GPU, JOBSET_TPU, TRAIN, Machine

SCHEMA = yaml.safe_load((Path(launching.__file__).parent / "jobset_v1alpha2.yaml").read_text())
TYPES = {"string": str, "integer": int, "boolean": bool, "integer or string": (int, str)}


def _check(value: Any, schema: Any, where: str) -> None:
    """That a part of a manifest is as the API wants it; the schema's file explains its notation."""
    if isinstance(schema, list):
        assert isinstance(value, list), where
        for item in value:
            _check(item, schema[0], f"{where}[]")
    elif isinstance(schema, dict):
        assert isinstance(value, dict), where
        fields = {name.rstrip("!"): inner for name, inner in schema.items()}
        for name in schema:
            assert not name.endswith("!") or name.rstrip("!") in value, f"{where} wants {name}"
        for name, item in value.items():
            assert name in fields or "any" in fields, f"{where}.{name} is no field of it"
            _check(item, fields.get(name, fields.get("any")), f"{where}.{name}")
    elif "|" in schema:
        assert value in schema.split(" | "), f"{where} is {value!r}"
    else:
        # A truth value is a number to Python.
        assert isinstance(value, TYPES[schema]), f"{where} is {value!r}"
        assert isinstance(value, bool) == (schema == "boolean"), f"{where} is {value!r}"


def _rendered(machine: Machine, arguments: list[str]) -> tuple[Any, Any, Any]:
    """The JobSet, its job and its pod."""
    result = machine.call("jobset.sh", "render", *arguments, *TRAIN)
    assert result.returncode == 0, result.stderr
    manifest = yaml.safe_load(result.stdout)
    _check(manifest, SCHEMA, "JobSet")
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


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("maxRestarts:", "maxRestart:", "failurePolicy.maxRestart is no field of it"),
        ("replicas: 1", "replicas: one", "replicas is 'one'"),
        ("action: FailJobSet", "action: Fail", "action is 'Fail'"),
        ("enableDNSHostnames: true", "enableDNSHostnames: 1", "enableDNSHostnames is 1"),
        ("- name: host", "- title: host", "wants name!"),
    ],
)
def test_a_manifest_that_the_api_would_refuse_is_found(
    old: str, new: str, message: str, machine: Machine
) -> None:
    text = machine.call("jobset.sh", "render", *JOBSET_GPU, *TRAIN).stdout
    assert old in text
    with pytest.raises(AssertionError, match=re.escape(message)):
        _check(yaml.safe_load(text.replace(old, new)), SCHEMA, "JobSet")


@pytest.mark.parametrize("arguments", [JOBSET_TPU, JOBSET_GPU], ids=["tpu", "gpu"])
@pytest.mark.parametrize(
    ("code", "action"),
    [(75, "RestartJobSet"), (1, "RestartJobSet"), (137, "RestartJobSet"), (2, "FailJobSet")],
)
def test_jobset_starts_again_unless_it_was_a_mistake(
    code: int, action: str, arguments: list[str], machine: Machine
) -> None:
    manifest, job, _ = _rendered(machine, arguments)
    assert _after_exit_code(manifest, job, code) == action


def _after_exit_code(manifest: Any, job: Any, code: int) -> str:
    """What Kubernetes then does: the first rule that matches counts, of the job and then of the JobSet."""
    assert job["backoffLimit"] == 0
    reason = "BackoffLimitExceeded"
    for rule in job["podFailurePolicy"]["rules"]:
        assert (rule["action"], rule["onExitCodes"]["operator"]) == ("FailJob", "In")
        if code in rule["onExitCodes"]["values"]:
            reason = "PodFailurePolicy"
            break
    for rule in manifest["spec"]["failurePolicy"]["rules"]:
        if reason in rule["onJobFailureReasons"]:
            return str(rule["action"])
    return "RestartJobSet"


@pytest.mark.parametrize("arguments", [JOBSET_TPU, JOBSET_GPU], ids=["tpu", "gpu"])
def test_jobset_keeps_on_the_volume_what_outlives_a_pod(arguments: list[str], machine: Machine) -> None:
    _, _, pod = _rendered(machine, arguments)
    [container] = pod["containers"]
    values = {entry["name"]: entry.get("value") for entry in container["env"]}
    shared = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "share"]
    assert values["VTZERO_CACHE"] in shared
    assert Path(values["JAX_COMPILATION_CACHE_DIR"]).parent.as_posix() in shared
    assert pod["terminationGracePeriodSeconds"] == 300


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
