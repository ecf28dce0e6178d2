"""Writer of plain Hugging Face folders: the checkpoint in another floating-point type, loaded by everything.

Every tensor keeps its name and shape. `config.json` names the new type and nothing of quantization. What F16 cannot
hold is found before anything is written (pipeline/casts.py).

Not here: the container and what is copied (writer.py).
"""

from __future__ import annotations

from typing import Any

from bitwright.core.plan import TensorPlan
from bitwright.core.schemes import FloatScheme
from bitwright.formats.folders.writer import SafetensorsFolderWriter
from bitwright.tensors.qtensor import QTensor

TORCH_NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
TYPE_KEYS = ("torch_dtype", "dtype")  # transformers 4 and 5


class FloatFolderWriter(SafetensorsFolderWriter):
    """`ArtifactWriter` of a checkpoint."""

    def check(self, entry: TensorPlan) -> None:
        raise AssertionError(f"{entry.name}: a plain folder holds floats")

    def encode_codes(self, entry: TensorPlan, value: QTensor) -> dict[str, bytes]:
        raise AssertionError(f"{entry.name}: a plain folder holds floats")

    def quantization_config(self) -> None:
        """None: loaders take the folder for what it is, a checkpoint."""

    def model_config(self) -> dict[str, Any]:
        config = super().model_config()
        scheme = self._plan.tensors[0].scheme
        assert isinstance(scheme, FloatScheme), scheme
        for key in [key for key in TYPE_KEYS if key in config] or TYPE_KEYS[1:]:
            config[key] = TORCH_NAMES[scheme.dtype]
        return config
