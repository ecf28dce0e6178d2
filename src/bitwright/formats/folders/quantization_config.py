"""The `quantization_config` that loaders of compressed-tensors expect in `config.json`.

Rules that this obeys, each of which makes some loader refuse or misread the file when broken:
  - `format` stands in every group too: inferred formats go wrong once activations are quantized; where groups differ
    the whole is called `mixed-precision`
  - `actorder` only with strategy `group` and integers: compressed-tensors 0.17.0, which vLLM 0.32 pins, refuses it for
    channels
  - no group targets `Linear` where there are several: vLLM before 0.32 asks for the class of a fused layer before it
    looks for the names of its parts, and would give q, k and v the scheme of that group
  - `group_size` is null for strategies that have none
  - `ignore` names `lm_head` unless it is quantized (a tied one is a Linear without weights of its own), and every other
    matrix that a target would match but that stays float
  - modules of a vision-language model are named by patterns (module_patterns.py)
  - arguments of FP8, NVFP4 and MX are those of the library's presets, which is what engines compare with

Sources: compressed-tensors 0.20, quantization/{quant_config,quant_args,quant_scheme}.py; vLLM 0.32,
layers/quantization/compressed_tensors/{compressed_tensors,utils}.py; compressed-tensors issue 840.
"""

from __future__ import annotations

import collections
from typing import Any

from bitwright.core.plan import Plan, TensorPlan
from bitwright.core.schemes import (
    FP8_BLOCK,
    MX_GROUP,
    NV_GROUP,
    ActivationScheme,
    FloatScheme,
    IntScheme,
    MinifloatScheme,
)
from bitwright.formats.folders.module_patterns import ignored_patterns, module_patterns

MIXED = "mixed-precision"
VERSION = "0.17.0"  # oldest release whose layout this is; loaders that look at it only compare upwards
HEAD = "lm_head"
E4M3, BYTE = "torch.float8_e4m3fn", "torch.uint8"


def quantization_config(plan: Plan) -> dict[str, Any]:
    """Build the record. One scheme targets `Linear`; where a plan mixes schemes, every group names its modules."""
    members: dict[IntScheme | MinifloatScheme, list[str]] = collections.defaultdict(list)
    for entry in plan.tensors:
        if isinstance(entry.scheme, IntScheme | MinifloatScheme):
            members[entry.scheme].append(entry.stored_name.removesuffix(".weight"))
    ordered = sorted(members.items(), key=lambda item: (-len(item[1]), item[0].label))
    named = [modules for _, modules in ordered] if len(ordered) > 1 else [["Linear"]]
    if plan.model.vision is not None and len(ordered) > 1:
        named = module_patterns(plan.model, named)
    groups = {
        f"group_{number}": _group(scheme, targets, plan)
        for number, ((scheme, _), targets) in enumerate(zip(ordered, named, strict=False))
    }
    formats = {group["format"] for group in groups.values()}
    return {
        "quant_method": "compressed-tensors",
        "version": VERSION,
        "format": formats.pop() if len(formats) == 1 else MIXED,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": _ignored(plan.tensors) if plan.model.vision is None else ignored_patterns(plan.model, plan.tensors),
        "kv_cache_scheme": None if plan.kv_cache is None else _arguments(8, "float", "tensor", **_observer(plan)),
        "global_compression_ratio": None,
    }


def format_of(scheme: IntScheme | MinifloatScheme) -> str:
    """The library's name of the layout of one matrix."""
    if isinstance(scheme, IntScheme):
        return "pack-quantized" if scheme.packed else "int-quantized"
    match scheme.scaling:
        case "nv":
            return "nvfp4-pack-quantized"
        case "mx":
            return "mxfp4-pack-quantized" if scheme.element == "e2m1" else "mxfp8-quantized"
        case _:
            return "naive-quantized" if scheme.activations is None else "float-quantized"


def _group(scheme: IntScheme | MinifloatScheme, targets: list[str], plan: Plan) -> dict[str, Any]:
    act_order = plan.method == "gptq" and plan.act_order == "static"
    weights = _integers(scheme, act_order=act_order) if isinstance(scheme, IntScheme) else _floats(scheme)
    return {
        "targets": targets,
        "weights": weights,
        "input_activations": None if scheme.activations is None else _activations(scheme.activations, plan),
        "output_activations": None,
        "format": format_of(scheme),
    }


def _arguments(bits: int, kind: str, strategy: str, **others: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "num_bits": bits,
        "type": kind,
        "symmetric": True,
        "group_size": None,
        "strategy": strategy,
        "dynamic": False,
        "block_structure": None,
        "observer": "minmax",
        "observer_kwargs": {},
    }
    return arguments | others


def _integers(scheme: IntScheme, *, act_order: bool) -> dict[str, Any]:
    strategy = "channel" if scheme.group_size is None else "group"
    weights = _arguments(scheme.bits, "int", strategy, symmetric=scheme.symmetric, group_size=scheme.group_size)
    if act_order and strategy == "group":
        weights["actorder"] = "static"
    return weights


def _floats(scheme: MinifloatScheme) -> dict[str, Any]:
    bits = 4 if scheme.element == "e2m1" else 8
    match scheme.scaling:
        case "nv":
            dtypes = {"scale_dtype": E4M3, "zp_dtype": E4M3}
            return _arguments(bits, "float", "tensor_group", group_size=NV_GROUP, **dtypes)
        case "mx":
            return _arguments(bits, "float", "group", group_size=MX_GROUP, scale_dtype=BYTE, zp_dtype=BYTE)
        case "block":
            return _arguments(bits, "float", "block", block_structure=[FP8_BLOCK, FP8_BLOCK])
        case _:
            return _arguments(bits, "float", scheme.scaling)


def _observer(plan: Plan) -> dict[str, Any]:
    """The rule of stored scales, for people: loaders take the scales."""
    if plan.observer == "percentile":
        return {"observer": plan.observer, "observer_kwargs": {"percentile": plan.percentile}}
    return {"observer": plan.observer}


def _activations(inputs: ActivationScheme, plan: Plan) -> dict[str, Any]:
    bits, kind = (4 if inputs.element == "e2m1" else 8), ("int" if inputs.element == "int8" else "float")
    observer = {"observer": None} if inputs.dynamic else _observer(plan)
    match inputs.scaling:
        case "nv":
            dtypes = {"scale_dtype": E4M3, "zp_dtype": E4M3, **observer}
            if plan.observer == "minmax":
                dtypes["observer"] = "static_minmax"
            return _arguments(bits, kind, "tensor_group", group_size=NV_GROUP, dynamic="local", **dtypes)
        case "mx":
            dtypes = {"scale_dtype": BYTE, "zp_dtype": BYTE}
            return _arguments(bits, kind, "group", group_size=MX_GROUP, dynamic=True, **dtypes, **observer)
        case "group":
            return _arguments(bits, kind, "group", group_size=FP8_BLOCK, dynamic=True, **observer)
        case _:
            return _arguments(bits, kind, inputs.scaling, dynamic=inputs.dynamic, **observer)


def _ignored(tensors: tuple[TensorPlan, ...]) -> list[str]:
    """Module names of linear layers left float. Embeddings are no `Linear` and need no entry."""
    modules = {
        entry.name.removesuffix(".weight")
        for entry in tensors
        if isinstance(entry.scheme, FloatScheme) and len(entry.shape) == 2 and entry.name.endswith(".weight")
    }
    floats = {module for module in modules if "embed" not in module.rpartition(".")[2]}
    head_is_packed = any(
        entry.name == f"{HEAD}.weight" and not isinstance(entry.scheme, FloatScheme) for entry in tensors
    )
    return sorted(floats if head_is_packed else floats | {HEAD})
