"""Machine facts from canned /proc and /sys text."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.hardware import Cache, machine
from slipstream.hardware.machine import parse_choice, parse_cpuinfo, parse_meminfo, parse_size, read_caches

FLAGS = "fpu sse4_2 avx f16c fma avx2 avx512f avx512bw avx512_vnni avx512_bf16 amx_tile amx_int8"
ARM = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd asimddp i8mm bf16 sve\nCPU part\t: 0xd40\n"
MEMINFO = """\
MemTotal:       24684092 kB
MemFree:        100 kB
MemAvailable:   22646584 kB
HugePages_Free:        3
Hugepagesize:       2048 kB
"""
CPU_CACHES = ((1, "Data", "48K", 1), (1, "Instruction", "32K", 1), (2, "Unified", "1024K", 1), (3, "Unified", "32M", 2))  # CPUs per cache


def cpuinfo(packages: int, cores: int, threads: int) -> str:
    blocks = []
    places = [(package, core) for package in range(packages) for core in range(cores)]
    for number, (package, core) in enumerate(places * threads):
        fields = {"processor": number, "model name": "Best CPU @ 3.00GHz: 9", "physical id": package, "core id": core * 4}
        blocks.append("\n".join(f"{name}\t: {value}" for name, value in (fields | {"flags": FLAGS}).items()))
    return "\n\n".join(blocks) + "\n"


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_x86_cores_and_flags():
    processor = parse_cpuinfo(cpuinfo(packages=2, cores=3, threads=2))
    assert processor.name == "Best CPU @ 3.00GHz: 9"
    assert (processor.physical(), processor.logical) == (6, 12)
    assert processor.physical({0, 6}) == 1, "two threads of one core"
    assert processor.physical({0, 3}) == 2, "the same core number in two packages"
    assert processor.isa == ("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx", "amx_int8")


def test_arm_and_nothing():
    arm = parse_cpuinfo(ARM)
    assert (arm.name, arm.physical(), arm.logical) == (None, None, 1)
    assert arm.isa == ("neon", "dotprod", "i8mm", "arm_bf16", "sve")
    empty = parse_cpuinfo("")
    assert (empty.name, empty.isa, empty.physical(), empty.logical) == (None, None, None, None)


def test_meminfo_sizes_and_choices():
    memory = parse_meminfo(MEMINFO)
    assert memory["MemTotal"] == 24684092 * 1024
    assert memory["Hugepagesize"] == 2 << 20
    assert memory["HugePages_Free"] == 3
    assert [parse_size(text) for text in ("1024K", "32 MB", "7", "", "x", "K", "-1K")] == [1 << 20, 32 << 20, 7, None, None, None, None]
    assert [parse_choice(text) for text in ("always [madvise] never", "[always] never", "none", "[]")] == ["madvise", "always", None, None]


def test_caches_count_instances_and_leave_instructions_out(tmp_path):
    for cpu in range(4):
        for index, (level, kind, size, sharing) in enumerate(CPU_CACHES):
            facts = {"level": level, "type": kind, "size": size, "shared_cpu_list": cpu // sharing}
            write(tmp_path, {f"cpu{cpu}/cache/index{index}/{name}": f"{value}\n" for name, value in facts.items()})
    assert read_caches(tmp_path) == (Cache(1, 48 << 10, 4), Cache(2, 1 << 20, 4), Cache(3, 32 << 20, 2))
    assert read_caches(tmp_path / "nowhere") is None


def test_whole_machine_under_a_limit(tmp_path):
    write(
        tmp_path,
        {
            "proc/cpuinfo": cpuinfo(1, 4, 2),
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": "30 20 0:1 / /cg rw - cgroup2 cgroup2 rw\n",
            "cg/memory.max": str(8 << 30),
            "cg/memory.current": str(3 << 30),
            "cg/memory.stat": f"anon 5\ninactive_file {1 << 30}\n",
            "cg/cpu.max": "150000 100000\n",
            "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
            "sys/devices/system/cpu/cpu0/cache/index2/level": "2",
            "sys/devices/system/cpu/cpu0/cache/index2/size": "1M",
        },
    )
    facts = machine.read(tmp_path / "proc", tmp_path / "sys", root=tmp_path, with_gpus=False)
    assert (facts.physical_cores, facts.logical_cpus) == (4, 8)
    assert (facts.memory_total, facts.memory_available, facts.memory_limit) == (8 << 30, 6 << 30, 8 << 30)
    assert (facts.cpu_quota, facts.threads) == (1.5, 1)
    assert (facts.huge_pages, facts.huge_page_size, facts.huge_pages_free) == ("madvise", 2 << 20, 3)
    assert (facts.l2, facts.l3, facts.gpus) == (1 << 20, None, None)


def test_the_tighter_of_machine_and_limit_counts(tmp_path):
    write(
        tmp_path,
        {
            "proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 400 kB\n",
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": "30 20 0:1 / /cg rw - cgroup2 cgroup2 rw\n",
            "cg/memory.max": str(900 << 10),
            "cg/memory.current": "0",
        },
    )
    facts = machine.read(tmp_path / "proc", tmp_path / "sys", root=tmp_path, with_gpus=False)
    assert (facts.memory_total, facts.memory_available) == (900 << 10, 400 << 10)


def test_a_machine_that_says_nothing(tmp_path):
    facts = machine.read(tmp_path, tmp_path, root=tmp_path, with_gpus=False)
    unknown = ("cpu", "physical_cores", "isa", "caches", "memory_total", "memory_available", "memory_limit", "huge_pages", "cpu_quota")
    assert all(getattr(facts, name) is None for name in (*unknown, "l2", "l3"))
    assert facts.threads >= 1
    assert facts.python


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs Linux")
def test_this_machine():
    facts = machine.read(with_gpus=False)
    assert 0 < facts.memory_available <= facts.memory_total
    assert 1 <= facts.threads <= os.cpu_count()
    assert facts.usable_cores <= facts.logical_cpus


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(alphabet="processor:\n\t 0123KMG[]flags model name physical id-", max_size=120))
def test_parsers_never_raise(text):
    parse_cpuinfo(text).physical()
    parse_meminfo(text)
    parse_choice(text)
    size = parse_size(text)
    assert size is None or size >= 0
