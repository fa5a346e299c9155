"""Messages between processes carry values and run nothing."""

import os
import pickle
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from vtzero.config import ConfigError, RunConfig
from vtzero.data.example import Rejected
from vtzero.data.hub import HubError
from vtzero.data.pipeline import _Verdict
from vtzero.parallel.plain_pickles import dumps, loads
from vtzero.rewards.runner import RewardFailure, RewardResult
from vtzero.training.checkpoints import SetAside


@pytest.mark.parametrize(
    "value",
    [
        None,
        [1, 2.5, "text", b"bytes", True, (), {"a": {1, 2}}, range(3)],
        RunConfig(seed=3),
        [Rejected("a", "b"), SetAside(1, "1.damaged", "bytes")],
        Path("/a/b"),
        _Verdict(3, "scenes", None),
        RewardFailure("length", 2, "raised"),
    ],
)
def test_plain_values_come_out_as_they_went_in(value):
    assert loads(dumps(value)) == value


@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool, jnp.bfloat16, "O"])
def test_arrays_too(dtype):
    array = np.ones((3, 4)).astype(dtype)
    back = loads(dumps({"whole": array, "part": array[:, ::2], "number": np.float32(2)}))
    np.testing.assert_array_equal(back["whole"], array)
    np.testing.assert_array_equal(back["part"], array[:, ::2])
    assert (back["whole"].dtype, back["number"]) == (array.dtype, 2)


def test_what_a_scorer_gives():
    result = RewardResult(np.zeros((2, 3)), np.full(3, np.nan), [RewardFailure("f", 1, "none")])
    assert loads(dumps(result)).failures == result.failures


@pytest.mark.parametrize("kind", [ValueError, ConfigError, HubError, FileNotFoundError, KeyError])
def test_mistakes_too(kind):
    assert (type(loads(dumps(kind("no")))), str(loads(dumps(kind("no"))))) == (kind, str(kind("no")))


class Calls:
    """A value whose pickle calls a function."""

    def __init__(self, function, *arguments):
        self._call = (function, arguments)

    def __reduce__(self):
        return self._call


@pytest.mark.parametrize(
    ("function", "argument"),
    [
        (os.system, "touch ran"),
        (eval, "open('ran', 'w')"),
        (getattr, ("a", "b")),
        (__import__, "os"),
        (np.load, "ran"),
        (Path.touch, Path("ran")),
        (type, "a"),
    ],
)
def test_nothing_that_is_called_is_found(tmp_path, monkeypatch, function, argument):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match="which is no plain value"):
        loads(pickle.dumps([Calls(function, argument)]))
    assert not Path("ran").exists()


@pytest.mark.parametrize("name", ["subprocess.Popen", "OwnReward", "load_reward", "Path.touch"])
def test_no_function_of_the_project_and_nothing_through_it_is_found(name):
    module = "vtzero.rewards.own" if "." in name or name == "OwnReward" else "vtzero.rewards.registry"
    with pytest.raises(pickle.UnpicklingError, match="no plain value"):
        loads(f"c{module}\n{name}\n.".encode())
