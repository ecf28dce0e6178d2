"""The `quantization_config` that loaders of compressed-tensors expect in `config.json`.

Rules that this obeys, each of which makes some loader refuse or misread the file when broken:
  - `format` stands in every group too: inferred formats go wrong once activations are quantized
  - `actorder` only with strategy `group`: compressed-tensors 0.17.0, which vLLM 0.32 pins, refuses it for channels
  - `group_size` is null for strategy `channel`
  - `ignore` names `lm_head` unless it is quantized (a tied one is a Linear without weights of its own), and every other
    matrix that a target would match but that stays float

Sources: compressed-tensors 0.20, quantization/quant_config.py and quant_args.py; vLLM 0.32,
layers/quantization/compressed_tensors/; compressed-tensors issue 840.
"""

from __future__ import annotations

import collections
from typing import Any

from bitwright.core.plan import Plan, TensorPlan
from bitwright.core.schemes import FloatScheme, IntScheme

FORMAT = "pack-quantized"
VERSION = "0.17.0"  # oldest release whose layout this is; loaders that look at it only compare upwards
HEAD = "lm_head"


def quantization_config(plan: Plan) -> dict[str, Any]:
    """Build the record. Where a plan mixes schemes, the commonest one targets `Linear`, the others their modules."""
    members: dict[IntScheme, list[str]] = collections.defaultdict(list)
    for entry in plan.tensors:
        if isinstance(entry.scheme, IntScheme):
            members[entry.scheme].append(entry.name.removesuffix(".weight"))
    ordered = sorted(members.items(), key=lambda item: (-len(item[1]), item[0].label))
    groups = {
        f"group_{number}": _group(scheme, ["Linear"] if number == 0 else modules, act_order=plan.method == "gptq")
        for number, (scheme, modules) in enumerate(ordered)
    }
    return {
        "quant_method": "compressed-tensors",
        "version": VERSION,
        "format": FORMAT,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": _ignored(plan.tensors),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def _group(scheme: IntScheme, targets: list[str], *, act_order: bool) -> dict[str, Any]:
    weights: dict[str, Any] = {
        "num_bits": scheme.bits,
        "type": "int",
        "symmetric": scheme.symmetric,
        "group_size": scheme.group_size,
        "strategy": "channel" if scheme.group_size is None else "group",
        "dynamic": False,
        "block_structure": None,
        "observer": "minmax",
        "observer_kwargs": {},
    }
    if act_order and scheme.group_size is not None:
        weights["actorder"] = "static"
    return {
        "targets": targets,
        "weights": weights,
        "input_activations": None,
        "output_activations": None,
        "format": FORMAT,
    }


def _ignored(tensors: tuple[TensorPlan, ...]) -> list[str]:
    """Module names of linear layers left float. Embeddings are no `Linear` and need no entry."""
    modules = {
        entry.name.removesuffix(".weight")
        for entry in tensors
        if isinstance(entry.scheme, FloatScheme) and len(entry.shape) == 2 and entry.name.endswith(".weight")
    }
    floats = {module for module in modules if "embed" not in module.rpartition(".")[2]}
    head_is_packed = any(entry.name == f"{HEAD}.weight" and isinstance(entry.scheme, IntScheme) for entry in tensors)
    return sorted(floats if head_is_packed else floats | {HEAD})
