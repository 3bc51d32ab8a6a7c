"""How much memory there is: the limits of cgroups, from a file system made for the test."""

import sys
from pathlib import Path

import pytest

from headwater.runtime.memory import memory_limit

MB = 1 << 20
V2, V1 = "0::/user/job/step\n", "12:cpu,cpuacct:/x\n7:memory:/docker/ab\n0::/\n"

# fmt: off
LIMITS = {
    "none": (V2, {"": "max"}, sys.maxsize),
    "its own": (V2, {"user/job/step": 500 * MB}, 500 * MB),
    "of a group above it": (V2, {"user/job/step": "max", "user/job": 300 * MB}, 300 * MB),
    "the least counts, below": (V2, {"user/job/step": 100 * MB, "user": 900 * MB}, 100 * MB),
    "the least counts, above": (V2, {"user/job/step": 900 * MB, "user": 100 * MB}, 100 * MB),
    "of the top, in a container": ("0::/\n", {"": 200 * MB}, 200 * MB),
    "of another group": (V2, {"user/other": 1}, sys.maxsize),
    "out of sight": ("0::/../../elsewhere\n", {"": 200 * MB, "elsewhere": 1}, 200 * MB),
    "version 1": (V1, {"memory/docker/ab": 400 * MB, "memory": 1 << 62}, 400 * MB),
    "version 1, in a container": (V1, {"memory": 400 * MB}, 400 * MB),
    "version 1, another controller": ("3:cpu:/x\n", {"memory/x": 1, "x": 1}, sys.maxsize),
    "no number": (V2, {"user/job/step": "", "user": "?"}, sys.maxsize),
    "a colon in its name": ("0::/user/a:b\n", {"user/a:b": MB}, MB),
}
# fmt: on


def made(root: Path, lines: str, limits: dict[str, object]) -> Path:
    """A file system with these cgroups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)
    for group, limit in limits.items():
        folder = root / "sys/fs/cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        name = "memory.limit_in_bytes" if group.startswith("memory") else "memory.max"
        (folder / name).write_text(f"{limit}\n")
    return root


@pytest.mark.parametrize("lines, limits, expected", LIMITS.values(), ids=LIMITS)
def test_the_least_limit_of_all_cgroups_above(tmp_path, lines, limits, expected):
    assert memory_limit(made(tmp_path, lines, limits)) == expected


def test_where_there_are_no_cgroups(tmp_path):
    assert memory_limit(tmp_path) == sys.maxsize
