"""Writer of bitsandbytes folders, as transformers saves and loads them.

NF4 and FP4, per matrix `<module>.weight` of n = out * in elements, B = ceil(n / 64) blocks in row-major order:
    <module>.weight                    U8   [ceil(n/2), 1]  the first of two elements in the high nibble
    <module>.weight.absmax             F32  [B], or U8 [B] with double quantization
    <module>.weight.quant_map          F32  [16]            the levels
    <module>.weight.nested_absmax      F32  [ceil(B/256)]   double quantization only
    <module>.weight.nested_quant_map   F32  [256]           the same
    <module>.weight.quant_state.bitsandbytes__nf4 (…fp4)  U8 [256]  JSON: quant_type, blocksize, dtype, shape, nested_*
LLM.int8():
    <module>.weight         I8   [out, in]   round(w * 127 / row maximum)
    <module>.SCB            F32  [out]       row maxima
    <module>.weight_format  U8   []          0: rows
The library's JSON is as long as its numbers; here it is filled up with spaces, which JSON allows, because a file whose
offsets are planned cannot wait for the mean of a matrix.

Not here: codes and scales (quantize/codebook.py), reading (bnb_reader.py).
Sources: bitsandbytes 0.50.2, functional.py QuantState.as_dict and nn/modules.py; transformers 5.23,
utils/quantization_config.py BitsAndBytesConfig.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from bitwright.core.errors import UnsupportedError
from bitwright.core.plan import TensorPlan
from bitwright.core.schemes import BNB_STATE_BYTES, CodebookScheme, Int8RowScheme
from bitwright.facts.packed_tensors import state_key
from bitwright.formats.folders.writer import SafetensorsFolderWriter, module_of
from bitwright.formats.layout import float_bytes
from bitwright.tensors.codebook_values import LEVELS, NESTED_BLOCK, dynamic_levels
from bitwright.tensors.qtensor import QTensor

TORCH_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class BitsandbytesWriter(SafetensorsFolderWriter):
    """`ArtifactWriter` for bitsandbytes. One scheme for the whole model: the format has a single setting."""

    def check(self, entry: TensorPlan) -> None:
        if not isinstance(entry.scheme, CodebookScheme | Int8RowScheme) or entry.scheme != self._scheme():
            raise UnsupportedError(
                f"`{entry.name}`: a bitsandbytes folder has one of NF4, FP4 and LLM.int8, planned {entry.scheme.label}",
                hint="use --type NF4, FP4 or LLM.int8",
            )

    def encode_codes(self, entry: TensorPlan, value: QTensor) -> dict[str, bytes]:
        name, scheme, fields = entry.name, value.scheme, value.fields
        if isinstance(scheme, Int8RowScheme):
            module = module_of(name)
            return {
                name: value.codes.astype(np.int8).tobytes(),
                f"{module}.SCB": float_bytes(fields["absmax"].astype(np.float32), "f32"),
                f"{module}.weight_format": bytes(1),
            }
        assert isinstance(scheme, CodebookScheme), scheme
        stored = {
            name: pack_nibbles(value.codes.astype(np.uint8)),
            f"{name}.quant_map": float_bytes(LEVELS[scheme.codebook], "f32"),
        }
        offset = None
        if scheme.double_quant:
            offset = float(fields["offset"].astype(np.float32)[0])
            stored[f"{name}.absmax"] = fields["absmax_codes"].astype(np.uint8).tobytes()
            stored[f"{name}.nested_absmax"] = float_bytes(fields["nested_absmax"].astype(np.float32), "f32")
            stored[f"{name}.nested_quant_map"] = float_bytes(dynamic_levels(), "f32")
        else:
            stored[f"{name}.absmax"] = float_bytes(fields["absmax"].astype(np.float32), "f32")
        stored[f"{name}.{state_key(scheme)}"] = self._state(entry, scheme, offset)
        return stored

    def rows_apart(self, entry: TensorPlan) -> bool:
        """Blocks of NF4 and FP4 run across rows, and share a mean."""
        return not isinstance(entry.scheme, CodebookScheme)

    def quantization_config(self) -> dict[str, Any]:
        """Every key of `BitsAndBytesConfig`, as transformers writes them."""
        scheme = self._scheme()
        four = isinstance(scheme, CodebookScheme)
        return {
            "quant_method": "bitsandbytes",
            "load_in_4bit": four,
            "load_in_8bit": not four,
            "_load_in_4bit": four,
            "_load_in_8bit": not four,
            "bnb_4bit_quant_type": scheme.codebook if isinstance(scheme, CodebookScheme) else "fp4",
            "bnb_4bit_use_double_quant": isinstance(scheme, CodebookScheme) and scheme.double_quant,
            "bnb_4bit_compute_dtype": TORCH_NAMES[self._plan.model.dtype] if four else "float32",
            "bnb_4bit_quant_storage": "uint8",
            "llm_int8_threshold": scheme.threshold if isinstance(scheme, Int8RowScheme) else 6.0,
            "llm_int8_skip_modules": sorted({*self.float_linears(), "lm_head"}),
            "llm_int8_has_fp16_weight": False,
            "llm_int8_enable_fp32_cpu_offload": False,
        }

    def _state(self, entry: TensorPlan, scheme: CodebookScheme, offset: float | None) -> bytes:
        state: dict[str, Any] = {
            "quant_type": scheme.codebook,
            "blocksize": scheme.block,
            "dtype": TORCH_NAMES[self._plan.model.dtype],
            "shape": list(entry.shape),
        }
        if offset is not None:
            state |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": offset}
        text = json.dumps(state).encode()
        assert len(text) <= BNB_STATE_BYTES, text
        return text.ljust(BNB_STATE_BYTES)

    def _scheme(self) -> CodebookScheme | Int8RowScheme:
        schemes = (e.scheme for e in self._plan.tensors if isinstance(e.scheme, CodebookScheme | Int8RowScheme))
        return next(schemes, CodebookScheme(codebook="nf4"))


def pack_nibbles(codes: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """Two elements a byte in row-major order, the first one high; a missing last one is 0."""
    flat = codes.reshape(-1)
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    return ((flat[0::2] << 4) | flat[1::2]).tobytes()
