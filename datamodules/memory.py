"""Free memory of this machine, within the limits of containers and batch jobs."""

import os
from pathlib import Path

# Files of a control group: limit, usage and statistics, and the name of the reclaimable page cache in the statistics
CGROUP_2 = ("memory.max", "memory.current", "inactive_file")
CGROUP_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def free_memory() -> int | None:
    """Return the number of bytes that this process can still allocate, None if unknown."""
    amounts = [amount for amount in (available_on_machine(), *available_in_cgroups()) if amount is not None]
    return min(amounts, default=None)


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


def available_in_cgroups(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Return the bytes left below each memory limit that applies to this process.

    Args:
        proc: File that lists the control groups of this process.
        root: Folder in which control groups are mounted.
    """
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy == "0":
            mount, names = root, CGROUP_2
        elif "memory" in controllers.split(","):
            mount, names = root / "memory", CGROUP_1
        else:
            continue
        group = mount / path.lstrip("/")
        # A limit applies to all groups below it. In a container, the path may be one of the host.
        while group.is_relative_to(mount):
            amount = left_in_cgroup(group, *names)
            if amount is not None:
                left.append(amount)
            if group == mount:
                break
            group = group.parent
    return left


def left_in_cgroup(group: Path, limit_file: str, usage_file: str, reclaimable: str) -> int | None:
    """Return the bytes left below the memory limit of a control group, None if it has no limit."""
    try:
        limit, used = ((group / name).read_text().strip() for name in (limit_file, usage_file))
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return None if limit == "max" else max(0, int(limit) - int(used) + int(statistics.get(reclaimable, 0)))
    except (OSError, ValueError):
        return None
