"""What this machine has and allows: memory (its or a container's), processors, room on a disk, open files."""

from __future__ import annotations

import math
import os
import platform
import resource
import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MEMORY_INFO, PROCESSOR_INFO, PROCESSOR_TIMES = map(Path, ("/proc/meminfo", "/proc/cpuinfo", "/proc/stat"))
TICKS = os.sysconf("SC_CLK_TCK")
CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
OWN_GROUPS, CONTROL_GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
TOPOLOGY = Path("/sys/devices/system/cpu")


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
    """Processors that a process here may use: by its affinity, and by the time that a container allows."""
    return _within_quota(len(os.sched_getaffinity(0)))


def cores() -> int:
    """The same, a core that runs two threads counted once: more of them gain products nothing."""
    return _within_quota(physical_cores(os.sched_getaffinity(0)))


def _within_quota(count: int) -> int:
    quota = processor_quota()
    return count if quota is None else max(1, min(count, math.ceil(quota)))


def processor_quota(own: Path = OWN_GROUPS, root: Path = CONTROL_GROUPS) -> float | None:
    """Processors whose time this process's control groups and their ancestors allow; None without a limit.

    Args:
        own: Lists the groups, one a hierarchy.
        root: Where hierarchies of both versions are mounted. A container may see its own group there.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    quotas = [quota for line in lines for quota in _quotas(line, root)]
    return min(quotas, default=None)


def _quotas(line: str, root: Path) -> Iterator[float]:
    """Of one line, `number:controllers:path`; version 2 lists no controllers."""
    _, controllers, path = (*line.split(":", 2), None, None)[:3]
    if controllers is None or path is None:
        return
    if controllers == "":
        mounts = [root, root / "unified"]
    elif "cpu" in controllers.split(","):
        mounts = [root / "cpu", root / controllers]
    else:
        return
    inside = PurePosixPath(*(part for part in PurePosixPath(path).parts if part not in ("/", "..")))
    for group in (mount / level for mount in mounts for level in (inside, *inside.parents)):
        with suppress(OSError, ValueError, ZeroDivisionError):  # no such group here, or "max"
            if controllers == "":
                quota, period = (group / "cpu.max").read_text().split()
            else:
                quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(quota) > 0:  # -1 is no limit
                yield int(quota) / int(period)


def physical_cores(allowed: Collection[int], topology: Path = TOPOLOGY) -> int:
    """Cores of some processors by number; those that nothing is known of are one each."""
    return len({_siblings(topology / f"cpu{number}") for number in allowed})


def _siblings(processor: Path) -> str:
    """What the processors of one core have in common."""
    try:
        return (processor / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return processor.name


def processes_below(pid: int) -> list[int]:
    """A process and all its descendants that are running."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):  # a thread that ended meanwhile
                found += map(int, children.read_text().split())
    return found


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used, of all its threads, and of its children that ended."""
    # The program's name, in brackets, may hold blanks.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


class OthersShare:
    """Part of this machine's processor time that processes other than ours take, from its construction on.

    What the host takes from a virtual machine counts as taken by others.
    """

    def __init__(self) -> None:
        self._busy, self._total = _busy_and_total()
        self._ours = _our_seconds()

    def share(self) -> float:
        """The part so far, 0 to 1."""
        busy, total = _busy_and_total()
        others = (busy - self._busy) - (_our_seconds() - self._ours)
        return round(min(max(others / max(total - self._total, 1e-9), 0.0), 1.0), 3)


def _busy_and_total() -> tuple[float, float]:
    fields = PROCESSOR_TIMES.read_text().split("\n", 1)[0].split()[1:9]
    seconds = [int(field) / TICKS for field in fields]
    idle = seconds[3] + seconds[4]
    return sum(seconds) - idle, sum(seconds)


def _our_seconds() -> float:
    return sum(processor_seconds(pid) for pid in processes_below(os.getpid()))


def processor_name() -> str:
    """The maker's name for them."""
    for line in PROCESSOR_INFO.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or "CPU"


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
