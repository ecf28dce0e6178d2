"""What the tools of drivers print about their devices: name, MiB, and for NVIDIA the compute capability.

Boards whose GPU shares the processor's memory (Jetson, DGX Spark) report neither that memory nor, on Jetson, a name of
their own: the machine's take their place. AMD's devices count only where the table knows them: what a laptop's graphics
hold is no place for a model.

Not here: running the tools (hardware.py), the table (device_rows.py).
Sources: `nvidia-smi --help-query-gpu`; rocm-smi --showproductname --showmeminfo vram --json (ROCm 5 to 7: "Card
series", later "Card Series"; bytes as text); amd-smi static --asic --vram --json (a list, later under "gpu_data").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import msgspec

from bitwright.core.devices import DeviceFacts
from bitwright.core.units import MIB
from bitwright.facts.device_rows import device_of, row_reported_as

NVIDIA_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits")
ROCM_QUERY = ("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json")
AMD_QUERY = ("amd-smi", "static", "--asic", "--vram", "--json")
JETSON = "(nvgpu)"  # ends the name of every Jetson's GPU


@dataclasses.dataclass(frozen=True, slots=True)
class Reported:
    """One device in the words of its driver."""

    name: str
    memory_mib: int
    capability: str | None = None


def parse_nvidia(output: str, *, board: str = "", shared_mib: int = 0) -> DeviceFacts | None:
    """Devices out of nvidia-smi's CSV lines: all that equal the first one.

    `board` and `shared_mib` are the machine's own name and memory, for GPUs that share it.
    """
    found = []
    for line in output.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != 3:
            continue
        name, memory, capability = fields
        name = board if board and name.endswith(JETSON) else name
        if memory.isdigit():
            found.append(Reported(name, int(memory), capability))  # a device without a row is taken at its word
        elif (row := row_reported_as(name, shared_mib)) is not None and row.unified:
            found.append(Reported(name, shared_mib, capability))
    return _equal_ones(found, "nvidia-smi")


def parse_rocm_smi(output: str) -> DeviceFacts | None:
    """Devices of the table out of rocm-smi's JSON: all that equal the first one."""
    cards = _json(output)
    found = []
    for card in cards.values() if isinstance(cards, dict) else ():
        texts = {str(key).casefold(): str(value) for key, value in card.items()} if isinstance(card, dict) else {}
        name, size = texts.get("card series", ""), texts.get("vram total memory (b)", "")
        if size.isdigit():
            found.append(Reported(name, int(size) // MIB))
    return _equal_ones(_known(found), "rocm-smi")


def parse_amd_smi(output: str) -> DeviceFacts | None:
    """The same out of amd-smi's."""
    listed = _json(output)
    if isinstance(listed, dict):
        listed = listed.get("gpu_data")
    found = []
    for gpu in listed if isinstance(listed, list) else ():
        try:
            name, size = gpu["asic"]["market_name"], gpu["vram"]["size"]
            found.append(Reported(str(name), int(size["value"])))
        except (KeyError, TypeError, ValueError):
            continue
    return _equal_ones(_known(found), "amd-smi")


def _known(found: Iterable[Reported]) -> list[Reported]:
    return [device for device in found if row_reported_as(device.name, device.memory_mib) is not None]


def _equal_ones(found: list[Reported], source: str) -> DeviceFacts | None:
    """The first device as often as it is there: a plan is for devices of one kind."""
    if not found:
        return None
    first = found[0]
    count = found.count(first)
    row = row_reported_as(first.name, first.memory_mib)
    facts = DeviceFacts(name=first.name, kind="gpu", memory_bytes=0) if row is None else device_of(row)
    return msgspec.structs.replace(
        facts,
        name=first.name,
        memory_bytes=first.memory_mib * MIB,
        compute_capability=first.capability or facts.compute_capability,
        count=count,
        source=source if row is None else f"{source}; {facts.source}",
    )


def _json(output: str) -> Any:
    """The document in the output, behind any remarks; `None` where there is none."""
    starts = [at for at in (output.find("{"), output.find("[")) if at >= 0]
    try:
        return msgspec.json.decode(output[min(starts) :].strip()) if starts else None
    except msgspec.DecodeError:
        return None
