"""Several processes that train as one: how they start, and whose samples are whose.

The engine is JAX's own multi-controller runtime; every process runs the same programs in the same order.
Knows no model, no data set and no config of runs.
"""

import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from threading import Event, Thread
from typing import Any, NoReturn, TypeVar, cast

import jax
import numpy as np
from jax._src import distributed  # the only way to the coordinator's address where JAX found it out
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from vtzero.parallel.messages import tell_all, tell_first
from vtzero.parallel.sharding import batch_sharding, batch_spec, readers, replicated
from vtzero.terminal import one_line

Value = TypeVar("Value")

COORDINATOR, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
BIND = "JAX_COORDINATOR_BIND_ADDRESS"
JOIN_SECONDS = 300
"""So long a process waits for the others to be there. On a cluster they start minutes apart: nodes are made
and images fetched for each. After that the job ends, and whatever started it may start it again."""

HEARTBEAT_SECONDS = 30
"""A process that has been silent for so long is taken for dead, and the job ends."""

LEAVE_SECONDS = 5
"""So long a process that failed waits for others that failed too."""

GOODBYE_SECONDS = 30
"""So long an ending process waits for the others to end too; then the job ends for all. One that was
interrupted alone would wait for those that wait for it."""

_joined = Event()


def start(environment: Mapping[str, str] = os.environ) -> None:
    """Join the other processes of this job; to be called before anything asks for devices.

    Where `JAX_COORDINATOR_ADDRESS` (host:port), `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` are set, they say
    which process of how many this is. Without them JAX finds out by itself, on TPU pods, under Slurm and
    under Open MPI.

    Raises ValueError when only some of them are set, when they are no numbers, or when JAX cannot find out;
    ChildProcessError when the others are not there in `JOIN_SECONDS`, or the coordinator's port is taken.
    """
    given = {name: environment[name] for name in (COORDINATOR, COUNT, INDEX) if environment.get(name)}
    if given and len(given) < 3:
        missing = ", ".join(name for name in (COORDINATOR, COUNT, INDEX) if name not in given)
        raise ValueError(f"{', '.join(given)} set, but not {missing}; set all three, or none")
    options: dict[str, Any] = {}
    if given:
        count, index, port = _number(given, COUNT), _number(given, INDEX), _port(given[COORDINATOR])
        if not 0 <= index < count:
            raise ValueError(f"{INDEX} is {index}; it must be from 0 to {count - 1}")
        if index == 0:
            _check_free(environment.get(BIND) or f":{port}")
        options = {"coordinator_address": given[COORDINATOR], "num_processes": count, "process_id": index}
    try:
        _initialize(options)
    except ValueError as error:
        raise ValueError(
            f"this process does not know its job ({one_line(error)}); set {COORDINATOR}, {COUNT} and {INDEX}"
        ) from error
    except (RuntimeError, TimeoutError) as error:
        address = distributed.global_state.coordinator_address or "the coordinator's address"
        raise ChildProcessError(
            f"cannot join the other processes at {address}: {one_line(error)}; check that every process of "
            "the job has started, process 0 at that address, and that the other hosts can reach its port"
        ) from error


def _initialize(options: Mapping[str, Any]) -> None:
    """Initialize JAX's runtime; TimeoutError after `JOIN_SECONDS`.

    In a thread, and with a timeout for JAX that never comes: after its own, JAX ends the process by SIGABRT,
    with nothing that Python could catch. A thread can also be waited for in a way that Ctrl-C interrupts.
    """
    raised: list[Exception] = []

    def initialize() -> None:
        try:
            jax.distributed.initialize(
                initialization_timeout=JOIN_SECONDS + 60,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
                shutdown_timeout_seconds=GOODBYE_SECONDS,
                **options,
            )
        except Exception as error:
            raised.append(error)

    joining = Thread(target=initialize, daemon=True)
    joining.start()
    joining.join(JOIN_SECONDS)
    if joining.is_alive():
        raise TimeoutError(f"not all were there within {JOIN_SECONDS} s")
    if raised:
        raise raised[0]
    _joined.set()


def _port(address: str) -> int:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{COORDINATOR} is {address!r}; it must be HOST:PORT")
    return int(port)


def _check_free(address: str) -> None:
    """JAX's coordinator ends by a segmentation fault where another program listens on its port."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_server((host.strip("[]"), int(port)), family=_family(host)).close()
    except OSError as error:
        raise ChildProcessError(
            f"the coordinator cannot listen at port {port} of this machine: {error.strerror}; "
            f"give {COORDINATOR} another port, in all processes"
        ) from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _number(given: Mapping[str, str], name: str) -> int:
    try:
        return int(given[name])
    except ValueError:
        raise ValueError(f"{name} is {given[name]!r}; it must be a whole number") from None


def in_all(do: Callable[[], Value]) -> Value:
    """What `do` returns in this process. A user's mistake in one process is raised in all of them.

    Else the others would wait for one that has ended, until JAX ends them all with a code that says nothing.
    """
    mistake = result = None
    try:
        result = do()
    except (ValueError, OSError) as error:
        mistake = error
    told = tell_all(None if mistake is None else one_line(mistake))
    if mistake is not None:
        raise mistake
    for number, other in enumerate(told):
        if other is not None:
            raise ValueError(f"process {number}: {other}")
    return cast(Value, result)


def leave(code: int) -> NoReturn:
    """End this process now, with its own exit code, where another may not come to its end.

    By itself JAX would wait at the exit for those that wait for this one, and then end it by SIGABRT, which
    tells a launcher nothing. Others that come to their end too, as after a mistake that all made, are waited
    for: the first process takes the coordinator with it, and JAX ends by SIGABRT whoever still listens to it.
    """
    client: Any = distributed.global_state.client
    if _joined.is_set() and client is not None:  # before it has joined, JAX answers the wait by SIGABRT
        with suppress(jax.errors.JaxRuntimeError):
            client.wait_at_barrier("vtzero/leave", 1000 * LEAVE_SECONDS)
            jax.distributed.shutdown()  # all are here, and none listens any more once this returns
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def is_first() -> bool:
    """Whether this is the process that writes the files of a run."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Return once every process has called this, under one name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@dataclass(frozen=True)
class RowShare:
    """The samples of a batch that this process loads and scores: those of block `block`.

    A batch has as many equal parts as the mesh has readers; `parts` are the parts of each block. They need
    not follow each other: on a TPU slice the mesh's order follows the wires, and the devices of one process
    lie in a square. Processes whose devices hold the same samples, as along `tensor`, have the same block;
    `tellers` is one process of each block.
    """

    block: int = 0
    parts: tuple[tuple[int, ...], ...] = ((0,),)
    tellers: tuple[int, ...] = (0,)

    @property
    def blocks(self) -> int:
        """How many blocks there are, all of the same size."""
        return len(self.parts)

    def rows(self, batch: int) -> list[int]:
        """This block's samples among `batch`, ascending."""
        return self._rows(self.parts[self.block], batch)

    def gather(self, value: Any) -> list[Any]:
        """What each block passes, block after block."""
        told = tell_all(value)
        return [told[process] for process in self.tellers]

    def bring(self, values: Sequence[Any]) -> list[Any] | None:
        """The values of a whole batch, one a sample, in the first process; each passes those of its own rows.

        None in the other processes.
        """
        told = tell_first(values, self.tellers)
        if told is None:
            return None
        every = [value for own in told for value in own]
        by_row = dict(zip(self.gathered_rows(len(every)), every, strict=True))
        return [by_row[row] for row in range(len(every))]

    def gathered_rows(self, batch: int) -> list[int]:
        """Which sample of `batch` stands where when those of all blocks follow each other."""
        return [row for parts in self.parts for row in self._rows(parts, batch)]

    def _rows(self, parts: tuple[int, ...], batch: int) -> list[int]:
        size, rest = divmod(batch, sum(map(len, self.parts)))
        if rest:
            raise ValueError(
                f"{batch} samples do not divide over data * fsdp = {sum(map(len, self.parts))} of the mesh"
            )
        return [row for part in parts for row in range(part * size, (part + 1) * size)]


ALONE = RowShare()
"""All samples: of one process, or of several that prepare the same."""


def row_share(mesh: Mesh) -> RowShare:
    """The share of this process of batches on `mesh`.

    Raises ValueError when two processes hold some samples in common, and not all.
    """
    shards = readers(mesh)
    owned: dict[int, set[int]] = {}
    placed: Mapping[Any, Any] = batch_sharding(mesh).devices_indices_map((shards,))
    for device, (rows, *_) in placed.items():
        owned.setdefault(device.process_index, set()).add(rows.indices(shards)[0])
    parts = {process: tuple(sorted(rows)) for process, rows in owned.items()}
    blocks = sorted(set(parts.values()))
    if sum(map(len, blocks)) != shards or len({*map(len, blocks)}) > 1:
        raise ValueError(
            f"mesh {dict(mesh.shape)}: processes do not hold equal, separate parts of a batch; "
            "let tensor divide the devices of a process, or be a multiple of them"
        )
    tellers = tuple(min(process for process in parts if parts[process] == block) for block in blocks)
    return RowShare(blocks.index(parts[jax.process_index()]), tuple(blocks), tellers)


def join_rows(own: Any, mesh: Mesh, share: RowShare) -> Any:
    """A batch on the mesh from each process's own samples (nested dataclasses of host arrays, samples first).

    M-RoPE `positions` (3, samples, length) are the one array whose samples are second.
    """

    def put(path: tuple[Any, ...], leaf: Any) -> jax.Array:
        axis, spec = batch_spec(path)
        shape = (*leaf.shape[:axis], leaf.shape[axis] * share.blocks, *leaf.shape[axis + 1 :])
        return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), np.asarray(leaf), shape)

    return jax.tree_util.tree_map_with_path(put, own)


def on_host(tree: Any) -> Any:
    """The values of arrays on the host, of every sample, in every process."""
    return jax.device_get(jax.tree.map(_everywhere, tree))


def _everywhere(array: Any) -> Any:
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return array
    sharding: Any = array.sharding
    return _replicating(sharding.mesh)(array)


@cache
def _replicating(mesh: Mesh) -> Any:
    return jax.jit(lambda x: x, out_shardings=replicated(mesh))
