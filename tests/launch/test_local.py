"""Several processes on this machine: each has its place, and all end together."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fixtures.launching import LAUNCH, wait_until


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
    wait_until(lambda: len(list(tmp_path.glob("up-*"))) == 2)
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert output == f"0 {int(number)}\n"
    assert (tmp_path / "process-1.log").read_text() == f"1 {int(number)}\n"
    assert f"{number.name}: ending all processes" in errors


# With less patience, of which it has seconds where a run that saves has minutes.
IMPATIENT = f"import sys; sys.path[:0] = [{str(LAUNCH)!r}]; import local; local.PATIENCE = 0.2\n"
IMPATIENT += "sys.exit(local.main(sys.argv[1:]))"


@pytest.mark.parametrize(
    ("told", "codes", "code"), [("all", "75 75", 75), ("processes", "75 75", 75), ("all", "75 1", 143)]
)
def test_local_gives_a_run_time_to_save(told: str, codes: str, code: int, tmp_path: Path) -> None:
    """When it is told itself, and when its processes are: the first that saved does not end the other."""
    script = _python(
        "import signal\n"
        "def save(*_):\n"
        "    time.sleep(1 + int(me))\n"
        "    open(f'{sys.argv[1]}/saved-{me}', 'w').close(); os._exit(int(sys.argv[2].split()[int(me)]))\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "open(f'{sys.argv[1]}/up-{me}', 'w').write(str(os.getpid())); time.sleep(60)"
    )
    command = [sys.executable, "-c", IMPATIENT, "2", "--logs", str(tmp_path), *script, str(tmp_path), codes]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: [path.stat().st_size > 0 for path in tmp_path.glob("up-*")] == [True, True])
    if told == "all":
        process.send_signal(signal.SIGTERM)
    else:
        for path in tmp_path.glob("up-*"):
            os.kill(int(path.read_text()), signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == code
    assert sorted(path.name for path in tmp_path.glob("saved-*")) == ["saved-0", "saved-1"]


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
