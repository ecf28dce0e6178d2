"""One matrix of a compressed-tensors folder: which tensors hold it, and its values by the library `compressed-tensors`.

Scales are widened to float32 first, because the library computes in the scale's type, and bf16 products would add an
error of the reader to the error of the artifact. For the same reason 4-bit floats go through the library's parts
(unpacking, dequantizing) rather than through its compressor, which rounds their products to bf16.

Shapes are distrusted before the library sees them: it would take a wrong `weight_shape` at its word.

Not here: which modules there are and what config.json says of them (reader.py).
Source: compressed-tensors 0.20, compressors/, quantization/lifecycle/forward.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.mx_utils import decompress_mx_scale
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize

from bitwright.core.errors import InputError, UnsupportedError
from bitwright.formats.packing import padded_words_for, unpack_padded_rows, words_for

PACKED, INTEGERS, FLOATS, NAIVE = "pack-quantized", "int-quantized", "float-quantized", "naive-quantized"
NV, MX4, MX8 = "nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp8-quantized"
FORMATS = (PACKED, INTEGERS, FLOATS, NAIVE, NV, MX4, MX8)
FLOAT_DTYPES = ("BF16", "F16", "F32")
DAMAGED = "the artifact is damaged, or config.json belongs to another one: quantize again"
Shape = tuple[int, ...]


def holder(form: str) -> str:
    """Local name of the tensor that holds the codes."""
    return "weight_packed" if form in (PACKED, NV, MX4) else "weight"


def part_names(form: str, scheme: QuantizationScheme) -> tuple[str, ...]:
    """Local names of everything that makes up one matrix, and the stored scale of its inputs."""
    names = [holder(form), "weight_scale"]
    if form == PACKED:
        names.append("weight_shape")
    if form == NV:
        names.append("weight_global_scale")
    if not scheme.weights.symmetric:
        names.append("weight_zero_point")
    inputs = scheme.input_activations
    if inputs is not None and inputs.dynamic == "local":
        names.append("input_global_scale")
    elif inputs is not None and not inputs.dynamic:
        names.append("input_scale")
    return tuple(names)


def expected_parts(
    form: str, weights: QuantizationArgs, shape: Shape
) -> dict[str, tuple[tuple[str, ...], list[Shape]]]:
    """Local name → types and shapes that are right for a matrix of `shape` (out, in)."""
    rows, columns = shape
    group = weights.group_size if weights.group_size and weights.group_size > 0 else columns
    match weights.strategy:
        case "tensor":
            scales: list[Shape] = [(1,), ()]
        case "block":
            down, across = weights.block_structure
            scales = [(-(-rows // down), -(-columns // across))]
        case _:
            scales = [(rows, columns // group)]
    scale_types = {NV: ("F8_E4M3",), MX4: ("U8", "F8_E8M0"), MX8: ("U8", "F8_E8M0")}.get(form, FLOAT_DTYPES)
    single: list[Shape] = [(1,), ()]
    words: list[Shape] = [
        (rows, words_for(columns, weights.num_bits)),
        (rows, padded_words_for(columns, weights.num_bits)),
    ]
    codes: dict[str, tuple[tuple[str, ...], list[Shape]]] = {
        PACKED: (("I32",), words),
        NV: (("U8",), [(rows, columns // 2)]),
        MX4: (("U8",), [(rows, columns // 2)]),
    }
    plain = ("I8",) if weights.type == "int" else ("F8_E4M3",)
    zeros = ("I32",) if form == PACKED else ("I8",)
    packed_zeros: list[Shape] = [(words_for(rows, weights.num_bits), columns // group)]
    return {
        holder(form): codes.get(form, (plain, [shape])),
        "weight_scale": (scale_types, scales),
        "weight_zero_point": (zeros, packed_zeros if form == PACKED else scales),
        "weight_global_scale": (("F32",), single),
        "input_global_scale": (("F32",), single),
        "input_scale": (FLOAT_DTYPES, single),
    }


def check_scheme(name: str, form: str | None, scheme: QuantizationScheme, where: Path) -> None:
    """Refuse config groups that cannot be read here. Raises `UnsupportedError`."""
    weights = scheme.weights
    if form not in FORMATS or weights is None:
        raise UnsupportedError(
            f"`{where}`: `{name}` is stored as {form}, expected one of {', '.join(FORMATS)}",
            hint="other formats of compressed-tensors are not read",
        )
    kind = (weights.type, weights.num_bits)
    fits = {
        PACKED: weights.type == "int" and 2 <= weights.num_bits <= 8 and weights.strategy in ("group", "channel"),
        INTEGERS: kind == ("int", 8),
        FLOATS: kind == ("float", 8),
        NAIVE: kind in (("int", 8), ("float", 8)),
        NV: kind == ("float", 4) and weights.group_size == 16,
        MX4: kind == ("float", 4) and weights.group_size == 32,
        MX8: kind == ("float", 8) and weights.group_size == 32,
    }
    if not fits[form]:
        raise UnsupportedError(
            f"`{where}`: `{name}` is stored as {form} with {weights.num_bits}-bit {weights.type} weights per "
            f"{weights.strategy}, which is not read here",
            hint="pack-quantized holds 2 to 8 bits in groups or channels, the 8-bit formats 8 bits, the others floats",
        )


def check_parts(
    form: str,
    scheme: QuantizationScheme,
    shape: Shape,
    found: Mapping[str, tuple[str, Shape]],
    module: str,
    where: Path,
) -> None:
    """Every part has the shape and type that (out, in) and the scheme give it. Raises `InputError`."""
    weights = scheme.weights
    if weights.group_size and weights.group_size > 0 and shape[1] % weights.group_size:
        raise InputError(
            f"`{where}`: groups of {weights.group_size} do not divide the {shape[1]} inputs of `{module}`",
            hint=DAMAGED,
        )
    expected = expected_parts(form, weights, shape)
    for part in part_names(form, scheme):
        if part not in expected:
            continue
        dtypes, shapes = expected[part]
        dtype, size = found[part]
        if dtype not in dtypes or size not in shapes:
            raise InputError(
                f"`{where}`: `{module}.{part}` is {dtype} {list(size)}, "
                f"expected {' or '.join(dtypes)} {list(shapes[0])}",
                hint=DAMAGED,
            )


def decode(form: str, scheme: QuantizationScheme, state: Mapping[str, torch.Tensor], shape: Shape) -> torch.Tensor:
    """float32 [out, in] of one matrix from its parts."""
    parts = dict(state)
    weights = scheme.weights
    if form in (NV, MX4):
        codes = unpack_fp4_from_uint8(parts["weight_packed"], *shape, dtype=torch.float32)
        scale = parts["weight_scale"].float() if form == NV else decompress_mx_scale(_bytes(parts["weight_scale"]))
        factor = parts.get("weight_global_scale")
        value = dequantize(codes, scale.float(), args=weights, dtype=torch.float32, global_scale=factor)
        return torch.as_tensor(value).contiguous()
    if form == MX8:
        scale = decompress_mx_scale(_bytes(parts["weight_scale"]))
        value = dequantize(parts["weight"].float(), scale.float(), args=weights, dtype=torch.float32)
        return torch.as_tensor(value).contiguous()
    parts["weight_scale"] = parts["weight_scale"].float()
    if form == PACKED and parts["weight_packed"].shape[1] != words_for(shape[1], weights.num_bits):
        words = parts["weight_packed"].numpy()
        codes = torch.from_numpy(unpack_padded_rows(words, weights.num_bits, shape[1]))
        return torch.as_tensor(dequantize(codes, parts["weight_scale"], args=weights)).contiguous()
    if form != PACKED:
        parts["weight"] = parts["weight"].float()  # exact, and the library cannot pad 8-bit floats to whole blocks
    decoded: torch.Tensor = BaseCompressor.get_value_from_registry(form).decompress(parts, scheme)["weight"]
    return decoded.contiguous()


def _bytes(scale: torch.Tensor) -> torch.Tensor:
    return scale.view(torch.uint8)
