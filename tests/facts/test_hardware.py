"""Devices: the table's own rules, names that people write, and this machine in the system's words."""

from __future__ import annotations

import datetime
import re

import pytest

from bitwright.core.errors import UsageError
from bitwright.core.units import GIB, MIB
from bitwright.facts import hardware
from bitwright.facts.device_rows import HardwareRow, hardware_rows
from bitwright.facts.hardware import cpu_name, find_device, instructions, linux_memory

MEMINFO = "MemTotal:       16384000 kB\nMemFree:         1000 kB\n"
ROWS = hardware_rows()
PLACEHOLDERS = ("cpu-avx2", "cpu-spr")


def test_every_row_has_a_source_and_a_date() -> None:
    assert len(ROWS) >= 68
    for row in ROWS.values():
        assert len(row.source) > 8, row.id
        assert datetime.date.fromisoformat(row.date) > datetime.date(2025, 1, 1), row.id
        assert row.memory_mib >= 1024, row.id
        assert 10 < row.bandwidth_gb_s < 20_000, row.id
        nvidia = row.vendor == "NVIDIA"
        assert (row.compute_capability is not None) == nvidia == (row.kind == "gpu" and nvidia), row.id
        assert row.reported_names or row.id in PLACEHOLDERS


def test_ids_and_aliases_name_one_row_each() -> None:
    names = [name for row in ROWS.values() for name in (row.id, *row.aliases)]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in names)


def test_prices_have_two_ends_a_date_and_a_source() -> None:
    prices = [row.price for row in ROWS.values() if row.price is not None]
    assert len(prices) >= 18
    for price in prices:
        assert 0 < price.low <= price.high < 20
        assert re.fullmatch(r"20\d\d(-\d\d)?", price.date)
        assert price.source


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_rates_are_dense_and_rise_as_types_get_narrower(row: HardwareRow) -> None:
    rates = row.rates
    if rates is None:
        assert row.id.startswith(("apple-m5", "cpu-")), row.id
        return
    assert rates.fp16
    assert rates.bf16 in (None, rates.fp16) or row.vendor == "Intel"
    for narrow, wide in ((rates.fp8, rates.bf16), (rates.fp4, rates.fp8)):
        # FP8 of Gaudi is no faster; FP4 of GeForce is four times as fast as FP8 with FP32 accumulation
        assert narrow is None or (wide is not None and 1 <= narrow / wide < 4.1)
    capability = float(row.compute_capability or 0)
    if row.vendor == "NVIDIA":
        assert (rates.fp8 is not None) == (capability >= 8.9)
        assert (rates.fp4 is not None) == (capability >= 10)
        assert (rates.bf16 is not None) == (capability >= 8)
    # no memory-bound card computes fewer than 20, or more than 900, operations per byte that it reads
    if row.kind == "gpu":
        assert 20 < rates.fp16 * 1000 / row.bandwidth_gb_s < 900


@pytest.mark.parametrize(
    ("id", "type", "dense"),
    [
        ("h100-sxm", "fp8", 1979), ("a100-80-sxm", "int8", 624), ("l4", "fp8", 242), ("l40s", "fp16", 362.05),
        ("b300-sxm", "int8", 153.5), ("rtx4090", "fp16", 165.2), ("rtx3090", "fp16", 71), ("rtx5090", "fp16", 209.5),
        ("gb300", "int8", 165), ("gaudi3-oam", "fp8", 1835),
    ],
)  # fmt: skip
def test_figures_that_are_often_wrong(id: str, type: str, dense: float) -> None:
    """Rates with sparsity, rates of FP16 accumulation, and INT8 of Blackwell Ultra."""
    assert getattr(ROWS[id].rates, type) == dense


def test_a_named_device_with_and_without_a_count() -> None:
    one, two = find_device("h100-sxm"), find_device("h100-sxm:2")
    assert (one.count, two.count) == (1, 2)
    assert one.memory_bytes == two.memory_bytes == 81559 * MIB
    assert (one.kind, one.compute_capability, one.id) == ("gpu", "9.0", "h100-sxm")
    assert (one.vendor, one.architecture, one.link_gb_s) == ("NVIDIA", "hopper", 900.0)
    assert one.rates is not None
    assert one.price is not None
    assert "H100" in one.source


@pytest.mark.parametrize(
    ("old", "id"),
    [("h200", "h200-sxm"), ("a100-80", "a100-80-sxm"), ("a100-40", "a100-40-sxm"), ("apple-m3-max", "apple-m3-max-40"),
     ("cpu-16g", "cpu-avx2"), ("v100-sxm2", "v100-sxm2-32")],
)  # fmt: skip
def test_other_names_of_a_row(old: str, id: str) -> None:
    assert find_device(f"{old}:3") == find_device(f"{id}:3")


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


def test_a_name_of_several_devices_is_answered_with_all_of_them() -> None:
    with pytest.raises(UsageError, match="`a100` may be one of 4 devices") as caught:
        find_device("a100:2")
    assert caught.value.hint == "write a100-40-sxm or a100-40-pcie or a100-80-sxm or a100-80-pcie"


def test_this_machine_has_memory() -> None:
    found = find_device("cpu")
    assert found.memory_bytes > GIB // 4
    assert found.kind == "cpu"
    assert found.cores
    assert found.cores >= 1


def tools(monkeypatch: pytest.MonkeyPatch, **output: str) -> None:
    """A machine where these tools print this."""
    monkeypatch.setattr(hardware.shutil, "which", lambda name: name if name.replace("-", "_") in output else None)
    monkeypatch.setattr(hardware, "_run", lambda *command: output.get(command[0].replace("-", "_"), ""))


def test_auto_takes_the_gpu_when_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    tools(monkeypatch, nvidia_smi="NVIDIA L4, 23034, 8.9\nNVIDIA L4, 23034, 8.9")
    device = find_device("auto")
    assert (device.name, device.kind, device.count, device.id) == ("NVIDIA L4", "gpu", 2, "l4")
    assert device.memory_bytes == 23034 * MIB
    assert device.bandwidth_gb_s == 300.0


def test_auto_takes_the_processor_when_the_driver_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    tools(monkeypatch, nvidia_smi="NVIDIA-SMI has failed")
    assert find_device("auto").kind == "cpu"


def test_auto_asks_amd_where_nvidia_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    card = '{"Card Series": "AMD Instinct MI300X OAM", "VRAM Total Memory (B)": "206141652992"}'
    tools(monkeypatch, rocm_smi=f'{{"card0": {card}, "card1": {card}, "system": {{"Driver version": "6.10.5"}}}}')
    device = find_device("auto")
    assert (device.id, device.count, device.kind, device.architecture) == ("mi300x", 2, "gpu", "gfx942")
    assert device.compute_capability is None


def test_a_jetson_is_known_by_its_board(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
        "/proc/meminfo": "MemTotal: 64349000 kB\n",
    }
    monkeypatch.setattr(hardware, "_text", lambda path: files.get(path, ""))
    tools(monkeypatch, nvidia_smi="Orin (nvgpu), [N/A], 8.7")
    device = find_device("auto")
    assert (device.id, device.memory_bytes // MIB, device.compute_capability) == ("orin-agx-64", 62840, "8.7")


@pytest.mark.parametrize(
    ("chip", "cores", "memory_gib", "id", "bandwidth"),
    [
        ("Apple M3 Max", 16, 64, "apple-m3-max-40", 400), ("Apple M3 Max", 14, 36, "apple-m3-max-30", 300),
        ("Apple M4 Max", 14, 36, "apple-m4-max-32", 410), ("Apple M2", 8, 16, "apple-m2", 100),
        ("Apple M4 Ultra", 32, 512, "", None), ("Apple M3 Max", 15, 64, "", None),
    ],
)  # fmt: skip
def test_a_mac_is_its_chip_with_its_own_memory(
    monkeypatch: pytest.MonkeyPatch, chip: str, cores: int, memory_gib: int, id: str, bandwidth: float | None
) -> None:
    said = {"machdep.cpu.brand_string": chip, "hw.memsize": str(memory_gib * GIB), "hw.physicalcpu": str(cores)}
    monkeypatch.setattr(hardware.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(hardware, "_run", lambda *command: said.get(command[-1], ""))
    device = find_device("cpu")
    assert (device.id, device.name, device.kind, device.cores) == (id, chip, "cpu", cores)
    assert (device.memory_bytes, device.bandwidth_gb_s) == (memory_gib * GIB, bandwidth)


def test_memory_is_what_the_control_group_allows() -> None:
    assert linux_memory(MEMINFO, ("max\n", "")) == 16384000 * 1024
    assert linux_memory(MEMINFO, ("1073741824\n",)) == GIB
    assert linux_memory(MEMINFO, ("9223372036854771712",)) == 16384000 * 1024


def test_names_of_processors() -> None:
    assert cpu_name("processor : 0\nmodel name\t: Fast Chip 9\n") == "Fast Chip 9"
    assert cpu_name("CPU implementer : 0x41\n").endswith("processor")


@pytest.mark.parametrize(
    ("line", "name"),
    [("flags\t: sse avx2 avx512f amx_tile", "amx"), ("flags : avx2 avx512f", "avx512"), ("flags : avx avx2", "avx2"),
     ("Features : fp asimd", "neon"), ("flags : sse avx", ""), ("", "")],
)  # fmt: skip
def test_the_most_capable_instructions_count(line: str, name: str) -> None:
    assert instructions(f"processor : 0\n{line}\n") == name


def test_a_missing_tool_says_nothing() -> None:
    assert hardware._run("a-tool-that-nobody-has") == ""
