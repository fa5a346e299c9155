"""A run for Weights & Biases, offline; and what a person is told who has not installed it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vtzero.config import ConfigError, RunConfig
from vtzero.training import wandb_log
from vtzero.training.loop import train


def test_a_missing_package_is_told_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_log, "find_spec", lambda name: None)
    folder = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"wandb is true, but .* pip install 'vtzero\[wandb\]'"):
        train(RunConfig(wandb=True, output_dir=str(folder)), quiet=True)
    assert not folder.exists()


def without_account(home: Path, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own: the package reads its settings once in each."""
    pytest.importorskip("wandb")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment = kept | {"HOME": str(home), "NETRC": str(home / "netrc")} | variables
    command = [sys.executable, "-c", script, str(home / "run")]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


BEGIN = """
import sys
from pathlib import Path
import numpy as np
from vtzero.config import ConfigError, RunConfig
from vtzero.training.completions import CompletionRow
from vtzero.training.wandb_log import WandbLog
folder = Path(sys.argv[1])
folder.mkdir()
config = RunConfig(wandb=True, output_dir="run")
"""
REFUSED = """
try:
    WandbLog(folder, config)
except ConfigError as error:
    print(error)
"""
RESUMED = """
row = CompletionRow("question", "answer", {"accuracy": 1.0}, 1.0, 0.5, 3, True)
for steps in (range(1, 4), range(3, 6)):
    log = WandbLog(folder, config)
    for step in steps:
        log.write(step, {"reward": 0.5, "nan": float("nan")})
        log.show(step, {"rewards/total": np.array([1.0, np.nan])}, [row])
    log.finished({"accuracy_after": 50.0, "mesh": {"data": 1}})
    log.close()
"""


def test_without_an_account_the_way_out_is_named(tmp_path):
    done = without_account(tmp_path, BEGIN + REFUSED)
    assert done.stdout.startswith("wandb: ")
    assert "WANDB_MODE=offline" in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_a_resumed_run_goes_on_under_its_id(tmp_path):
    done = without_account(tmp_path, BEGIN + RESUMED, WANDB_MODE="offline")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    files = tmp_path / "run" / "wandb"
    name = (tmp_path / "run" / "wandb_id.txt").read_text().strip()
    assert [path.name for path in files.glob("offline-run-*/run-*.wandb")] == [f"run-{name}.wandb"] * 2
    tables = [json.loads(path.read_text()) for path in files.rglob("*.table.json")]
    assert {row[0] for table in tables for row in table["data"]} == {"question"}
