"""One matrix of an fp8 or ModelOpt folder, codes to bytes and back. Names and shapes: facts/float_folders.py.

Codes lie as in compressed-tensors: E4M3 bytes, E2M1 with the even input of a pair in the low half of a byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bitwright.core.plan import ArtifactFormat, TensorPlan
from bitwright.core.schemes import MinifloatScheme
from bitwright.facts.packed_tensors import local_parts
from bitwright.formats.packing import pack_nibbles, unpack_nibbles
from bitwright.tensors.qtensor import Array, QTensor

SIDE_CONFIG = "hf_quant_config.json"  # ModelOpt's own, beside config.json
BLOCK_SCALE, SCALE, FACTOR, INPUT_SCALE = "weight_scale_inv", "weight_scale", "weight_scale_2", "input_scale"


def encode_matrix(entry: TensorPlan, value: QTensor, format: ArtifactFormat) -> dict[str, bytes]:
    """Stored name → bytes."""
    scheme = value.scheme
    assert isinstance(scheme, MinifloatScheme), scheme
    codes = value.codes.astype(np.uint8)
    data: dict[str, Array] = {"weight": pack_nibbles(codes) if scheme.element == "e2m1" else codes}
    match scheme.scaling:
        case "nv":
            assert scheme.factor == "multiplier", scheme
            data[SCALE] = value.fields["scale_codes"].astype(np.uint8)
            data[FACTOR] = value.fields["global_scale"].astype("<f4")
        case "mx":
            data[SCALE] = value.fields["exponents"].astype(np.uint8)
        case "block":
            data[BLOCK_SCALE] = value.fields["scale"].astype("<f4")
        case _:
            data[SCALE] = value.fields["scale"].astype("<f4")
    if "input_scale" in value.fields:
        data[INPUT_SCALE] = value.fields["input_scale"].astype("<f4")
    parts = local_parts(entry, format)
    assert data.keys() == parts.keys(), (entry.name, sorted(data), sorted(parts))
    module = entry.name.removesuffix(".weight")
    return {f"{module}.{name}": np.ascontiguousarray(part).tobytes() for name, part in data.items()}


def matrix_of(scheme: MinifloatScheme, state: Mapping[str, Any]) -> QTensor:
    """The codes and scales as they are stored; `state` is local name → torch tensor."""
    import torch

    raw = state["weight"].view(torch.uint8).numpy()
    codes = unpack_nibbles(raw) if scheme.element == "e2m1" else raw
    fields: dict[str, Array] = {}
    match scheme.scaling:
        case "nv":
            fields["scale_codes"] = state[SCALE].view(torch.uint8).numpy()
            fields["global_scale"] = state[FACTOR].float().reshape(1).numpy()
        case "mx":
            fields["exponents"] = state[SCALE].view(torch.uint8).numpy()
        case "block":
            fields["scale"] = state[BLOCK_SCALE].float().numpy()
        case "channel":
            fields["scale"] = state[SCALE].float().reshape(-1, 1).numpy()
        case _:
            fields["scale"] = state[SCALE].float().reshape(1).numpy()
    if scheme.activations is not None and not scheme.activations.dynamic:
        fields["input_scale"] = state[INPUT_SCALE].float().reshape(1).numpy()
    return QTensor(scheme=scheme, codes=codes, fields=fields)
