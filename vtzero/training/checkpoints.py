"""Checkpoints of a run, through Orbax: a pytree of arrays and a little JSON, saved while training goes on.

Knows no model and no optimizer: leaves are stored under the names that lead to them in the pytree. A
checkpoint counts once it is sealed with the checksums of its files; only then do older ones go.
"""

import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from orbax.checkpoint import v1 as ocp

from vtzero.failures import RunFailedError
from vtzero.parallel.messages import ask_first
from vtzero.terminal import error_line
from vtzero.training.seals import damage, is_sealed, seal, unseal

Name = tuple[str, ...]
_STATE, _EXTRA, _DESCRIPTION = "state", "extra", "_METADATA"
_WRITTEN_AT_ONCE = 256 * 2**20
"""Bytes; a larger piece of an array is written alone. Without a limit Orbax collects the whole packed
checkpoint before it writes: 3 GiB beside the 4.1 of 2B parameters in bfloat16, and no second less."""


@dataclass(frozen=True)
class SetAside:
    """A checkpoint that was not used, the name of its folder now, and why."""

    step: int
    name: str
    reason: str


class Checkpoints:
    """The folder `checkpoints/` of a run, with one folder a step.

    With several processes, each calls every method, and the folder is one that all of them see.
    """

    def __init__(self, folder: Path, *, keep: int | None) -> None:
        """`keep`: how many of the newest checkpoints stay, None for all. Only `save` creates the folder.

        Raises ValueError for a `keep` below 1.
        """
        if keep is not None and keep < 1:
            raise ValueError(f"keep is {keep}; it must be at least 1, or None to keep every checkpoint")
        self._folder = Path(folder).absolute()  # Orbax refuses relative paths.
        self._keep = keep
        self._writer: ocp.training.Checkpointer | None = None
        self._sealing: Future[None] | None = None
        self._sealer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")

    def save(self, step: int, state: Any, extra: Mapping[str, Any]) -> None:
        """Copy the state to the host, then write it in the background, as `folder/STEP/`.

        Once this returns, the arrays may be donated and `extra` changed. The step counts as saved, and older
        ones are deleted, only after everything is written and sealed. With several processes `extra` is the
        first one's. A save still under way is waited for, and fails here if it fails.

        Raises ValueError when the step is there already, when `extra` is not JSON, and, with several
        processes, for an array that is not spread over all of them.
        """
        leaves = _named(state)
        _check_spread(leaves)
        items = {_STATE: unflatten_dict(leaves), _EXTRA: _Json(_to_json(extra))}
        self.wait()
        try:
            response = self._open(leaves).save_checkpointables_async(step, items, force=True)
        except ocp.training.errors.StepAlreadyExistsError as error:
            path = self._folder / str(step)
            raise ValueError(f"{path}: exists already; remove it, or continue from it") from error
        self._sealing = self._sealer.submit(self._finish, step, response.result, list(leaves))

    def wait(self) -> None:
        """Return once the latest save has finished; raises what made it fail.

        After a failure older checkpoints are still there, and the step can be saved again.
        """
        if self._sealing is None or self._writer is None:
            return
        sealing, self._sealing = self._sealing, None
        try:
            sealing.result()
        except Exception:
            self._release()  # Orbax's would raise the same again for every later save
            raise
        ask_first(lambda: None)  # the first process seals, and no other goes on before it has

    def close(self, *, alone: bool = False) -> None:
        """Finish what is under way and release all threads. To be called before the process ends.

        `alone`: after an error, when the other processes may not call this.
        """
        try:
            if not alone:
                self.wait()
            elif self._sealing is not None:
                self._sealing.result()
        finally:
            self._sealer.shutdown()
            self._release()

    def recover(self) -> tuple[int | None, list[SetAside]]:
        """The newest checkpoint whose files are all as they were written, and what was newer.

        The newer ones are renamed, to `STEP.damaged` where a file is not as it was written and to
        `STEP.unfinished` where they were never finished, so that their steps can be saved again. To be called
        before anything is saved; with several processes, the first one looks.

        Raises ValueError, in every process, where there are checkpoints and all of them are damaged.
        """
        return ask_first(self._recover)

    def check(self, step: int) -> None:
        """Raise ValueError, in every process, when a file of this checkpoint is not as it was written."""
        path = self._finished(step)

        def check() -> None:
            if (problem := damage(path)) is not None:
                raise ValueError(f"{path}: is damaged ({problem}); choose another step")

        ask_first(check)

    def list_steps(self) -> list[int]:
        """The steps of the finished checkpoints, ascending; none when there is no folder."""
        return sorted(step for step, path in self._folders() if is_sealed(path))

    def latest_step(self) -> int | None:
        """The newest finished checkpoint's step, or None."""
        return max(self.list_steps(), default=None)

    def restore(self, step: int, like: Any, *, partial: bool = False) -> Any:
        """The state as it was saved, byte for byte, in the structure and on the devices of `like`.

        `like` is a pytree of arrays or `jax.ShapeDtypeStruct`s, whose shardings say where arrays go. Without
        one, as for an array that no device was chosen for, the result is on the default device and free to
        be moved by `jax.jit`. With `partial`, what is stored beyond `like` is left unread.

        Raises ValueError, in one line that names the folder or the parameter, when there is no such
        checkpoint, when its names, shapes or dtypes are others, and when it cannot be read.
        """
        path = self._finished(step)
        places = _named(like)
        wanted = {name: _abstract(leaf) for name, leaf in places.items()}
        context = ocp.Context()
        context.pytree_options.loading.partial_load = partial
        try:
            _check(path, _stored(path), wanted, partial)
            with context:
                loaded = ocp.load_checkpointables(path, {_STATE: unflatten_dict(wanted)})[_STATE]
        except _MismatchError as error:
            raise ValueError(str(error)) from None
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"{path}: cannot be read ({_reason(error)})") from error
        arrays = flatten_dict(loaded)
        leaves = [_placed(arrays[name], leaf) for name, leaf in places.items()]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def read_extra(self, step: int) -> dict[str, Any]:
        """What was given to `save`, in every process.

        Raises ValueError when there is no such checkpoint.
        """
        path = self._finished(step)
        extra = _Json()
        ocp.load_checkpointables(path, {_EXTRA: extra})
        value: dict[str, Any] = json.loads(extra.text)
        return value

    def _release(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with suppress(Exception):  # that of a failed save, raised before
                writer.close()

    def _folders(self) -> Iterator[tuple[int, Path]]:
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                if path.name.isdecimal() and path.is_dir():
                    yield int(path.name), path

    def _recover(self) -> tuple[int | None, list[SetAside]]:
        aside: list[SetAside] = []
        for step, path in sorted(self._folders(), reverse=True):
            finished = is_sealed(path)
            problem = damage(path) if finished else "it was never finished"
            if problem is None:
                return step, aside
            name = f"{step}.{'damaged' if finished else 'unfinished'}"
            aside.append(SetAside(step, name, problem))
            shutil.rmtree(self._folder / name, ignore_errors=True)
            path.rename(self._folder / name)
        reasons = {one.name: f"{one.name}: {one.reason}" for one in aside}
        if damaged := [reasons.get(path.name, path.name) for path in self._folder.glob("*.damaged")]:
            raise ValueError(
                f"{self._folder}: every checkpoint is damaged ({'; '.join(sorted(damaged))}); "
                "remove the folder to start anew"
            )
        return None, aside

    def _finish(self, step: int, written: Callable[[], Any], names: Collection[Name]) -> None:
        """Once a step is written: see that all of it is there, seal it, and delete those that it replaces."""
        written()
        if jax.process_index():
            return
        path = self._folder / str(step)
        _check_written(path, names)
        seal(path)
        kept = self.list_steps()[-self._keep :] if self._keep else []
        for older, path in self._folders():
            if kept and older < kept[0]:
                unseal(path)
                shutil.rmtree(path)
        for path in self._folder.glob("*.unfinished"):
            shutil.rmtree(path)

    def _open(self, leaves: Mapping[Name, Any]) -> ocp.training.Checkpointer:
        if self._writer is None:
            context = ocp.Context()
            context.memory_options.write_concurrent_bytes = max(_WRITTEN_AT_ONCE, 2 * _largest_piece(leaves))
            self._writer = ocp.training.Checkpointer(
                self._folder,
                context=context,
                cleanup_tmp_directories=True,
            )
        return self._writer

    def _finished(self, step: int) -> Path:
        if not self._folder.is_dir():
            raise ValueError(f"{self._folder}: no such folder of checkpoints")
        steps = self.list_steps()
        if step not in steps:
            listed = ", ".join(map(str, steps)) or "none"
            raise ValueError(f"{self._folder}: no finished checkpoint of step {step}; there are: {listed}")
        return self._folder / str(step)


class _MismatchError(Exception):
    """The checkpoint is sound, but not of this state."""


class _Json:
    """The first process's JSON text, as an Orbax `StatefulCheckpointable`."""

    file_name = "extra.json"

    def __init__(self, text: str = "") -> None:
        self.text = text

    async def save(self, directory: Any) -> Any:
        return self._write(directory)

    async def load(self, directory: Any) -> Any:
        return self._read(directory)

    async def _write(self, directory: Any) -> None:
        created = await directory.await_creation()
        if jax.process_index() == 0:
            (created / self.file_name).write_text(self.text, encoding="utf-8")

    async def _read(self, directory: Any) -> None:
        self.text = (directory / self.file_name).read_text(encoding="utf-8")


def _to_json(extra: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(extra), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"extra cannot be stored as JSON: {error}") from error


def _named(tree: Any) -> dict[Name, Any]:
    """The leaves by the path that leads to them, in the order of `jax.tree.leaves`.

    An `nnx.Variable` adds nothing to the path of the one array in it: how Flax flattens one differs between
    its versions, and a checkpoint outlives them.
    """
    paths, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: isinstance(node, nnx.Variable))
    leaves = jax.tree.leaves(tree)
    return {_name(path): leaf for (path, _), leaf in zip(paths, leaves, strict=True)}


def _name(path: tuple[Any, ...]) -> Name:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _check_spread(leaves: Mapping[Name, Any]) -> None:
    """Orbax finds such an array too, but only while the other processes wait for this one."""
    for name, leaf in leaves.items():
        if jax.process_count() > 1 and leaf.is_fully_addressable:
            raise ValueError(f"{'.'.join(name)!r} is in one process only; place it on the run's mesh first")


def _largest_piece(leaves: Mapping[Name, Any]) -> int:
    """The bytes of the largest array on one device of this process."""
    return max(
        (shard.data.nbytes for leaf in leaves.values() for shard in leaf.addressable_shards), default=0
    )


def _has_place(leaf: Any) -> bool:
    if isinstance(leaf, jax.Array):
        return leaf.committed
    return getattr(leaf, "sharding", None) is not None


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    sharding = leaf.sharding if _has_place(leaf) else default
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _placed(array: jax.Array, like: Any) -> jax.Array:
    # Orbax commits every array to devices; a step counter bound to one device could not enter a compiled
    # function together with parameters that are spread over many.
    return array if _has_place(like) else jax.device_put(np.asarray(array))


def _stored(path: Path) -> dict[Name, Any]:
    tree = ocp.metadata(path, _STATE).metadata
    if tree is None:  # Orbax has only logged what is wrong.
        raise ValueError("the description of its arrays is damaged")
    stored: dict[Name, Any] = flatten_dict(tree)
    return stored


def _check(path: Path, stored: Mapping[Name, Any], wanted: Mapping[Name, Any], partial: bool) -> None:
    """Orbax itself would cast dtypes without a word, and report other shapes over several lines."""
    for name, leaf in wanted.items():
        if name not in stored:
            raise _MismatchError(f"{path}: has no {'.'.join(name)!r}")
        if _kind(stored[name]) != _kind(leaf):
            raise _MismatchError(
                f"{path}: {'.'.join(name)!r} is {_kind(stored[name])}, not {_kind(leaf)} as in this run"
            )
    unasked = stored.keys() - wanted.keys()
    if unasked and not partial:
        raise _MismatchError(
            f"{path}: has {'.'.join(min(unasked))!r}, which this run has not; restore with the run's settings"
        )


def _check_written(path: Path, names: Collection[Name]) -> None:
    """Raise RunFailedError where the disk does not describe what was saved.

    Its files are read as they are: each look through Orbax leaks what it read (4 KB an array, tensorstore
    0.1.86), and waits for the other processes.
    """
    try:
        described = json.loads((path / _STATE / _DESCRIPTION).read_bytes())["tree_metadata"].values()
        found = {tuple(part["key"] for part in entry["key_metadata"]) for entry in described}
        json.loads((path / _EXTRA / _Json.file_name).read_bytes())
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise _not_written(path, _reason(error)) from error
    if found != set(names):
        raise _not_written(path, f"{'.'.join(min(found ^ set(names)))!r} is not as it was saved")


def _not_written(path: Path, why: str) -> RunFailedError:
    way_out = "the same command goes on from the checkpoint before"
    return RunFailedError(f"{path}: was not written as it should be ({why}); {way_out}")


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _reason(error: BaseException) -> str:
    """The first cause, in one line: Orbax wraps it in errors that list its own registries."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error_line(error)
