"""Formats of other tools, GPTQ, AWQ and bitsandbytes: what each can hold, by name, and what engines make of it.

bitsandbytes' types are NF4 and FP4, with `_DQ` double-quantized, and LLM.int8. Integers have labels (W4A16 g128 sym).

Not here: choosing a format (planner/), bytes (packed_tensors.py).
Sources: vLLM 0.32, layers/quantization/auto_gptq.py (TYPE_MAP) and auto_awq.py, its list of methods; SGLang 0.5.23,
layers/quantization/gptq/gptq.py; bitsandbytes 0.50.2, backends/cpu (blocks across rows, docs/log.md).
"""

from __future__ import annotations

from bitwright.core.errors import UnsupportedError, UsageError, did_you_mean
from bitwright.core.plan import ArtifactFormat, ModelFacts
from bitwright.core.schemes import CodebookScheme, Int8RowScheme, IntScheme
from bitwright.facts.families import is_block_linear

FolderScheme = IntScheme | CodebookScheme | Int8RowScheme

INTEGER_FOLDERS: tuple[ArtifactFormat, ...] = ("gptq", "gptq_v2", "awq")
FOLDERS: tuple[ArtifactFormat, ...] = (*INTEGER_FOLDERS, "bitsandbytes")
BITSANDBYTES_TYPES: dict[str, CodebookScheme | Int8RowScheme] = {
    "NF4": CodebookScheme(codebook="nf4", double_quant=False),
    "NF4_DQ": CodebookScheme(codebook="nf4", double_quant=True),
    "FP4": CodebookScheme(codebook="fp4", double_quant=False),
    "FP4_DQ": CodebookScheme(codebook="fp4", double_quant=True),
    "LLM.int8": Int8RowScheme(),
}
BITSANDBYTES_BITS = {None: "NF4_DQ", 4: "NF4_DQ", 8: "LLM.int8"}  # what --bits alone means
GPTQ_BITS = (2, 3, 4, 8)
VLLM_GPTQ_BITS = (4, 8)


def bitsandbytes_type(type: str | None, bits: int | None) -> str:
    """The name of the type that was asked for. Raises `UsageError`."""
    if type is None:
        if bits not in BITSANDBYTES_BITS:
            raise UsageError(f"bitsandbytes has no {bits}-bit type", hint="use --bits 4 or 8, or --type NF4")
        return BITSANDBYTES_BITS[bits]
    if type not in BITSANDBYTES_TYPES:
        raise UsageError(f"`{type}` is no bitsandbytes type", hint=did_you_mean(type, list(BITSANDBYTES_TYPES)))
    if bits is not None:
        raise UsageError(f"`{type}` has its bits in its name", hint="leave --bits away")
    return type


def integer_folder(format: ArtifactFormat, scheme: IntScheme) -> tuple[ArtifactFormat, IntScheme]:
    """Format and scheme of a request for GPTQ or AWQ: scales in 16 bits; zero points make GPTQ version 2.

    Raises `UnsupportedError` for a scheme that the format cannot hold.
    """
    if format == "awq":
        if scheme.bits != 4 or scheme.group_size is None:
            raise UnsupportedError(
                f"AWQ files hold 4 bits in groups of 32, 64 or 128, not {scheme.label}",
                hint="use --bits 4 --group-size 128, or --format gptq",
            )
        return format, IntScheme(bits=4, group_size=scheme.group_size, symmetric=False, scale_dtype="f16")
    if scheme.bits not in GPTQ_BITS:
        raise UnsupportedError(
            f"GPTQ files hold {', '.join(map(str, GPTQ_BITS))} bits, not {scheme.bits}",
            hint="use --format compressed-tensors for other widths",
        )
    halved = IntScheme(
        bits=scheme.bits, group_size=scheme.group_size, symmetric=scheme.symmetric, scale_dtype="f16"
    )  # fmt: skip
    return ("gptq" if scheme.symmetric and format == "gptq" else "gptq_v2"), halved


def folder_notes(format: ArtifactFormat, scheme: FolderScheme, facts: ModelFacts) -> list[str]:
    """What a person should know of serving the artifact."""
    found = []
    if isinstance(scheme, IntScheme):
        if facts.dtype == "BF16":
            found.append("scales are stored in 16-bit floats: start engines with --dtype half, bf16 would round them")
        if format != "awq" and (scheme.bits not in VLLM_GPTQ_BITS or not scheme.symmetric):
            found.append(
                f"vLLM 0.32 loads GPTQ only symmetric with 4 or 8 bits, not {scheme.label}: "
                "SGLang, GPTQModel and transformers load it"
            )
        return found
    found.append("vLLM 0.32 does not load bitsandbytes: transformers and SGLang do")
    if isinstance(scheme, CodebookScheme):
        ragged = [t.name for t in facts.tensors if is_block_linear(t.name) and _misread(t.shape[1], scheme.block)]
        if ragged:
            found.append(
                f"bitsandbytes 0.50 misreads `{ragged[0]}` on processors with AVX-512: its inputs are a multiple of 16 "
                f"and not of {scheme.block}; GPUs are not concerned"
            )
    return found


def _misread(inputs: int, block: int) -> bool:
    return inputs % block != 0 and inputs % 16 == 0
