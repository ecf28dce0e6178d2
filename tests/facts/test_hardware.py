"""Devices: the table's own rules, and what is read out of the system's words."""

from __future__ import annotations

import datetime

import pytest

from bitwright.core.errors import UsageError
from bitwright.core.units import GIB, MIB
from bitwright.facts import hardware
from bitwright.facts.hardware import cpu_name, find_device, hardware_rows, linux_memory, parse_nvidia

MEMINFO = "MemTotal:       16384000 kB\nMemFree:         1000 kB\n"


def test_every_row_has_a_source_and_a_date() -> None:
    rows = hardware_rows()
    assert len(rows) >= 12
    for row in rows.values():
        assert len(row.source) > 8, row.id
        assert datetime.date.fromisoformat(row.date) > datetime.date(2025, 1, 1), row.id
        assert row.memory_mib >= 1024, row.id
        assert 10 < row.bandwidth_gb_s < 20_000, row.id
        assert (row.compute_capability is not None) == (row.kind == "gpu"), row.id


def test_a_named_device_with_and_without_a_count() -> None:
    one, two = find_device("h100-sxm"), find_device("h100-sxm:2")
    assert (one.count, two.count) == (1, 2)
    assert one.memory_bytes == two.memory_bytes == 81559 * MIB
    assert (one.kind, one.compute_capability) == ("gpu", "9.0")
    assert "H100" in one.source


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("h100", "h100-sxm"),
        ("rtx4091", "rtx4090"),
        ("h100-sxm:0", "h100-sxm:2"),
        ("h100-sxm:", "h100-sxm:2"),
        ("", "auto"),
    ],
)
def test_an_unknown_target_is_refused_with_the_nearest(target: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_device(target)
    assert hint in (caught.value.hint or "")


def test_this_machine_has_memory() -> None:
    assert find_device("cpu").memory_bytes > GIB // 4
    assert find_device("cpu").kind == "cpu"


def test_auto_takes_the_gpu_when_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.shutil, "which", lambda name: "/somewhere/nvidia-smi")
    monkeypatch.setattr(hardware, "_run", lambda *command: "NVIDIA L4, 23034, 8.9\nNVIDIA L4, 23034, 8.9")
    device = find_device("auto")
    assert (device.name, device.kind, device.count) == ("NVIDIA L4", "gpu", 2)
    assert device.memory_bytes == 23034 * MIB
    assert device.bandwidth_gb_s == 300.0


def test_auto_takes_the_processor_when_the_driver_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.shutil, "which", lambda name: "/somewhere/nvidia-smi")
    monkeypatch.setattr(hardware, "_run", lambda *command: "NVIDIA-SMI has failed")
    assert find_device("auto").kind == "cpu"


def test_unlike_gpus_are_not_counted_together() -> None:
    device = parse_nvidia("Tesla T4, 15360, 7.5\nNVIDIA L4, 23034, 8.9\n")
    assert device is not None
    assert (device.name, device.count) == ("Tesla T4", 1)
    assert parse_nvidia("Tesla T4, [N/A], 7.5") is None


def test_memory_is_what_the_control_group_allows() -> None:
    assert linux_memory(MEMINFO, ("max\n", "")) == 16384000 * 1024
    assert linux_memory(MEMINFO, ("1073741824\n",)) == GIB
    assert linux_memory(MEMINFO, ("9223372036854771712",)) == 16384000 * 1024


def test_names_of_processors() -> None:
    assert cpu_name("processor : 0\nmodel name\t: Fast Chip 9\n") == "Fast Chip 9"
    assert cpu_name("CPU implementer : 0x41\n").endswith("processor")


def test_a_missing_tool_says_nothing() -> None:
    assert hardware._run("a-tool-that-nobody-has") == ""
