"""What a control group allows is all the memory that there is."""

import os
from pathlib import Path

import pytest

from vtzero.host_memory import host_memory

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
UNLIMITED = "9223372036854771712\n"
MIB = 2**20


def machine(root: Path, groups: str, **limits: str) -> Path:
    """A root folder with what the kernel says there; `__` in a limit's name is a folder's end."""
    files = {"proc/self/cgroup": groups}
    files |= {f"sys/fs/cgroup/{name.replace('__', '/')}": text for name, text in limits.items()}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/\n", {"memory.max": f"{64 * MIB}\n"}, 64 * MIB),
        ("0::/\n", {"memory.max": "max\n"}, MACHINE),
        ("0::/\n", {}, MACHINE),
        ("0::/job/step\n", {"job__memory.max": f"{64 * MIB}\n", "job__step__memory.max": "max\n"}, 64 * MIB),
        # A container of version 1: the path is that outside, and the limit stands at the top.
        ("4:memory:/outside\n0::/\n", {"memory__memory.limit_in_bytes": f"{32 * MIB}\n"}, 32 * MIB),
        ("4:memory:/\n", {"memory__memory.limit_in_bytes": UNLIMITED}, MACHINE),
        ("3:cpu:/\n", {"cpu__memory.limit_in_bytes": "1\n"}, MACHINE),
        ("", {"memory.max": "1\n"}, MACHINE),
    ],
)
def test_the_least_limit_counts(tmp_path, groups, limits, expected):
    assert host_memory(machine(tmp_path, groups, **limits)) == expected


def test_without_control_groups_it_is_the_machines(tmp_path):
    assert host_memory(tmp_path) == MACHINE


def test_it_is_read_on_this_machine():
    assert 0 < host_memory() <= MACHINE
