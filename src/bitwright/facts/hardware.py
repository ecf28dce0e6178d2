"""Which processor will run the model: this machine's, or one looked up by name in hardware.toml.

`memory_bytes` is that of one device; `count` devices hold `count` times as much. Detection reads what the system says
(/proc and cgroups on Linux, sysctl on macOS, nvidia-smi, rocm-smi or amd-smi where there is one) and loads no numeric
library. Intel's GPUs and accelerators are not looked for.

Not here: the table (device_rows.py), what drivers' tools print (drivers.py), whether a model fits (planner/memory.py).
Sources: man 5 proc; kernel documentation, cgroup-v2 (memory.max); man sysctl of macOS (machdep.cpu.brand_string,
hw.memsize, hw.physicalcpu).
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import msgspec

from bitwright.core.devices import DeviceFacts
from bitwright.core.errors import UsageError
from bitwright.core.units import MIB
from bitwright.facts.device_rows import device_of, row_named, row_reported_as
from bitwright.facts.drivers import (
    AMD_QUERY,
    JETSON,
    NVIDIA_QUERY,
    ROCM_QUERY,
    parse_amd_smi,
    parse_nvidia,
    parse_rocm_smi,
)

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
BOARD = "/proc/device-tree/model"
TOOL_SECONDS = 10
# What engines' kernels ask of a processor, the most capable first: word in /proc/cpuinfo, name here
INSTRUCTIONS = (("amx_tile", "amx"), ("avx512f", "avx512"), ("avx2", "avx2"), ("asimd", "neon"))
VENDORS = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD"}


def find_device(target: str) -> DeviceFacts:
    """`auto` (this machine's GPU if it has one, else its processor), `cpu`, or `name[:count]`. Raises `UsageError`."""
    if target == "cpu":
        return this_cpu()
    if target == "auto":
        return this_gpu() or this_cpu()
    name, _, number = target.partition(":")
    row = row_named(name)
    if ":" in target and not re.fullmatch(r"[1-9]\d{0,3}", number):
        raise UsageError(f"`{target}` asks for {number!r} devices", hint=f"write {name}:2 for two of them")
    return device_of(row, int(number) if number else 1)


def this_cpu() -> DeviceFacts:
    """This machine's processor and the memory that this process may use."""
    if platform.system() == "Darwin":
        return _mac()
    cpuinfo = _text("/proc/cpuinfo")
    return DeviceFacts(
        name=cpu_name(cpuinfo),
        kind="cpu",
        memory_bytes=linux_memory(_text("/proc/meminfo"), _cgroup_limits()),
        source="/proc",
        vendor=next((vendor for word, vendor in VENDORS.items() if word in cpuinfo), ""),
        architecture=instructions(cpuinfo),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    )


def this_gpu() -> DeviceFacts | None:
    """The devices that a driver's tool reports, NVIDIA's first, or `None`."""
    if output := _tool(NVIDIA_QUERY):
        # Others than Jetson's are asked for neither: they know their memory
        board = _text(BOARD).rstrip("\0\n") if JETSON in output else ""
        shared = this_cpu().memory_bytes // MIB if "[N/A]" in output or "Not Supported" in output else 0
        if found := parse_nvidia(output, board=board, shared_mib=shared):
            return found
    return parse_rocm_smi(_tool(ROCM_QUERY)) or parse_amd_smi(_tool(AMD_QUERY))


def cpu_name(cpuinfo: str) -> str:
    """The model name in the text of /proc/cpuinfo (some Arm kernels give none)."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else f"{platform.machine() or 'unknown'} processor"


def instructions(cpuinfo: str) -> str:
    """The most capable instructions for matrices that /proc/cpuinfo lists: amx, avx512, avx2, neon, or nothing."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    words = set(found[1].split()) if found else set()
    return next((name for word, name in INSTRUCTIONS if word in words), "")


def linux_memory(meminfo: str, limits: tuple[str, ...]) -> int:
    """Bytes: MemTotal of /proc/meminfo, or less where a control group allows less."""
    found = re.search(r"^MemTotal:\s*(\d+) kB$", meminfo, re.MULTILINE)
    total = int(found[1]) * 1024 if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *(int(limit) for limit in limits if limit.strip().isdigit())])


def _mac() -> DeviceFacts:
    """A Mac: the chip's row with this machine's memory."""
    name = _run("sysctl", "-n", "machdep.cpu.brand_string") or "this processor"
    memory, cores = (_run("sysctl", "-n", key) for key in ("hw.memsize", "hw.physicalcpu"))
    count = int(cores) if cores.isdigit() else None
    row = row_reported_as(name, cores=count)
    found = DeviceFacts(name=name, kind="cpu", memory_bytes=0) if row is None else device_of(row)
    return msgspec.structs.replace(
        found, name=name, memory_bytes=int(memory) if memory.isdigit() else 0, source="sysctl", cores=count
    )


def _cgroup_limits() -> tuple[str, ...]:
    return tuple(_text(path) for path in CGROUP_LIMITS)


def _text(path: str) -> str:
    """A system file, or nothing where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _tool(command: tuple[str, ...]) -> str:
    """What a driver's tool prints, or nothing where it is not installed."""
    return _run(*command) if shutil.which(command[0]) else ""


def _run(*command: str) -> str:
    """Standard output of a system tool, or nothing when it is absent, fails, or hangs."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return ran.stdout.strip()
