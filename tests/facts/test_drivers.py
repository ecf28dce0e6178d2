"""Names that drivers report, and the rows that they must never fall to."""

from __future__ import annotations

import json

import pytest

from bitwright.facts.device_rows import hardware_rows, row_reported_as
from bitwright.facts.drivers import parse_amd_smi, parse_nvidia, parse_rocm_smi

GIB_192 = 206141652992  # what rocm-smi says of an MI300X


@pytest.mark.parametrize("row", hardware_rows().values(), ids=list(hardware_rows()))
def test_every_row_is_found_by_its_own_names(row: object) -> None:
    for name in row.reported_names:  # type: ignore[attr-defined]
        assert row_reported_as(name, row.memory_mib, row.cores) == row  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "memory", "id"),
    [
        ("NVIDIA H100 80GB HBM3", 81559, "h100-sxm"),
        ("NVIDIA H100 PCIe", 81559, "h100-pcie"),
        ("NVIDIA H100 NVL", 95830, "h100-nvl"),
        ("NVIDIA A100-SXM4-80GB", 81920, "a100-80-sxm"),
        ("NVIDIA A100-SXM4-40GB", 40960, "a100-40-sxm"),
        ("A100-SXM4-40GB", 40536, "a100-40-sxm"),  # drivers before 470 leave the maker out
        ("NVIDIA A100 80GB PCIe", 81920, "a100-80-pcie"),
        ("NVIDIA A100-PCIE-40GB", 40960, "a100-40-pcie"),
        ("NVIDIA A10", 23028, "a10"),
        ("NVIDIA A10G", 22731, "a10g"),
        ("NVIDIA L40", 46068, "l40"),
        ("NVIDIA L40S", 46068, "l40s"),
        ("NVIDIA L4", 23034, "l4"),
        ("NVIDIA B200", 183359, "b200-sxm"),
        ("NVIDIA GB200", 189471, "gb200"),
        ("Tesla V100-SXM2-16GB", 16384, "v100-sxm2-16"),
        ("Tesla V100-SXM2-32GB", 32768, "v100-sxm2-32"),
        ("NVIDIA GeForce RTX 4060 Ti", 16380, "rtx4060ti-16"),
        ("NVIDIA GeForce RTX 4060 Ti", 8188, "rtx4060ti-8"),
        ("AMD Instinct MI300X OAM", 196592, "mi300x"),
        ("AMD Instinct MI300X VF", 196592, "mi300x"),
        ("Instinct MI300X", 196592, "mi300x"),
        ("AMD INSTINCT MI250X (MCM) OAM AC MBA", 65520, "mi250x"),
        ("AMD Instinct MI325 OAM", 262128, "mi325x"),
        ("Intel(R) Arc(TM) Pro B60 Graphics", 24480, "arc-b60"),
    ],
)
def test_names_as_drivers_write_them(name: str, memory: int, id: str) -> None:
    row = row_reported_as(name, memory)
    assert row is not None
    assert row.id == id


@pytest.mark.parametrize(
    ("name", "memory"),
    [
        ("NVIDIA H200 NVL", 143771),  # 835 TFLOPS, not 989
        ("NVIDIA H100", 81559),
        ("NVIDIA H100 80GB HBM2e", 81559),
        ("NVIDIA GeForce RTX 4090 D", 24564),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16376),
        ("NVIDIA GeForce RTX 4080 SUPER", 16376),
        ("NVIDIA GeForce RTX 4070 Ti", 12282),
        ("NVIDIA GeForce RTX 4070 SUPER", 12282),
        ("NVIDIA GeForce RTX 3080", 12288),  # 912 GB/s, not 760
        ("NVIDIA GeForce RTX 3080 Ti", 12288),
        ("NVIDIA GeForce RTX 3060", 8192),
        ("NVIDIA GeForce RTX 3090 Ti", 24576),
        ("NVIDIA GeForce RTX 5070", 12227),
        ("NVIDIA GeForce RTX 5060", 8151),
        ("NVIDIA RTX 6000 Ada Generation Laptop GPU", 16376),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 97887),
        ("NVIDIA A100X", 81920),
        ("NVIDIA A1000", 8192),
        ("AMD INSTINCT MI250 (MCM) OAM AC MBA", 65520),
        ("AMD Instinct MI300A", 131072),
        ("AMD Instinct MI308X", 196592),
        ("Apple M4 Ultra", 524288),
        ("Apple M2 Pro Max", 32768),
        ("", 81559),
    ],
)
def test_no_card_falls_to_the_row_of_another(name: str, memory: int) -> None:
    assert row_reported_as(name, memory) is None


def test_unlike_gpus_are_not_counted_together() -> None:
    device = parse_nvidia("Tesla T4, 15360, 7.5\nNVIDIA L4, 23034, 8.9\n")
    assert device is not None
    assert (device.name, device.count) == ("Tesla T4", 1)
    assert parse_nvidia("Tesla T4, [N/A], 7.5") is None


def test_a_gpu_without_a_row_is_what_its_driver_says() -> None:
    device = parse_nvidia("NVIDIA GeForce RTX 4090 D, 24564, 8.9")
    assert device is not None
    assert (device.compute_capability, device.rates, device.bandwidth_gb_s, device.id) == ("8.9", None, None, "")


def test_a_gpu_that_shares_memory_gets_the_machines() -> None:
    device = parse_nvidia("NVIDIA GB10, [N/A], 12.1", shared_mib=122502)
    assert device is not None
    assert (device.id, device.memory_bytes >> 20, device.compute_capability) == ("gb10", 122502, "12.1")
    smaller = parse_nvidia("Orin (nvgpu), [N/A], 8.7", board="NVIDIA Jetson AGX Orin Developer Kit", shared_mib=30698)
    assert smaller is None  # the module with 32 GB has fewer cores


@pytest.mark.parametrize("key", ["Card series", "Card Series"])
def test_rocm_smi(key: str) -> None:
    card = {key: "AMD Instinct MI300X OAM", "VRAM Total Memory (B)": str(GIB_192)}
    text = "WARNING: AMD GPU device(s) is/are in a low-power state\n\n" + json.dumps(
        {f"card{n}": card for n in range(8)}
    )
    device = parse_rocm_smi(text)
    assert device is not None
    assert (device.id, device.count, device.memory_bytes) == ("mi300x", 8, GIB_192)
    assert device.source.startswith("rocm-smi; AMD Instinct MI300X datasheet")


@pytest.mark.parametrize("wrapped", [False, True])
def test_amd_smi(wrapped: bool) -> None:
    gpu = {"gpu": 0, "asic": {"market_name": "AMD Instinct MI210"}, "vram": {"size": {"value": 65520, "unit": "MB"}}}
    device = parse_amd_smi(json.dumps({"gpu_data": [gpu, gpu]} if wrapped else [gpu, gpu]))
    assert device is not None
    assert (device.id, device.count) == ("mi210", 2)


@pytest.mark.parametrize(
    "text",
    ["", "not json", "{}", "[]", "null", "3", '{"card0": 4}', '{"system": {}}', '[{"asic": null}]', '[{"gpu": 0}]', "{",
     '{"card0": {"Card Series": "AMD Radeon 8060S Graphics", "VRAM Total Memory (B)": "536870912"}}'],
)  # fmt: skip
def test_what_is_no_card_for_models_is_none(text: str) -> None:
    assert parse_rocm_smi(text) is None
    assert parse_amd_smi(text) is None
