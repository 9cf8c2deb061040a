"""Memory of this machine, within the limits of containers and batch jobs."""

import os
from pathlib import Path
from typing import NamedTuple

# Files of a control group: limit, usage and statistics, and the name of the reclaimable page cache in the statistics
CGROUP_2 = ("memory.max", "memory.current", "inactive_file")
CGROUP_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def free_memory() -> int | None:
    """Return the number of bytes that this process can still allocate, None if unknown."""
    return smallest(available_on_machine(), *(group.left() for group in control_groups()))


def total_memory() -> int | None:
    """Return the number of bytes that all processes of this job may allocate together, None if unknown."""
    return smallest(memory_of_machine(), *(group.limit() for group in control_groups()))


def smallest(*amounts: int | None) -> int | None:
    """Return the smallest of the amounts that are known, None without any."""
    return min((amount for amount in amounts if amount is not None), default=None)


def memory_of_machine() -> int | None:
    """Return the memory of the machine in bytes, None if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # on Windows
        return None


def available_on_machine() -> int | None:
    """Return the available memory of the machine in bytes, None if unknown."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on macOS and Windows
        return None


class ControlGroup(NamedTuple):
    """A control group with the names of its files, which differ between the two versions of control groups."""

    folder: Path
    limit_file: str
    usage_file: str
    reclaimable: str  # in memory.stat

    def limit(self) -> int | None:
        """Return the memory limit in bytes, or None if there is none."""
        try:
            limit = (self.folder / self.limit_file).read_text().strip()
            return None if limit == "max" else int(limit)
        except (OSError, ValueError):
            return None

    def left(self) -> int | None:
        """Return the number of bytes left below the memory limit, or None if there is none."""
        limit = self.limit()
        try:
            used = int((self.folder / self.usage_file).read_text())
            statistics = dict(line.split() for line in (self.folder / "memory.stat").read_text().splitlines())
            return None if limit is None else max(0, limit - used + int(statistics.get(self.reclaimable, 0)))
        except (OSError, ValueError):
            return None


def control_groups(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> list[ControlGroup]:
    """Return the control groups whose memory limits apply to this process.

    Args:
        proc: File that lists the control groups of this process.
        root: Folder in which control groups are mounted.
    """
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return []
    groups = []
    for line in lines:
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy == "0":
            mount, names = root, CGROUP_2
        elif "memory" in controllers.split(","):
            mount, names = root / "memory", CGROUP_1
        else:
            continue
        folder = mount / path.lstrip("/")
        # A limit applies to all groups below it. In a container, the path may be one of the host.
        while folder.is_relative_to(mount):
            groups.append(ControlGroup(folder, *names))
            if folder == mount:
                break
            folder = folder.parent
    return groups
