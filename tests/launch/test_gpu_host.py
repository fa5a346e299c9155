"""One machine with several GPUs."""

import signal

from fixtures.launching import TRAIN, Machine, wait_until


def test_gpu_host_runs_the_command(machine: Machine) -> None:
    assert machine.call("gpu_host.sh", *TRAIN, FAILS="train", FAIL_CODE="9").returncode == 9
    assert machine.calls() == ["vtzero " + " ".join(TRAIN[1:])]


def test_gpu_host_passes_signals_on(machine: Machine) -> None:
    machine.program(
        "vtzero", "#!/usr/bin/env bash\ntrap 'exit 75' TERM\ntouch up\nwhile true; do sleep 0.05; done\n"
    )
    host = machine.start("gpu_host.sh", *TRAIN)
    wait_until((machine.folder / "up").exists)
    host.send_signal(signal.SIGTERM)
    assert host.wait(timeout=20) == 75
