"""What the files of a compressed-tensors folder hold for every planned tensor: names, types, shapes, headers, shards.

The planner counts bytes with it and the writer places bytes by it, so that a predicted size is the size.

    <module> stands for the name without `.weight`; O rows, I inputs, G groups, b bits
    pack-quantized         weight_packed I32 [O, ceil(I*b/32)]   weight_scale [O, G]   weight_shape I64 [2]
                           asymmetric: weight_zero_point I32 [ceil(O*b/32), G]
    int-quantized          weight I8 [O, I]        weight_scale [O, 1]
    float-quantized        weight F8_E4M3 [O, I]   weight_scale [1], [O, 1] or [ceil(O/128), ceil(I/128)]
    nvfp4-pack-quantized   weight_packed U8 [O, I/2]   weight_scale F8_E4M3 [O, I/16]   weight_global_scale F32 [1]
    mxfp4-pack-quantized   weight_packed U8 [O, I/2]   weight_scale U8 [O, I/32]
    mxfp8-quantized        weight F8_E4M3 [O, I]       weight_scale U8 [O, I/32]
    static activations     input_scale [1]; NVFP4: input_global_scale F32 [1]

Not here: the values (formats/compressed/encode.py).
Sources: compressed-tensors 0.20, compressors/; safetensors 0.8, README.md "Format".
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from bitwright.core.plan import TensorPlan
from bitwright.core.schemes import FP8_BLOCK, MX_GROUP, NV_GROUP, FloatScheme, IntScheme, MinifloatScheme, QuantScheme
from bitwright.core.units import GIB
from bitwright.facts.checkpoint import DTYPE_BYTES, SINGLE

STORED_DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
ELEMENT_DTYPES = {"e4m3": "F8_E4M3", "e5m2": "F8_E5M2"}
Parts = dict[str, tuple[str, tuple[int, ...]]]  # local name → type and shape
METADATA = {"format": "pt"}
MAX_SHARD_BYTES = 5 * GIB
HEADER_ALIGNMENT = 8


@dataclasses.dataclass(frozen=True, slots=True)
class StoredPart:
    """One tensor of a file."""

    name: str
    dtype: str  # as safetensors writes it
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


def stored_parts(entry: TensorPlan) -> tuple[StoredPart, ...]:
    """Everything that one planned tensor takes in the file."""
    if isinstance(entry.scheme, FloatScheme):
        return (StoredPart(entry.stored_name, STORED_DTYPES[entry.scheme.dtype], entry.shape),)
    *experts, rows, columns = entry.shape  # stacks.py
    module = entry.stored_name.removesuffix(".weight")
    parts = quantized_parts(entry.scheme, rows, columns)
    return tuple(StoredPart(f"{module}.{name}", dtype, (*experts, *shape)) for name, (dtype, shape) in parts.items())


def quantized_parts(scheme: QuantScheme, rows: int, columns: int) -> Parts:
    """Local name → type and shape, for a matrix of `rows x columns`."""
    if isinstance(scheme, IntScheme):
        return _integer_parts(scheme, rows, columns)
    assert isinstance(scheme, MinifloatScheme), scheme
    scale = STORED_DTYPES[scheme.scale_dtype]
    if scheme.element == "e2m1":
        group, kind = (NV_GROUP, "F8_E4M3") if scheme.scaling == "nv" else (MX_GROUP, "U8")
        four: Parts = {"weight_packed": ("U8", (rows, columns // 2)), "weight_scale": (kind, (rows, columns // group))}
        if scheme.scaling == "nv":
            four["weight_global_scale"] = ("F32", (1,))
            if scheme.activations is not None:
                four["input_global_scale"] = ("F32", (1,))
        return four
    scales: Parts = {
        "tensor": (scale, (1,)),
        "channel": (scale, (rows, 1)),
        "block": (scale, (-(-rows // FP8_BLOCK), -(-columns // FP8_BLOCK))),
        "mx": ("U8", (rows, columns // MX_GROUP)),
    }
    parts: Parts = {"weight": (ELEMENT_DTYPES[scheme.element], (rows, columns)), "weight_scale": scales[scheme.scaling]}
    return parts | _input_scale(scheme, scale)


def _integer_parts(scheme: IntScheme, rows: int, columns: int) -> Parts:
    groups, scale = scheme.groups(columns), STORED_DTYPES[scheme.scale_dtype]
    parts: Parts
    if not scheme.packed:
        parts = {"weight": ("I8", (rows, columns)), "weight_scale": (scale, (rows, groups))}
        return parts | _input_scale(scheme, scale)
    parts = {
        "weight_packed": ("I32", (rows, words_for(columns, scheme.bits))),
        "weight_scale": (scale, (rows, groups)),
        "weight_shape": ("I64", (2,)),
    }
    if not scheme.symmetric:
        parts["weight_zero_point"] = ("I32", (words_for(rows, scheme.bits), groups))
    return parts


def _input_scale(scheme: IntScheme | MinifloatScheme, dtype: str) -> Parts:
    static = scheme.activations is not None and not scheme.activations.dynamic
    return {"input_scale": (dtype, (1,))} if static else {}


def words_for(count: int, bits: int) -> int:
    """32-bit words that `count` values take: 32 values lie in `bits` words, without gaps."""
    return -(-count * bits // 32)


def shards(
    entries: Iterable[TensorPlan],
    max_bytes: int = MAX_SHARD_BYTES,
    parts_of: Callable[[TensorPlan], tuple[StoredPart, ...]] = stored_parts,
) -> list[tuple[str, list[StoredPart]]]:
    """File names and what each holds, in plan order; a tensor's parts stay together, even where they exceed a shard."""
    held: list[list[StoredPart]] = [[]]
    size = 0
    for entry in entries:
        parts = parts_of(entry)
        more = sum(part.bytes for part in parts)
        if held[-1] and size + more > max_bytes:
            held.append([])
            size = 0
        held[-1].extend(parts)
        size += more
    if len(held) == 1:
        return [(SINGLE, held[0])]
    return [(f"model-{number:05d}-of-{len(held):05d}.safetensors", part) for number, part in enumerate(held, start=1)]


def placed(parts: Sequence[StoredPart]) -> list[StoredPart]:
    """The order in the file: wide types first so that all stay aligned, then by name."""
    return sorted(parts, key=lambda part: (-DTYPE_BYTES[part.dtype], part.name))


def header_bytes(parts: Sequence[StoredPart], metadata: Mapping[str, str]) -> bytes:
    """Length and JSON of a file that holds `parts` in this order, padded."""
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    position = 0
    for part in parts:
        assert part.name not in header, f"{part.name} occurs twice"
        end = position + part.bytes
        header[part.name] = {"dtype": part.dtype, "shape": list(part.shape), "data_offsets": [position, end]}
        position = end
    body = msgspec.json.encode(header)
    body += b" " * (-len(body) % HEADER_ALIGNMENT)
    return len(body).to_bytes(8, "little") + body


def safetensors_bytes(
    entries: Iterable[TensorPlan], parts_of: Callable[[TensorPlan], tuple[StoredPart, ...]] = stored_parts
) -> int:
    """Bytes of all weight files of an artifact, headers included."""
    files = (placed(parts) for _, parts in shards(entries, parts_of=parts_of))
    return sum(len(header_bytes(parts, METADATA)) + sum(part.bytes for part in parts) for parts in files)
