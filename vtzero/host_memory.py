"""How much memory this machine gives, which in a container, a Slurm job or a pod is less than it has.

Knows nothing of who takes it.
"""

import os
from collections.abc import Iterator
from pathlib import Path

SHARE_BESIDE = 0.5
"""Of the memory: what a process beside the run may take."""

_LIMITS = {"": "memory.max", "memory": "memory.limit_in_bytes"}
"""By controller: cgroups of version 2 name none, and those of version 1 are a tree for each."""


def host_memory(root: Path = Path("/")) -> int:
    """Bytes: the machine's own, or the least that a control group above this process allows."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_group_limits(root)])


def memory_beside() -> int:
    """Bytes that a process beside the run may take."""
    return int(SHARE_BESIDE * host_memory())


def _group_limits(root: Path) -> Iterator[int]:
    for controller, group in _groups(root):
        top = root / "sys/fs/cgroup" / controller
        own = top / group.lstrip("/")
        # A container may see its own group as the top of the tree, under the path that it has outside.
        for folder in (own, *own.parents):
            if folder.is_relative_to(top):
                yield from _limit(folder / _LIMITS[controller])


def _groups(root: Path) -> list[tuple[str, str]]:
    """(controller, path) of the groups that limit this process's memory."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return []
    parts = [line.split(":", 2) for line in lines]
    return [(part[1], part[2]) for part in parts if len(part) == 3 and part[1] in _LIMITS]


def _limit(file: Path) -> list[int]:
    """Its number; none where there is no such file, or no limit in it."""
    try:
        return [int(file.read_text())]
    except (OSError, ValueError):
        return []
