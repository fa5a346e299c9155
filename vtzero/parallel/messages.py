"""What the processes of a job tell each other, on the host, through the job's coordinator.

Not through the devices: a message would wait there for the work that they have, and each length that is new
would be a program to compile (two processes on a CPU: 40 to 60 ms a message, against 2). JAX's coordinator
lets in whoever reaches its port. Such a guest can spoil or end a job, so that the port belongs behind a
firewall; it cannot run code, since messages are pickles of plain values only. Knows nothing of what is told.
"""

from collections.abc import Callable, Collection
from itertools import count
from typing import Any, TypeVar

import jax
from jax._src import distributed  # the only way to the coordinator's store; Orbax takes it too

from vtzero.parallel.plain_pickles import dumps, loads

Value = TypeVar("Value")

_LOOK_UP_SECONDS = 1
"""So often a process that waits can be interrupted; that another died is for the coordinator to notice."""

_to_all, _to_first = count(), count()


def tell_all(value: Any) -> list[Any]:
    """What each process passes, in the order of the processes; all must call it, and all get everything."""
    if jax.process_count() == 1:
        return [value]
    number = next(_to_all)
    told = _collected(f"all/{number}", value, range(jax.process_count()))
    if told is None:
        whole: list[Any] = loads(_waited_for(f"all/{number}/whole"))
        return whole
    if number:  # whoever tells something new has read what was told before
        _store().key_value_delete(_path(f"all/{number - 1}/whole"))
    _put(f"all/{number}/whole", told)
    return told


def tell_first(value: Any, tellers: Collection[int]) -> list[Any] | None:
    """What the tellers pass, to the first process, which must be one of them; None in the others.

    All must call it. Only the first process waits.
    """
    if jax.process_count() == 1:
        return [value]
    return _collected(f"first/{next(_to_first)}", value, tellers)


def ask_first(ask: Callable[[], Value]) -> Value:
    """What `ask` returns in the first process, in every process; so that a ValueError there ends them all."""
    answer, mistake = None, None
    try:
        answer = ask() if jax.process_index() == 0 else None
    except ValueError as error:
        mistake = error if _can_be_told(error) else ValueError(str(error))
    answer, mistake = tell_all((answer, mistake))[0]
    if mistake is not None:
        raise mistake
    return answer


def _can_be_told(error: ValueError) -> bool:
    """Whether its kind is known to the others' reader of messages; a library's is not."""
    return type(error).__module__.split(".")[0] in ("builtins", "vtzero")


def _collected(name: str, value: Any, tellers: Collection[int]) -> list[Any] | None:
    """In the first process, what all tellers say; in the others, None."""
    me = jax.process_index()
    if me == 0:
        return [value if process == me else _taken(f"{name}/{process}") for process in tellers]
    if me in tellers:
        _put(f"{name}/{me}", value)
    return None


def _taken(name: str) -> Any:
    message = _waited_for(name)
    _store().key_value_delete(_path(name))
    return loads(message)


def _put(name: str, value: Any) -> None:
    _store().key_value_set_bytes(_path(name), dumps(value))


def _waited_for(name: str) -> bytes:
    while True:
        try:
            message: bytes = _store().blocking_key_value_get_bytes(_path(name), 1000 * _LOOK_UP_SECONDS)
            return message
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def _path(name: str) -> str:
    return f"vtzero/{name}"


def _store() -> Any:
    return distributed.global_state.client
