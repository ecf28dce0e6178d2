"""Writer of GPTQ folders (AutoGPTQ, GPTQModel): what vLLM, SGLang, transformers and ExLlama load as `gptq`.

Per quantized matrix `<module>.weight` of shape [out, in], b of 2, 3, 4, 8 bits, G groups along the inputs:
    <module>.qweight   I32  [in*b/32, out]   codes + 2^(b-1)
    <module>.qzeros    I32  [G, out*b/32]    zero points + 2^(b-1), less one in version 1
    <module>.scales    F16  [G, out]         w = scale * (code - zero_point)
    <module>.g_idx     I32  [in]             group of each input: i // g, or what act-order found; rows are never moved
Version 1 (`checkpoint_format: gptq`) cannot hold a zero point of 0; version 2 (`gptq_v2`) can. A symmetric grid has its
zero in the middle, so version 1 holds it, and that is what most loaders read.

Not here: packing (gptq_packing.py), reading (gptq_reader.py).
Sources: AutoGPTQ 0.7; GPTQModel 7.7, quantization/config.py; vLLM 0.32, layers/quantization/auto_gptq.py and
utils/gptq_utils.py (`dynamic`).
"""

from __future__ import annotations

import collections
import re
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.core.errors import InputError, UnsupportedError
from bitwright.core.plan import Plan, TensorPlan
from bitwright.core.provenance import version
from bitwright.core.schemes import IntScheme
from bitwright.facts.stored_tensors import MAX_SHARD_BYTES
from bitwright.formats.folders.writer import SafetensorsFolderWriter, json_bytes, module_of
from bitwright.formats.layout import float_bytes, is_exact
from bitwright.formats.packed.gptq_packing import BITS, SIDE_CONFIG, VERSIONS, fills_words, pack
from bitwright.tensors.qtensor import QTensor

FUSED = {"q_proj": "qkv_proj", "gate_proj": "gate_up_proj"}


class GptqWriter(SafetensorsFolderWriter):
    """`ArtifactWriter` for GPTQ, in the version that the plan's format names.

    `encode` raises `InputError` for a zero point of 0 in version 1.
    """

    def __init__(self, plan: Plan, folder: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
        assert plan.format in VERSIONS, plan.format
        self._first = plan.format == VERSIONS[0]
        super().__init__(plan, folder, max_shard_bytes=max_shard_bytes)

    def check(self, entry: TensorPlan) -> None:
        scheme = entry.scheme
        if not isinstance(scheme, IntScheme) or scheme.bits not in BITS or scheme.activations is not None:
            raise UnsupportedError(
                f"`{entry.name}`: GPTQ files cannot hold {scheme.label}",
                hint=f"use --bits {', '.join(map(str, BITS))} with 16-bit activations, or another --format",
            )
        if scheme.scale_dtype != "f16":
            raise UnsupportedError(f"`{entry.name}`: scales in GPTQ files are F16, planned {scheme.scale_dtype}")
        check_words(entry, scheme.bits)

    def encode_codes(self, entry: TensorPlan, value: QTensor) -> dict[str, bytes]:
        scheme, module = _integers(entry), module_of(entry.name)
        half = 1 << (scheme.bits - 1)
        zeros_OG = value.fields.get("zero_point", np.zeros_like(value.fields["scale"])).astype(np.int16) + half
        if self._first:
            lost = int((zeros_OG == 0).sum())
            if lost:
                raise InputError(
                    f"`{entry.name}` has {lost} zero points of 0, which version 1 of the format cannot hold",
                    hint="use --format gptq_v2",
                )
            zeros_OG = zeros_OG - 1
        scale_OG = value.fields["scale"].astype(np.float32)
        assert is_exact(scale_OG, "f16"), f"{module}: a scale is not representable in f16"
        words = pack(value.codes.astype(np.int16) + half, scheme.bits)
        regular = np.arange(entry.shape[1], dtype="<i4") // (scheme.group_size or entry.shape[1])
        groups = value.fields.get("group_index", regular)
        return {
            f"{module}.qweight": np.ascontiguousarray(words.T).tobytes(),
            f"{module}.qzeros": pack(np.ascontiguousarray(zeros_OG.T), scheme.bits).tobytes(),
            f"{module}.scales": float_bytes(np.ascontiguousarray(scale_OG.T), "f16"),
            f"{module}.g_idx": groups.astype("<i4").tobytes(),
        }

    def quantization_config(self) -> dict[str, Any]:
        """The commonest scheme stands at the top, others under `dynamic`, which also names what is not quantized."""
        schemes = {module_of(e.name): e.scheme for e in self._plan.tensors if isinstance(e.scheme, IntScheme)}
        common = collections.Counter(schemes.values()).most_common(1)
        main = common[0][0] if common else IntScheme(bits=4, group_size=128, scale_dtype="f16")
        head = any(module == "lm_head" for module in schemes)
        floats = [name for module in self.float_linears() if module != "lm_head" for name in _as_engines_say(module)]
        dynamic: dict[str, dict[str, Any]] = {f"-:^{re.escape(module)}$": {} for module in floats}
        dynamic |= {f"+:^{re.escape(m)}$": _settings(scheme) for m, scheme in schemes.items() if scheme != main}
        return {
            "quant_method": "gptq",
            "checkpoint_format": self._plan.format,
            **_settings(main),
            "desc_act": main.ordered,
            "static_groups": self._plan.method == "gptq" and not main.ordered,
            "true_sequential": True,
            "lm_head": head,
            "pack_dtype": "int32",
            **({"dynamic": dynamic} if dynamic else {}),
            "meta": {"quantizer": [f"bitwright:{version()}"]},
        }

    def extra_files(self) -> dict[str, bytes]:
        return {SIDE_CONFIG: json_bytes(self.quantization_config())}


def check_words(entry: TensorPlan, bits: int) -> None:
    """Raise `UnsupportedError` unless inputs and outputs fill whole words, and groups divide the inputs."""
    rows, columns = entry.shape
    scheme = _integers(entry)
    for what, count in (("outputs", rows), ("inputs", columns)):
        if not fills_words(count, bits):
            raise UnsupportedError(
                f"`{entry.name}` has {count} {what}, which do not fill 32-bit words with {bits} bits each",
                hint="use --format compressed-tensors",
            )
    if scheme.group_size is not None and columns % scheme.group_size:
        raise UnsupportedError(
            f"`{entry.name}` has {columns} inputs, which groups of {scheme.group_size} do not divide",
            hint="choose a smaller --group-size, or `channel`",
        )


def _as_engines_say(module: str) -> tuple[str, ...]:
    """A module, and for the first of those that vLLM fuses the name that it has there: rules must match that one."""
    parent, _, last = module.rpartition(".")
    return (module, f"{parent}.{FUSED[last]}") if last in FUSED else (module,)


def _settings(scheme: IntScheme) -> dict[str, Any]:
    return {"bits": scheme.bits, "group_size": scheme.group_size or -1, "sym": scheme.symmetric}


def _integers(entry: TensorPlan) -> IntScheme:
    assert isinstance(entry.scheme, IntScheme), entry.scheme
    return entry.scheme
