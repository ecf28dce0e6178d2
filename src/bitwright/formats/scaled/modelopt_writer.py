"""Writer of ModelOpt folders, the layout of NVIDIA's published NVFP4 and FP8 models: TensorRT-LLM, vLLM, SGLang.

What is stored is described twice, in `hf_quant_config.json` (the older form, which TensorRT-LLM reads) and in
`config.json` (the newer one, which vLLM looks at first). One algorithm holds for the whole model.

Not here: bytes of a matrix (encode.py), reading (modelopt_reader.py).
Sources: ModelOpt 0.47, torch/export/{unified_export_hf,convert_hf_config}.py; vLLM 0.32, quantization/modelopt.py.
"""

from __future__ import annotations

from typing import Any

from bitwright.core.errors import UnsupportedError
from bitwright.core.plan import TensorPlan
from bitwright.core.provenance import version
from bitwright.core.schemes import MX_GROUP, NV_GROUP, MinifloatScheme
from bitwright.facts.float_folders import ALGORITHMS, TYPES, type_name
from bitwright.formats.folders.writer import SafetensorsFolderWriter, json_bytes
from bitwright.formats.scaled.encode import SIDE_CONFIG, encode_matrix
from bitwright.tensors.qtensor import QTensor

GROUPS = {"nv": NV_GROUP, "mx": MX_GROUP}


class ModelOptWriter(SafetensorsFolderWriter):
    """`ArtifactWriter` for ModelOpt."""

    def check(self, entry: TensorPlan) -> None:
        scheme = entry.scheme
        if not isinstance(scheme, MinifloatScheme) or type_name("modelopt", scheme) is None:
            raise UnsupportedError(
                f"`{entry.name}`: ModelOpt folders cannot hold {scheme.label}",
                hint=f"use --type {', '.join(TYPES['modelopt'])}",
            )
        others = {e.scheme for e in self._plan.tensors if isinstance(e.scheme, MinifloatScheme)} - {scheme}
        if others:
            raise UnsupportedError(
                f"`{entry.name}`: one algorithm holds for a ModelOpt folder, not {scheme.label} and "
                f"{others.pop().label}",
                hint="use --format compressed-tensors",
            )

    def encode_codes(self, entry: TensorPlan, value: QTensor) -> dict[str, bytes]:
        return encode_matrix(entry, value, "modelopt")

    def quantization_config(self) -> dict[str, Any]:
        scheme = self._scheme()
        group = {"group_size": GROUPS[scheme.scaling]} if scheme.scaling in GROUPS else {}
        bits = 4 if scheme.element == "e2m1" else 8
        numbers = {"dynamic": False, "num_bits": bits, "type": "float"} | group
        details: dict[str, Any] = {"weights": numbers, "targets": ["Linear"]}
        if scheme.activations is not None:
            details["input_activations"] = numbers | {"dynamic": scheme.activations.dynamic}
        cache = {"kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"}} if self._plan.kv_cache else {}
        return {
            "quant_method": "modelopt",
            "quant_algo": self._algorithm(),
            **group,
            **cache,
            "config_groups": {"group_0": details},
            "ignore": self._kept(),
            "producer": self._producer(),
        }

    def extra_files(self) -> dict[str, bytes]:
        described = {
            "quant_algo": self._algorithm(),
            "kv_cache_quant_algo": None if self._plan.kv_cache is None else "FP8",
            "group_size": GROUPS.get(self._scheme().scaling),
            "exclude_modules": self._kept(),
        }
        return {SIDE_CONFIG: json_bytes({"producer": self._producer(), "quantization": described})}

    def _scheme(self) -> MinifloatScheme:
        return next(e.scheme for e in self._plan.tensors if isinstance(e.scheme, MinifloatScheme))

    def _algorithm(self) -> str:
        name = type_name("modelopt", self._scheme())
        assert name is not None, "checked before"
        return ALGORITHMS[name]

    def _kept(self) -> list[str]:
        return sorted({*self.float_linears(), "lm_head"})

    def _producer(self) -> dict[str, str]:
        return {"name": "bitwright", "version": version()}
