"""Limits that a container or service puts on this process (Linux control groups, versions 1 and 2, also mixed).

Owns where the limits stand and how they combine; knows nothing of the rest of the machine. Nothing here raises: what cannot
be read sets no limit.

A limit holds for a group and all groups below it, so the tightest one on the way up to the root counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

UNLIMITED = 1 << 60  # version 1 writes "no limit" as a huge number


@dataclass(frozen=True, slots=True)
class Limits:
    """What this process may use.

    Attributes:
        memory: bytes at most, None where there is no limit.
        memory_free: bytes still to be had under the tightest limit, page cache that can be dropped counted as free.
        cpus: processor time per time (2.5: two and a half processors), None where there is no quota.
    """

    memory: int | None = None
    memory_free: int | None = None
    cpus: float | None = None


def read(proc: Path = Path("/proc"), root: Path = Path("/")) -> Limits:
    """The limits of this process.

    Args:
        proc: where `self/cgroup` and `self/mountinfo` are.
        root: what the mount points in mountinfo are relative to.
    """
    groups = parse_groups(text_of(proc / "self/cgroup") or "")
    mounts = parse_mounts(text_of(proc / "self/mountinfo") or "")
    memory: int | None = None
    free: int | None = None
    cpus: float | None = None
    for folder in _folders(groups, mounts, "memory", root):
        limit, available = _memory(folder)
        memory, free = least(memory, limit), least(free, available)
    for folder in _folders(groups, mounts, "cpu", root):
        cpus = least(cpus, _quota(folder))
    return Limits(memory, free, cpus)


def text_of(path: Path) -> str | None:
    """The text of a small file; None where it does not exist or may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def number_of(text: str | None) -> int | None:
    """A whole number; None for anything else ("max")."""
    text = (text or "").strip()
    return int(text) if text.isascii() and text.removeprefix("-").isdigit() else None


def least(*limits: float | None) -> float | None:
    """The tightest limit, where None is none."""
    return min((limit for limit in limits if limit is not None), default=None)


def parse_groups(text: str) -> dict[str, str]:
    """/proc/self/cgroup -> {controller: path of the group}; version 2 is the controller ""."""
    groups = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if number.isdigit() and colon:
            groups.update(dict.fromkeys(controllers.split(","), path))
    return groups


def parse_mounts(text: str) -> dict[str, tuple[str, str]]:
    """/proc/self/mountinfo -> {controller: (which group is mounted, where)}; version 2 is the controller ""."""
    mounts = {}
    for line in text.splitlines():
        left, dash, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if not dash or len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            mounts[""] = (fields[3], fields[4])
        elif kind[0] == "cgroup":
            mounts.update(dict.fromkeys(kind[2].split(","), (fields[3], fields[4])))
    return mounts


def _folders(groups: dict[str, str], mounts: dict[str, tuple[str, str]], controller: str, root: Path) -> Iterator[Path]:
    """The folders of this process's group and of those above it, in both versions.

    Where the group's path is not to be seen (a container shows only its own part), the mount point itself stands for it.
    """
    for key in (controller, ""):
        if key not in mounts or key not in groups:
            continue
        top, point = mounts[key]
        path = PurePosixPath(groups[key])
        inside = path.relative_to(top) if path.is_relative_to(top) else PurePosixPath()
        base = root / point.lstrip("/")
        folder = base / inside
        if ".." in inside.parts or not folder.is_dir():
            folder = base
        yield folder
        while folder != base:
            folder = folder.parent
            yield folder


def _memory(folder: Path) -> tuple[int | None, int | None]:
    """(limit, free below it) in bytes of one group."""
    for limit_file, usage_file, cache_field in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit = number_of(text_of(folder / limit_file))
        if limit is not None and limit < UNLIMITED:
            usage = number_of(text_of(folder / usage_file))
            if usage is None:
                return limit, None
            stat = dict(line.split(maxsplit=1) for line in (text_of(folder / "memory.stat") or "").splitlines() if " " in line)
            return limit, max(0, limit - max(0, usage - (number_of(stat.get(cache_field)) or 0)))
    return None, None


def _quota(folder: Path) -> float | None:
    """Processors that one group may use at a time."""
    both = (text_of(folder / "cpu.max") or "").split()
    if len(both) == 2:
        quota, period = number_of(both[0]), number_of(both[1])
    else:
        quota, period = number_of(text_of(folder / "cpu.cfs_quota_us")), number_of(text_of(folder / "cpu.cfs_period_us"))
    return quota / period if quota and period and quota > 0 and period > 0 else None
