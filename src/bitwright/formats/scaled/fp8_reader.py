"""An fp8 folder (`quant_method` `fp8`) as a `WeightSource`: per block or per matrix, static or dynamic inputs.

Not here: values (reader.py), writing (fp8_writer.py).
Sources: vLLM 0.32, layers/quantization/fp8.py; transformers 5.23, FineGrainedFP8Config.
"""

from __future__ import annotations

from typing import Any

from bitwright.core.schemes import FP8_BLOCK
from bitwright.facts.float_folders import TYPES
from bitwright.formats.scaled.reader import ScaledFloatSource

SCHEMES = {(True, "dynamic"): "FP8_BLOCK", (False, "static"): "FP8", (False, "dynamic"): "FP8_TENSOR"}


class Fp8Source(ScaledFloatSource):
    """Weights of the artifact under Hugging Face names."""

    format = "fp8"

    def read_settings(self, settings: dict[str, Any]) -> None:
        block = settings.get("weight_block_size")
        if block not in (None, [FP8_BLOCK, FP8_BLOCK]):
            raise self.unsupported(f"blocks of {block}, expected [128, 128] or none", hint="quantize again")
        if settings.get("fmt", "e4m3") != "e4m3" or settings.get("scale_fmt", "float") != "float":
            raise self.unsupported(
                f"fmt {settings.get('fmt')!r} and scale_fmt {settings.get('scale_fmt')!r}, expected e4m3 and float",
                hint="scales in powers of two are not read here",
            )
        key = (block is not None, str(settings.get("activation_scheme", "dynamic")).lower())
        if key not in SCHEMES:
            raise self.unsupported(f"activation_scheme `{key[1]}` with blocks {block}", hint="quantize again")
        self._kind = TYPES["fp8"][SCHEMES[key]]
        self.marker = ".weight_scale_inv" if block is not None else ".weight_scale"
