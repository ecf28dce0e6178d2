"""A ModelOpt folder as a `WeightSource`: NVFP4 with and without rounded inputs, FP8 per matrix or channel, MXFP8.

The algorithm stands in `config.json`, or in `hf_quant_config.json` where older exports left it.

Not here: values (reader.py), writing (modelopt_writer.py).
Sources: ModelOpt 0.47, torch/export/convert_hf_config.py; vLLM 0.32, layers/quantization/modelopt.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bitwright.core.errors import InputError
from bitwright.facts.checkpoint import read_config
from bitwright.facts.float_folders import ALGORITHMS, TYPES
from bitwright.formats.packed.folder import DAMAGED, SETTINGS
from bitwright.formats.scaled.encode import SIDE_CONFIG
from bitwright.formats.scaled.reader import ScaledFloatSource

NAMES = {algorithm: name for name, algorithm in ALGORITHMS.items()}


class ModelOptSource(ScaledFloatSource):
    """Weights of the artifact under Hugging Face names."""

    format = "modelopt"
    marker = ".weight_scale"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, settings=None if SETTINGS in read_config(folder) else _side_settings(folder))

    def read_settings(self, settings: dict[str, Any]) -> None:
        described = settings.get("quantization", settings)
        algorithm = str(described.get("quant_algo")).upper() if isinstance(described, dict) else "None"
        if algorithm not in NAMES:
            raise self.unsupported(f"quant_algo `{algorithm}`, expected {', '.join(NAMES)}", hint="quantize again")
        name = NAMES[algorithm]
        groups = described.get("config_groups")
        if name == "NVFP4" and groups and all(group.get("input_activations") is None for group in groups.values()):
            name = "NVFP4A16"  # as vLLM reads it: inputs are rounded only where a group says so
        self._kind = TYPES["modelopt"][name]


def _side_settings(folder: Path) -> dict[str, Any]:
    path = folder / SIDE_CONFIG
    try:
        settings = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"`{path}` cannot be read: {error}", hint=DAMAGED) from error
    if not isinstance(settings, dict):
        raise InputError(f"`{path}` is no JSON object", hint=DAMAGED)
    return settings
