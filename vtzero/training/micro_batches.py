"""Into how many parts a step's batch is cut: as few as the memory of the devices allows.

The compiler says what a program needs; nothing is tried out. Knows programs and devices, no algorithm.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax

from vtzero.host_memory import host_memory
from vtzero.parallel.program import Program

# Of a device's memory: the rest is for what else is on it, and for what the allocator cannot fill.
USABLE = 0.9


def device_memory() -> int:
    """Bytes of one device; on CPU, where all devices share the host's, its share of that."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return host_memory() // jax.local_device_count()


def fewest_parts(
    make: Callable[[int], Program],
    candidates: Iterable[int],
    arguments: tuple[Any, ...],
    *,
    memory: int,
    beside: int = 0,
) -> tuple[int, Program]:
    """The program of the fewest parts that fits, compiled for `arguments`, and their number.

    `make(parts)` gives the program; a device has `memory` bytes, of which `beside` are not the program's own
    but must stay.

    Raises ValueError when not even the most parts fit.
    """
    limit = int(USABLE * memory) - beside
    needs = ""
    for parts in sorted(candidates):
        program = make(parts)
        compiled = _compiled_if_it_fits(program.declare(*arguments))
        if compiled is None:
            needs = "more memory than a device has"
            continue
        needed = bytes_needed(compiled)
        if needed <= limit:
            return parts, program
        needs = f"{needed / 2**30:.1f} GiB a device"
    raise ValueError(
        f"the update needs {needs} even one sample at a time, and {limit / 2**30:.1f} GiB are usable: "
        "lower max_prompt_length or max_completion_length, or shard with mesh.fsdp"
    )


def _compiled_if_it_fits(compile_it: Callable[[], Any]) -> Any | None:
    """The program, or None where the compiler itself refuses it, as the one for TPUs does."""
    try:
        return compile_it()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None


def bytes_needed(compiled: Any) -> int:
    """What a compiled program has on one device while it runs: arguments, results and all between."""
    memory = compiled.memory_analysis()
    return int(
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


def bytes_on_a_device(tree: Any) -> int:
    """What the arrays of a tree, or those that its shapes and shardings say, take on one of their devices."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def possible_parts(samples: int, shards: int) -> list[int]:
    """The numbers of equal parts whose samples every device has a share of."""
    return [parts for parts in range(1, samples + 1) if samples % (parts * shards) == 0] or [1]
