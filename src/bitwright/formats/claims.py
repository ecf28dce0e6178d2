"""What `quantization_config` says of groups and bits, held against the shapes of what is stored.

Our readers take both from the shapes, where they can; engines take them from the config, and read other weights or
none.

Sources: vLLM 0.32, model_executor/layers/quantization/{gptq_marlin,awq_marlin}.py (from_config); transformers 5.23,
integrations/bitsandbytes.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bitwright.core.plan import TensorFacts
from bitwright.facts.checkpoint import read_checkpoint, read_config
from bitwright.formats.packed.folder import SETTINGS
from bitwright.formats.packed.gptq_packing import VERSIONS
from bitwright.formats.sniff import sniff

WORD = 32
Claim = tuple[str, object, object, str]  # key, what it says, what is stored, where that is seen


def false_claims(folder: Path) -> list[Claim]:
    """Claims of a folder's config that no stored tensor bears out; none for what has no config."""
    if folder.is_file() or sniff(folder) not in ("gptq", "awq", "compressed-tensors", "bitsandbytes"):
        return []
    settings = read_config(folder).get(SETTINGS)
    if not isinstance(settings, dict):
        return []
    shapes = {tensor.name: tensor.shape for tensor in read_checkpoint(folder).tensors}
    match sniff(folder):
        case "gptq" | "awq":
            return _packed(settings, shapes)
        case "bitsandbytes":
            return _levels(settings, shapes)
        case _:
            return _compressed(settings, shapes)


def bare_config(folder: Path) -> dict[str, Any]:
    """The decoder's config of a folder that may not open otherwise; empty for a file."""
    if folder.is_file() or sniff(folder) == "gguf":
        return {}
    config = read_config(folder)
    return {**config, **(config.get("text_config") or {})}


def absent_tensors(folder: Path, expected: Iterable[TensorFacts]) -> list[str]:
    """Tensors of a model that a folder holds neither whole nor in parts, by their headers alone; none for a file."""
    if folder.is_file() or sniff(folder) == "gguf":
        return []
    stored = {tensor.name for tensor in read_checkpoint(folder).tensors}
    modules = {name.rpartition(".")[0] for name in stored if not name.endswith(".bias")}
    return [
        tensor.name
        for tensor in expected
        if not stored & {tensor.name, tensor.stored_name}
        and (tensor.name.endswith(".bias") or not modules & _modules(tensor))
    ]


def _modules(tensor: TensorFacts) -> set[str]:
    return {name.removesuffix(".weight") for name in (tensor.name, tensor.stored_name)}


def gptq_version(folder: Path) -> str | None:
    """What a GPTQ folder's config says of its zero points; `None` for others, and where a file beside says it."""
    if folder.is_file() or sniff(folder) != "gptq":
        return None
    settings = read_config(folder).get(SETTINGS)
    if not isinstance(settings, dict):
        return None
    version = settings.get("checkpoint_format", settings.get("format", VERSIONS[0]))
    return str(version) if version in VERSIONS else None


def _packed(settings: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> list[Claim]:
    """GPTQ and AWQ: scales are [groups, outputs], codes fill 32-bit words down the inputs or across the outputs."""
    size = settings.get("group_size", settings.get("q_group_size"))
    bits = settings.get("bits", settings.get("w_bit"))
    for name, shape in shapes.items():
        module = name.removesuffix(".qweight")
        scales = shapes.get(f"{module}.scales")
        zeros = shapes.get(f"{module}.qzeros")
        if module == name or scales is None or zeros is None or not (scales[0] and scales[1]):
            continue
        stored_bits = zeros[1] * WORD // scales[1]
        wide = shape[1] == scales[1]  # GPTQ; AWQ's words run across the outputs
        columns = shape[0] * WORD // stored_bits if wide else shape[0]
        group = columns if size in (-1, None) else int(size)
        if scales[0] != -(-columns // group):
            return [("group_size", size, columns // scales[0], f"{module}.scales")]
        if isinstance(bits, int) and bits != stored_bits:
            return [("bits", bits, stored_bits, f"{module}.qzeros")]
    return []


def _compressed(settings: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> list[Claim]:
    """compressed-tensors: packed codes beside scales [outputs, groups]; only where all matrices share one scheme."""
    groups = [group for group in (settings.get("config_groups") or {}).values() if isinstance(group, dict)]
    weights = [group.get("weights") or {} for group in groups]
    sizes = {(one.get("group_size"), one.get("num_bits")) for one in weights if one.get("strategy") == "group"}
    if len(weights) != 1 or len(sizes) != 1:
        return []
    size, bits = sizes.pop()
    for name, shape in shapes.items():
        module = name.removesuffix(".weight_packed")
        scales = shapes.get(f"{module}.weight_scale")
        if module == name or scales is None or len(scales) != 2 or not size or not bits or not scales[1]:
            continue
        columns = shape[1] * WORD // int(bits)
        if columns // int(size) != scales[1]:
            return [("group_size", size, columns // scales[1], f"{module}.weight_scale")]
    return []


def _levels(settings: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> list[Claim]:
    """bitsandbytes: the kind of levels is part of the name of each matrix's state."""
    said = settings.get("bnb_4bit_quant_type")
    for name in shapes:
        _, mark, kind = name.rpartition(".quant_state.bitsandbytes__")
        if mark and said and kind != said:
            return [("bnb_4bit_quant_type", said, kind, name)]
    return []
