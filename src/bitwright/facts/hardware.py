"""Which processor will run the model: this machine's, or one looked up by name in hardware.toml.

`memory_bytes` is that of one device; `count` devices hold `count` times as much. Detection reads what the system says
(/proc and cgroups on Linux, sysctl on macOS, nvidia-smi where there is one) and loads no numeric library.

Not here: whether a model fits (planner/memory.py).
Sources: man 5 proc; kernel documentation, cgroup-v2 (memory.max); `nvidia-smi --help-query-gpu`.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Literal

from bitwright.core.documents import Record
from bitwright.core.errors import UsageError, did_you_mean
from bitwright.core.plan import DeviceFacts
from bitwright.core.units import MIB
from bitwright.facts.rows import read_rows

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
NVIDIA_FIELDS = "name,memory.total,compute_cap"
TOOL_SECONDS = 10


class HardwareRow(Record, frozen=True, kw_only=True):
    """One row of hardware.toml; units are in its head."""

    id: str
    name: str
    kind: Literal["cpu", "gpu"]
    memory_mib: int
    bandwidth_gb_s: float
    reported_names: tuple[str, ...]
    source: str
    date: str
    compute_capability: str | None = None


def find_device(target: str) -> DeviceFacts:
    """`auto` (this machine's GPU if it has one, else its processor), `cpu`, or `name[:count]`. Raises `UsageError`."""
    if target == "cpu":
        return this_cpu()
    if target == "auto":
        return this_gpu() or this_cpu()
    name, _, number = target.partition(":")
    row = hardware_rows().get(name)
    if row is None:
        known = ["auto", "cpu", *hardware_rows()]
        longer = next((full for full in known if name and full.startswith(name)), name)
        raise UsageError(f"unknown target `{target}`", hint=did_you_mean(longer, known))
    if ":" in target and not re.fullmatch(r"[1-9]\d{0,3}", number):
        raise UsageError(f"`{target}` asks for {number!r} devices", hint=f"write {name}:2 for two of them")
    return DeviceFacts(
        name=row.name,
        kind=row.kind,
        memory_bytes=row.memory_mib * MIB,
        bandwidth_gb_s=row.bandwidth_gb_s,
        compute_capability=row.compute_capability,
        count=int(number) if number else 1,
        source=f"{row.source} ({row.date})",
    )


@functools.cache
def hardware_rows() -> dict[str, HardwareRow]:
    """The table, by id."""
    return {row.id: row for row in read_rows("hardware.toml", "device", HardwareRow)}


def this_cpu() -> DeviceFacts:
    """This machine's processor and the memory that this process may use."""
    if platform.system() == "Darwin":
        name, memory = _run("sysctl", "-n", "machdep.cpu.brand_string"), _run("sysctl", "-n", "hw.memsize")
        return _reported(name or "this processor", int(memory or 0), "sysctl")
    return _reported(cpu_name(_text("/proc/cpuinfo")), linux_memory(_text("/proc/meminfo"), _cgroup_limits()), "/proc")


def this_gpu() -> DeviceFacts | None:
    """The NVIDIA devices that nvidia-smi reports, or `None`."""
    if shutil.which("nvidia-smi") is None:
        return None
    output = _run("nvidia-smi", f"--query-gpu={NVIDIA_FIELDS}", "--format=csv,noheader,nounits")
    return parse_nvidia(output) if output else None


def parse_nvidia(output: str) -> DeviceFacts | None:
    """Devices out of nvidia-smi's CSV lines (name, MiB, compute capability): all that equal the first one."""
    rows = [[field.strip() for field in line.split(",")] for line in output.splitlines() if line.count(",") == 2]
    rows = [row for row in rows if row[1].isdigit()]
    if not rows:
        return None
    name, memory, capability = rows[0]
    known = _row_reported_as(name)
    return DeviceFacts(
        name=name,
        kind="gpu",
        memory_bytes=int(memory) * MIB,
        bandwidth_gb_s=known.bandwidth_gb_s if known else None,
        compute_capability=capability,
        count=sum(row == rows[0] for row in rows),
        source="nvidia-smi",
    )


def cpu_name(cpuinfo: str) -> str:
    """The model name in the text of /proc/cpuinfo (some Arm kernels give none)."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else f"{platform.machine() or 'unknown'} processor"


def linux_memory(meminfo: str, limits: tuple[str, ...]) -> int:
    """Bytes: MemTotal of /proc/meminfo, or less where a control group allows less."""
    found = re.search(r"^MemTotal:\s*(\d+) kB$", meminfo, re.MULTILINE)
    total = int(found[1]) * 1024 if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *(int(limit) for limit in limits if limit.strip().isdigit())])


def _reported(name: str, memory_bytes: int, source: str) -> DeviceFacts:
    known = _row_reported_as(name)
    return DeviceFacts(
        name=name,
        kind="cpu",
        memory_bytes=memory_bytes,
        bandwidth_gb_s=known.bandwidth_gb_s if known else None,
        source=source,
    )


def _row_reported_as(name: str) -> HardwareRow | None:
    return next((row for row in hardware_rows().values() if name in row.reported_names), None)


def _cgroup_limits() -> tuple[str, ...]:
    return tuple(_text(path) for path in CGROUP_LIMITS)


def _text(path: str) -> str:
    """A system file, or nothing where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _run(*command: str) -> str:
    """Standard output of a system tool, or nothing when it is absent, fails, or hangs."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return ran.stdout.strip()
