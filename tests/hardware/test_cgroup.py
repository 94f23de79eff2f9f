"""Control group limits, versions 1 and 2, in canned folders."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.hardware import cgroup
from slipstream.hardware.cgroup import Limits

V2_MOUNT = "30 20 0:1 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw\n"
V1_MOUNTS = (
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
)


@pytest.fixture
def write(tmp_path):
    """Writes files and reads the limits."""

    def write_and_read(groups: str, mounts: str, files: dict[str, object]) -> Limits:
        for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        return cgroup.read(tmp_path / "proc", tmp_path)

    return write_and_read


def test_version_2_takes_the_tightest_on_the_way_up(write):
    base = "sys/fs/cgroup"
    files = {
        f"{base}/a/memory.max": 1000,
        f"{base}/a/memory.current": 900,
        f"{base}/a/memory.stat": "file 500\ninactive_file 300",
        f"{base}/a/b/memory.max": 2000,
        f"{base}/a/b/memory.current": 1950,
        f"{base}/a/b/cpu.max": "max 100000",
        f"{base}/a/cpu.max": "250000 100000",
    }
    assert write("0::/a/b", V2_MOUNT, files) == Limits(memory=1000, memory_free=50, cpus=2.5)


def test_version_2_without_limits(write):
    assert write("0::/a", V2_MOUNT, {"sys/fs/cgroup/a/memory.max": "max", "sys/fs/cgroup/a/cpu.max": "max 100000"}) == Limits()


def test_version_1(write):
    files = {
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": 4096,
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": 3000,
        "sys/fs/cgroup/memory/job/memory.stat": "inactive_file 1\ntotal_inactive_file 1000",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": 9223372036854771712,
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": 50000,
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": 100000,
    }
    assert write("4:memory:/job\n2:cpu,cpuacct:/", V1_MOUNTS, files) == Limits(memory=4096, memory_free=2096, cpus=0.5)


def test_version_1_without_limits(write):
    files = {"sys/fs/cgroup/memory/memory.limit_in_bytes": 9223372036854771712, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": -1}
    assert write("4:memory:/\n2:cpu,cpuacct:/", V1_MOUNTS, files) == Limits()


def test_a_container_sees_its_own_part_at_the_mount_point(write):
    """The group's path is the host's; what is mounted is that very group, or the path is not to be seen at all."""
    limit = {"sys/fs/cgroup/memory/memory.limit_in_bytes": 77}
    mounted = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    assert write("4:memory:/docker/abc", mounted, limit).memory == 77
    assert write("4:memory:/elsewhere", V1_MOUNTS, limit).memory == 77
    assert write("4:memory:/../up", V1_MOUNTS, limit).memory == 77


def test_usage_over_the_limit_leaves_nothing(write):
    files = {"sys/fs/cgroup/memory.max": 100, "sys/fs/cgroup/memory.current": 500}
    assert write("0::/", V2_MOUNT, files) == Limits(memory=100, memory_free=0)


def test_no_files_no_limits(tmp_path):
    assert cgroup.read(tmp_path / "proc", tmp_path) == Limits()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(alphabet="0:/ -\ncgroup2memory,rw.", max_size=80))
def test_parsers_never_raise(text):
    groups, mounts = cgroup.parse_groups(text), cgroup.parse_mounts(text)
    assert all(isinstance(path, str) for path in groups.values())
    assert all(len(place) == 2 for place in mounts.values())
