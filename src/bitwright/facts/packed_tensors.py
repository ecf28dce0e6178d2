"""What GPTQ, AWQ and bitsandbytes folders hold for every planned tensor: names, types and shapes.

The planner counts bytes with it and the writers place bytes by it, so that a predicted size is the size. The layouts
are described where they are written: formats/packed/gptq_writer.py, awq_writer.py, bnb_writer.py.

Not here: fp8 and ModelOpt (float_folders.py), compressed-tensors, shards and headers (stored_tensors.py).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bitwright.core.plan import ArtifactFormat, TensorPlan
from bitwright.core.schemes import BNB_STATE_BYTES, CodebookScheme, FloatScheme, Int8RowScheme, IntScheme
from bitwright.facts.float_folders import fp8_parts, modelopt_parts
from bitwright.facts.stored_tensors import STORED_DTYPES, Parts, StoredPart, stored_parts

WORD = 32
AWQ_PER_WORD = 8
NESTED_BLOCK, LEVELS, NESTED_LEVELS = 256, 16, 256


def parts_of(format: ArtifactFormat) -> Callable[[TensorPlan], tuple[StoredPart, ...]]:
    """The function that lists what one planned tensor takes in a folder of this format."""
    match format:
        case "gptq" | "gptq_v2":
            return lambda entry: _parts(entry, gptq_parts)
        case "awq":
            return lambda entry: _parts(entry, awq_parts)
        case "bitsandbytes":
            return lambda entry: _parts(entry, bitsandbytes_parts)
        case "fp8":
            return lambda entry: _parts(entry, fp8_parts)
        case "modelopt":
            return lambda entry: _parts(entry, modelopt_parts)
        case _:
            return stored_parts


def local_parts(entry: TensorPlan, format: ArtifactFormat) -> Parts:
    """Local name → type and shape of one quantized matrix in an fp8 or ModelOpt folder."""
    return fp8_parts(entry) if format == "fp8" else modelopt_parts(entry)


def gptq_parts(entry: TensorPlan) -> Parts:
    """Local name → type and shape."""
    scheme = entry.scheme
    assert isinstance(scheme, IntScheme), scheme
    rows, columns = entry.shape
    groups = scheme.groups(columns)
    return {
        "qweight": ("I32", (columns * scheme.bits // WORD, rows)),
        "qzeros": ("I32", (groups, rows * scheme.bits // WORD)),
        "scales": ("F16", (groups, rows)),
        "g_idx": ("I32", (columns,)),
    }


def awq_parts(entry: TensorPlan) -> Parts:
    """Local name → type and shape."""
    scheme = entry.scheme
    assert isinstance(scheme, IntScheme), scheme
    rows, columns = entry.shape
    groups = scheme.groups(columns)
    return {
        "qweight": ("I32", (columns, rows // AWQ_PER_WORD)),
        "qzeros": ("I32", (groups, rows // AWQ_PER_WORD)),
        "scales": ("F16", (groups, rows)),
    }


def bitsandbytes_parts(entry: TensorPlan) -> Parts:
    """Local name → type and shape."""
    scheme = entry.scheme
    rows, columns = entry.shape
    if isinstance(scheme, Int8RowScheme):
        return {"weight": ("I8", (rows, columns)), "SCB": ("F32", (rows,)), "weight_format": ("U8", ())}
    assert isinstance(scheme, CodebookScheme), scheme
    blocks = -(-rows * columns // scheme.block)
    parts: Parts = {
        "weight": ("U8", (-(-rows * columns // 2), 1)),
        "weight.absmax": ("U8" if scheme.double_quant else "F32", (blocks,)),
        "weight.quant_map": ("F32", (LEVELS,)),
        f"weight.{state_key(scheme)}": ("U8", (BNB_STATE_BYTES,)),
    }
    if scheme.double_quant:
        parts["weight.nested_absmax"] = ("F32", (-(-blocks // NESTED_BLOCK),))
        parts["weight.nested_quant_map"] = ("F32", (NESTED_LEVELS,))
    return parts


def state_key(scheme: CodebookScheme) -> str:
    """The last part of the name under which bitsandbytes keeps shape and type of a matrix."""
    return f"quant_state.bitsandbytes__{scheme.codebook}"


def _parts(entry: TensorPlan, quantized: Callable[[TensorPlan], Parts]) -> tuple[StoredPart, ...]:
    if isinstance(entry.scheme, FloatScheme):
        return (StoredPart(entry.stored_name, STORED_DTYPES[entry.scheme.dtype], entry.shape),)
    module, (*experts, rows, columns) = entry.name.removesuffix(".weight"), entry.shape
    parts = quantized(msgspec.structs.replace(entry, shape=(rows, columns)) if experts else entry)  # stacks.py
    return tuple(StoredPart(f"{module}.{name}", dtype, (*experts, *shape)) for name, (dtype, shape) in parts.items())
