"""HF/vLLM fp8 and ModelOpt folders: the types that each holds, by name, and what is stored for a matrix.

    <module> stands for the name without `.weight`; O rows, I inputs; scales are F32 unless said otherwise
    fp8, per block     weight F8_E4M3 [O, I]   weight_scale_inv [ceil(O/128), ceil(I/128)]
    fp8, per matrix    weight F8_E4M3 [O, I]   weight_scale []          static inputs: input_scale []
    modelopt NVFP4     weight U8 [O, I/2]      weight_scale F8_E4M3 [O, I/16]   weight_scale_2 []   input_scale []
    modelopt FP8       weight F8_E4M3 [O, I]   weight_scale []   input_scale []
    modelopt FP8 per channel                   weight_scale [O]
    modelopt MXFP8     weight F8_E4M3 [O, I]   weight_scale U8 [O, I/32]
`weight_scale_inv` is, for all its name, what codes are multiplied with. So is `weight_scale_2`, the inverse of
compressed-tensors' `weight_global_scale`, and ModelOpt's `input_scale`, the inverse of `input_global_scale`.

Not here: values (formats/scaled/).
Sources: vLLM 0.32, layers/quantization/{fp8,modelopt}.py; ModelOpt 0.47, torch/export/; DeepSeek-V3's config.json.
"""

from __future__ import annotations

import msgspec

from bitwright.core.errors import UsageError, did_you_mean
from bitwright.core.plan import ArtifactFormat, ModelFacts, TensorPlan
from bitwright.core.schemes import FP8_BLOCK, MX_GROUP, NV_GROUP, MinifloatScheme, static_inputs
from bitwright.facts.compressed_types import COMPRESSED_TYPES, FP8_TOKEN
from bitwright.facts.families import is_block_linear
from bitwright.facts.stored_tensors import Parts

FLOAT_FOLDERS: tuple[ArtifactFormat, ...] = ("fp8", "modelopt")
FP8_TENSOR = MinifloatScheme(element="e4m3", scaling="tensor", scale_dtype="f32", activations=FP8_TOKEN)


def _scheme(name: str) -> MinifloatScheme:
    """compressed-tensors' type of that name, with float32 scales."""
    scheme = COMPRESSED_TYPES[name]
    assert isinstance(scheme, MinifloatScheme), name
    return msgspec.structs.replace(scheme, scale_dtype="f32")


def _multiplied(name: str) -> MinifloatScheme:
    return msgspec.structs.replace(_scheme(name), factor="multiplier")


TYPES: dict[ArtifactFormat, dict[str, MinifloatScheme]] = {
    "fp8": {"FP8_BLOCK": _scheme("FP8_BLOCK"), "FP8": _scheme("FP8"), "FP8_TENSOR": FP8_TENSOR},
    "modelopt": {
        "NVFP4": _multiplied("NVFP4"), "NVFP4A16": _multiplied("NVFP4A16"), "FP8": _scheme("FP8"),
        "FP8_DYNAMIC": _scheme("FP8_DYNAMIC"), "MXFP8": _scheme("MXFP8"),
    },
}  # fmt: skip
ALGORITHMS = {
    "NVFP4": "NVFP4", "NVFP4A16": "W4A16_NVFP4", "FP8": "FP8", "FP8_DYNAMIC": "FP8_PER_CHANNEL_PER_TOKEN",
    "MXFP8": "MXFP8",
}  # fmt: skip  # ours → ModelOpt's


def float_folder_type(format: ArtifactFormat, type: str | None, bits: int | None) -> str:
    """The name of the type that was asked for. Raises `UsageError`."""
    known = TYPES[format]
    if bits is not None:
        raise UsageError(f"types of {format} have their bits in their names", hint=f"use --type {', '.join(known)}")
    if type is None:
        return next(iter(known))
    if type not in known:
        raise UsageError(f"`{type}` is no type of {format}", hint=did_you_mean(type, list(known)))
    return type


def type_name(format: ArtifactFormat, scheme: MinifloatScheme) -> str | None:
    """The name of a scheme in a format, `None` where it has no place in it."""
    return next((name for name, known in TYPES[format].items() if known == scheme), None)


def fp8_parts(entry: TensorPlan) -> Parts:
    """Local name → type and shape."""
    scheme, (rows, columns) = _minifloat(entry), entry.shape
    parts: Parts = {"weight": ("F8_E4M3", (rows, columns))}
    if scheme.scaling == "block":
        return parts | {"weight_scale_inv": ("F32", (-(-rows // FP8_BLOCK), -(-columns // FP8_BLOCK)))}
    return parts | {"weight_scale": ("F32", ())} | _input_scale(scheme)


def modelopt_parts(entry: TensorPlan) -> Parts:
    """Local name → type and shape."""
    scheme, (rows, columns) = _minifloat(entry), entry.shape
    if scheme.scaling == "nv":
        parts: Parts = {
            "weight": ("U8", (rows, columns // 2)),
            "weight_scale": ("F8_E4M3", (rows, columns // NV_GROUP)),
            "weight_scale_2": ("F32", ()),
        }
        return parts | _input_scale(scheme)
    scales: Parts = {"tensor": ("F32", ()), "channel": ("F32", (rows,)), "mx": ("U8", (rows, columns // MX_GROUP))}
    return {"weight": ("F8_E4M3", (rows, columns)), "weight_scale": scales[scheme.scaling]} | _input_scale(scheme)


def float_folder_notes(format: ArtifactFormat, scheme: MinifloatScheme, facts: ModelFacts) -> list[str]:
    """What a person should know of serving the artifact."""
    found = _folder_notes(format, scheme, facts)
    if facts.experts is not None and static_inputs(scheme) is not None:
        found.append(
            "vLLM gives all experts of a block the largest of their input scales; the verdict rounds the inputs of "
            "each under its own"
        )
    return found


def _folder_notes(format: ArtifactFormat, scheme: MinifloatScheme, facts: ModelFacts) -> list[str]:
    if format != "fp8":
        return []
    if scheme.scaling != "block":
        return ["transformers 5.23 reads fp8 folders per block only, vLLM and SGLang read those per matrix too"]
    ragged = [t for t in facts.tensors if is_block_linear(t.name) and any(size % FP8_BLOCK for size in t.shape[-2:])]
    if not ragged:
        return []
    return [
        (
            f"`{ragged[0].name}` is {' x '.join(map(str, ragged[0].shape[-2:]))}, no whole blocks of 128 x 128: "
            "transformers refuses or misreads it, and vLLM wants whole blocks of every part of a fused matrix; "
            "--format compressed-tensors --type FP8_DYNAMIC has no blocks"
        )
    ]


def _input_scale(scheme: MinifloatScheme) -> Parts:
    static = scheme.activations is not None and not scheme.activations.dynamic
    return {"input_scale": ("F32", ())} if static else {}


def _minifloat(entry: TensorPlan) -> MinifloatScheme:
    assert isinstance(entry.scheme, MinifloatScheme), entry.scheme
    return entry.scheme
