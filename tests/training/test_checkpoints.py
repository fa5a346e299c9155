"""Checkpoints: byte-equal round trips, interrupted and failed saves, other devices, and every refusal."""

import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.tiny_folder import make_tiny_folder
from flax import nnx

from vtzero.failures import RunFailedError
from vtzero.training.checkpoints import Checkpoints, SetAside
from vtzero.training.huggingface import load_model, read_config, save_model
from vtzero.training.optimizer import OptimizerSettings, make_optimizer
from vtzero.training.seals import SEAL, damage
from vtzero.training.state import TrainState, new_state, split_model

MEGABYTES = 10**6


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_folder(tmp_path_factory.mktemp("hub") / "tiny")


def train_state(
    folder: Path, *, dtype: Any = jnp.float32, freeze: tuple[str, ...] = ("vision",)
) -> TrainState:
    graphdef, params = load_model(folder, parameter_dtype=dtype)
    _, trainable, frozen = split_model(graphdef, params, freeze)
    return new_state(trainable, frozen, make_optimizer(OptimizerSettings(), total_steps=10))


def with_random_bits(tree: Any, seed: int) -> Any:
    """Any bit pattern can come up: negative zeros, subnormal numbers, every kind of NaN."""
    random = np.random.default_rng(seed)

    def fill(leaf: jax.Array) -> jax.Array:
        return jnp.asarray(np.frombuffer(random.bytes(leaf.nbytes), leaf.dtype).reshape(leaf.shape))

    return jax.tree.map(fill, tree)


def abstract(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def contents(tree: Any) -> list[tuple[str, Any, bytes]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path), leaf.dtype, np.asarray(leaf).tobytes()) for path, leaf in leaves]


def small(seed: int = 0, size: int = 3) -> dict[str, jax.Array]:
    return {"weight": jnp.asarray(np.random.default_rng(seed).normal(size=size), jnp.float32)}


def save_now(folder: Path, step: int, state: Any, extra: dict[str, Any] | None = None) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep=None)
    with closing(checkpoints):
        checkpoints.save(step, state, extra or {})
    return checkpoints


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("as_arrays", [True, False])
def test_a_train_state_comes_back_byte_for_byte(
    hub_folder: Path, tmp_path: Path, dtype: Any, as_arrays: bool
) -> None:
    state = with_random_bits(train_state(hub_folder, dtype=dtype), seed=1)
    assert jax.tree.leaves(state.frozen)
    checkpoints = save_now(tmp_path / "checkpoints", 7, state)
    restored = checkpoints.restore(7, state if as_arrays else abstract(state))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert contents(restored) == contents(state)


def test_a_restored_state_is_of_the_same_types(hub_folder: Path, tmp_path: Path) -> None:
    state = train_state(hub_folder)
    restored = save_now(tmp_path, 0, state).restore(0, abstract(state))
    assert isinstance(restored, TrainState)
    assert isinstance(restored.trainable, nnx.State)
    assert type(restored.opt_state[1][0]) is type(state.opt_state[1][0])


def test_negative_zeros_keep_their_sign(tmp_path: Path) -> None:
    state = {"zeros": jnp.full((1000,), -0.0, jnp.float32)}
    assert contents(save_now(tmp_path, 1, state).restore(1, state)) == contents(state)


def test_part_of_a_state_can_be_restored(hub_folder: Path, tmp_path: Path) -> None:
    state = with_random_bits(train_state(hub_folder), seed=2)
    wanted = replace(abstract(state), step=None, opt_state=None)
    restored = save_now(tmp_path, 3, state).restore(3, wanted, partial=True)
    assert restored.opt_state is None
    assert contents(restored.trainable) == contents(state.trainable)
    assert contents(restored.frozen) == contents(state.frozen)


def test_hugging_face_to_orbax_and_back(hub_folder: Path, tmp_path: Path) -> None:
    _, params = load_model(hub_folder)
    restored = save_now(tmp_path / "checkpoints", 0, params).restore(0, abstract(params))
    save_model(hub_folder, restored, read_config(hub_folder), tmp_path / "export")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "export" / name).read_bytes() == (hub_folder / name).read_bytes()


@pytest.mark.parametrize("lost", ["extra/extra.json", "state/_METADATA"])
def test_what_was_not_written_as_it_should_be_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """The file system says that all is well, and has lost a file."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, small(), {})
    checkpoints.wait()
    finish = checkpoints._finish

    def losing(step: int, written: Any, names: Any) -> None:
        finish(step, lambda: (written(), (tmp_path / "2" / lost).unlink()), names)

    monkeypatch.setattr(checkpoints, "_finish", losing)
    checkpoints.save(2, small(1), {})
    with pytest.raises(RunFailedError, match="2: was not written as it should be"):
        checkpoints.wait()
    assert checkpoints.list_steps() == [1]
    checkpoints.close()


def test_arrays_may_be_donated_as_soon_as_save_returns(tmp_path: Path) -> None:
    state = small(size=4 * MEGABYTES)
    before = contents(state)
    increment = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path, keep=None)
    with closing(checkpoints):
        checkpoints.save(1, state, {})
        for _ in range(3):
            state = increment(state)
        jax.block_until_ready(state)
    assert contents(checkpoints.restore(1, abstract(state))) == before


def test_extra_comes_back_as_it_was_when_saved(tmp_path: Path) -> None:
    extra = {"step": 5, "seed": 2**40, "data": {"next_index": [1, 2], "last": None}, "text": "É\n", "x": 0.1}
    expected = dict(extra, data={"next_index": [1, 2], "last": None})
    checkpoints = Checkpoints(tmp_path, keep=None)
    with closing(checkpoints):
        checkpoints.save(5, small(), extra)
        extra["data"]["next_index"].append(3)  # type: ignore[index]
    assert checkpoints.read_extra(5) == expected


def test_steps_are_listed_in_order_by_whoever_opens_the_folder(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=None)
    assert checkpoints.latest_step() is None
    with closing(checkpoints):
        for step in (2, 10, 9):
            checkpoints.save(step, small(step), {})
        checkpoints.wait()
        assert Checkpoints(tmp_path, keep=None).list_steps() == [2, 9, 10]
    assert Checkpoints(tmp_path, keep=None).latest_step() == 10
    assert contents(Checkpoints(tmp_path, keep=None).restore(9, small())) == contents(small(9))


def test_looking_creates_nothing(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "none", keep=1)
    assert checkpoints.list_steps() == []
    checkpoints.wait()
    checkpoints.close()
    assert not (tmp_path / "none").exists()


def test_a_relative_folder_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert contents(save_now(Path("here"), 1, small()).restore(1, small())) == contents(small())


def test_older_checkpoints_go_once_the_newer_one_is_finished(tmp_path: Path) -> None:
    for step in (1, 2):
        save_now(tmp_path, step, small())
    checkpoints, deadline = Checkpoints(tmp_path, keep=2), time.monotonic() + 60
    with closing(checkpoints):
        checkpoints.save(3, small(size=8 * MEGABYTES), {})
        while (tmp_path / "1").exists() and time.monotonic() < deadline:
            pass
        assert 3 in checkpoints.list_steps()
    assert checkpoints.list_steps() == [2, 3]


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Writing a larger file fails, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_failed_save_is_reported_and_costs_no_older_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    with closing(checkpoints):
        checkpoints.save(1, small(), {"step": 1})
        checkpoints.wait()
        with files_limited_to(MEGABYTES):
            checkpoints.save(2, small(size=4 * MEGABYTES), {"step": 2})
            with pytest.raises(ValueError, match="File too large"):
                checkpoints.wait()
        assert checkpoints.list_steps() == [1]
        assert contents(checkpoints.restore(1, small())) == contents(small())
        checkpoints.save(2, small(seed=2), {"step": 2})
    assert checkpoints.list_steps() == [2]
    assert contents(checkpoints.restore(2, small())) == contents(small(seed=2))


INTERRUPTED = """
import os, sys, pathlib
import jax, numpy as np
from vtzero.training.checkpoints import Checkpoints
folder = pathlib.Path(sys.argv[1])
checkpoints = Checkpoints(folder, keep=1)
checkpoints.save(1, {"weight": jax.numpy.arange(3.0)}, {"step": 1})
checkpoints.wait()
large = np.random.default_rng(0).normal(size=16_000_000)
checkpoints.save(2, {"weight": jax.numpy.asarray(large)}, {"step": 2})
while not list(folder.glob("2*")):
    pass
os._exit(9)
"""


def test_an_interrupted_save_is_ignored_and_can_be_done_again(tmp_path: Path) -> None:
    assert run(INTERRUPTED, tmp_path).wait() == 9
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("2")] != []
    (tmp_path / "7").mkdir()
    checkpoints = Checkpoints(tmp_path, keep=None)
    assert checkpoints.list_steps() == [1]
    assert checkpoints.latest_step() == 1
    assert checkpoints.restore(1, small())["weight"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="no finished checkpoint of step 2; there are: 1"):
        checkpoints.restore(2, small())
    save_now(tmp_path, 2, small(seed=5), {"step": 2})
    assert contents(checkpoints.restore(2, small())) == contents(small(seed=5))
    assert checkpoints.read_extra(2) == {"step": 2}


OTHER_DEVICES = """
import sys, pathlib
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P, SingleDeviceSharding
from vtzero.training.checkpoints import Checkpoints
jax.config.update("jax_num_cpu_devices", 8)
flat = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
square = jax.make_mesh((2, 4), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)
half = jax.make_mesh((4,), ("fsdp",), axis_types=(AxisType.Auto,), devices=jax.devices()[4:])
values = np.random.default_rng(0).normal(size=(16, 8)).astype(jnp.bfloat16)
state = {"w": jax.device_put(values, NamedSharding(flat, P("fsdp"))), "count": jnp.int32(3)}
checkpoints = Checkpoints(pathlib.Path(sys.argv[1]), keep=None)
checkpoints.save(1, state, {})
checkpoints.close()
for sharding in (
    NamedSharding(flat, P("fsdp")),
    NamedSharding(square, P("tensor", "fsdp")),
    NamedSharding(half, P(None, "fsdp")),
    NamedSharding(square, P()),
    SingleDeviceSharding(jax.devices()[5]),
):
    like = {"w": jax.ShapeDtypeStruct((16, 8), jnp.bfloat16, sharding=sharding), "count": state["count"]}
    restored = checkpoints.restore(1, like)
    assert restored["w"].sharding == sharding, (restored["w"].sharding, sharding)
    assert np.asarray(restored["w"]).tobytes() == values.tobytes()
    assert restored["count"] == 3
    assert jax.jit(lambda tree: tree["w"].sum() * 0 + tree["count"])(restored) == 3
    unplaced = checkpoints.restore(1, {"w": like["w"], "count": jax.ShapeDtypeStruct((), jnp.int32)})
    assert jax.jit(lambda tree: tree["w"].sum() * 0 + tree["count"])(unplaced) == 3
"""


def test_a_state_moves_to_other_devices(tmp_path: Path) -> None:
    assert run(OTHER_DEVICES, tmp_path / "checkpoints").wait() == 0


TWO_PROCESSES = """
import sys, pathlib
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from vtzero.training.checkpoints import Checkpoints
folder, port, index = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(f"localhost:{port}", 2, index)
mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
rows = NamedSharding(mesh, P("data"))
values = np.arange(6, dtype=np.float32).reshape(2, 3)
state = {"w": jax.make_array_from_callback((2, 3), rows, lambda at: values[at])}
checkpoints = Checkpoints(folder, keep=1)
for step in (1, 2):
    checkpoints.save(step, state, {"process": index, "step": step})
checkpoints.close()
restored = checkpoints.restore(2, state)
assert checkpoints.list_steps() == [2]
assert np.asarray(restored["w"].addressable_shards[0].data).tolist() == [values[index].tolist()]
assert checkpoints.read_extra(2) == {"process": 0, "step": 2}
try:
    checkpoints.save(3, state | {"count": jnp.int32(3)}, {})
except ValueError as error:
    assert str(error) == "'count' is in one process only; place it on the run's mesh first"
else:
    raise AssertionError("saved an array of one process")
"""


def test_two_processes_save_together_and_one_reads_it(tmp_path: Path) -> None:
    folder, port = tmp_path / "checkpoints", free_port()
    processes = [run(TWO_PROCESSES, folder, port, index) for index in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    checkpoints = Checkpoints(folder, keep=None)
    restored = checkpoints.restore(2, {"w": jax.ShapeDtypeStruct((2, 3), jnp.float32)})
    assert restored["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert checkpoints.read_extra(2) == {"process": 0, "step": 2}


def run(script: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)])


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port: int = listener.getsockname()[1]
        return port


def one_line_error(action: Any) -> str:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        action()
    return str(caught.value)


def test_a_missing_folder_or_step_is_named(tmp_path: Path) -> None:
    absent = Checkpoints(tmp_path / "none", keep=None)
    expected = f"{tmp_path / 'none'}: no such folder of checkpoints"
    assert one_line_error(lambda: absent.restore(1, small())) == expected
    assert one_line_error(lambda: absent.read_extra(1)) == expected
    checkpoints = save_now(tmp_path / "run", 4, small())
    expected = f"{tmp_path / 'run'}: no finished checkpoint of step 5; there are: 4"
    assert one_line_error(lambda: checkpoints.restore(5, small())) == expected
    assert one_line_error(lambda: checkpoints.read_extra(5)) == expected


def test_another_shape_or_dtype_names_the_parameter(hub_folder: Path, tmp_path: Path) -> None:
    state = train_state(hub_folder)
    checkpoints = save_now(tmp_path, 1, state)
    wider = train_state(make_tiny_folder(tmp_path / "wider", intermediate_size=80))
    message = one_line_error(lambda: checkpoints.restore(1, wider))
    assert (
        "'trainable.model.layers.mlp.down_proj.weight' is float32[2, 32, 64], not float32[2, 32, 80]"
        in message
    )
    halves = train_state(hub_folder, dtype=jnp.bfloat16)
    assert "float32[" in (message := one_line_error(lambda: checkpoints.restore(1, halves)))
    assert "not bfloat16[" in message


def test_other_leaves_are_named(hub_folder: Path, tmp_path: Path) -> None:
    state = train_state(hub_folder)
    checkpoints = save_now(tmp_path, 1, state)
    unfrozen = train_state(hub_folder, freeze=())
    assert "has no 'trainable.visual." in one_line_error(lambda: checkpoints.restore(1, unfrozen))
    weights = replace(abstract(state), step=None, opt_state=None)
    assert "has 'opt_state.1.0.count'" in one_line_error(lambda: checkpoints.restore(1, weights))


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    checkpoints = save_now(tmp_path, 1, small(size=1000))
    for data in (tmp_path / "1" / "state").glob("**/d/*"):
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    message = one_line_error(lambda: checkpoints.restore(1, small(size=1000)))
    assert message.startswith(f"{tmp_path / '1'}: cannot be read (")


def flipped(content: bytes) -> bytes:
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :] if content else b"x"


@pytest.mark.parametrize(
    "change",
    [
        flipped,
        pytest.param(
            lambda content: content[: len(content) // 2] if content else b"x", marks=pytest.mark.slow
        ),
        pytest.param(None, marks=pytest.mark.slow),
    ],
)
def test_whatever_file_is_changed_the_checkpoint_before_is_used(tmp_path: Path, change: Any) -> None:
    for step in (1, 2):
        save_now(tmp_path / "run", step, small(step, size=1000), {"step": step})
    names = [path.relative_to(tmp_path / "run") for path in (tmp_path / "run" / "2").rglob("*")]
    files = [name for name in names if (tmp_path / "run" / name).is_file()]
    assert len(files) > 5
    for name in files:
        copy = Path(shutil.copytree(tmp_path / "run", tmp_path / "copies" / name))
        if change is None:
            (copy / name).unlink()
        else:
            (copy / name).write_bytes(change((copy / name).read_bytes()))
        checkpoints = Checkpoints(copy, keep=1)
        if name.name == SEAL and change is None:
            expected = SetAside(2, "2.unfinished", "it was never finished")
        else:
            assert "is damaged" in one_line_error(lambda: checkpoints.check(2))  # noqa: B023
            expected = SetAside(2, "2.damaged", str(damage(copy / "2")))
        assert checkpoints.recover() == (1, [expected]), name
        assert contents(checkpoints.restore(1, small(size=1000))) == contents(small(1, size=1000))
        with closing(checkpoints):  # the step can be saved again
            checkpoints.save(2, small(7), {"step": 7})
        assert checkpoints.list_steps() == [2]
        assert checkpoints.recover() == (2, [])
        assert checkpoints.read_extra(2) == {"step": 7}


def test_a_folder_of_damaged_checkpoints_is_an_error(tmp_path: Path) -> None:
    checkpoints = save_now(tmp_path, 1, small())
    (tmp_path / "1" / SEAL).write_text("{}")
    for _ in range(2):  # a second start is no fresh one either
        message = one_line_error(checkpoints.recover)
        assert message.startswith(f"{tmp_path}: every checkpoint is damaged (1.damaged")


def test_nothing_to_recover_is_a_fresh_start(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none", keep=None).recover() == (None, [])
    (tmp_path / "3").mkdir()
    unfinished = SetAside(3, "3.unfinished", "it was never finished")
    assert Checkpoints(tmp_path, keep=None).recover() == (None, [unfinished])


def test_a_step_is_not_saved_twice(tmp_path: Path) -> None:
    save_now(tmp_path, 1, small(seed=1))
    message = one_line_error(lambda: save_now(tmp_path, 1, small(seed=2)))
    assert message.startswith(f"{tmp_path / '1'}: exists already")
    assert contents(Checkpoints(tmp_path, keep=None).restore(1, small())) == contents(small(seed=1))


@pytest.mark.parametrize("extra", [{"generator": np.random.default_rng(0)}, {"loss": float("nan")}])
def test_extra_must_be_json(tmp_path: Path, extra: dict[str, Any]) -> None:
    assert "extra cannot be stored as JSON" in one_line_error(lambda: save_now(tmp_path, 1, small(), extra))


def test_keep_must_be_positive(tmp_path: Path) -> None:
    assert "keep is 0" in one_line_error(lambda: Checkpoints(tmp_path, keep=0))
