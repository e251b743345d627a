"""What this machine has and allows: memory (its own, or a container's), processors, room on a disk, open files."""

from __future__ import annotations

import os
import resource
import shutil
from dataclasses import dataclass
from pathlib import Path

MEMORY_INFO, PROCESSOR_INFO = Path("/proc/meminfo"), Path("/proc/cpuinfo")
CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory in bytes, without swap.

    Attributes:
        total: What there is, or what a container may use of it.
        available: What the kernel could give now without swapping.
    """

    total: int
    available: int


def memory_of_machine() -> Memory:
    """The memory that a process here can have."""
    lines = MEMORY_INFO.read_text().splitlines()
    kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    total, available = (1024 * kilobytes[name] for name in ("MemTotal", "MemAvailable"))
    limit = min([total, *filter(None, map(_limit, CONTAINER_LIMITS))])
    return Memory(total=limit, available=min(available, limit))


def processors() -> int:
    """Processors that a process here may use."""
    return len(os.sched_getaffinity(0))


def processor_name() -> str:
    """The maker's name for them."""
    for line in PROCESSOR_INFO.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return "CPU"


def free_disk(directory: Path) -> int:
    """Free bytes of the file system that a directory is on or would be made on."""
    path = directory.absolute()
    return shutil.disk_usage(next(parent for parent in (path, *path.parents) if parent.exists())).free


def _limit(path: Path) -> int | None:
    """A control group's limit; None where there is none."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def allow_descriptors(count: int) -> None:
    """Lets this process and its children open so many files and sockets, or as many as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
