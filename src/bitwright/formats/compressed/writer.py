"""Writer of compressed-tensors folders: what vLLM, SGLang and transformers load as W4A16, W8A8, FP8, NVFP4 and others.

Names, types and shapes of what is stored, and how it is split into shards, stand in facts/stored_tensors.py; tensors
that stay in floating point keep their names. Tensors of one decoder block lie in one or two files.

Not here: bytes of one matrix (encode.py), `quantization_config` (folders/quantization_config.py), the container
(folders/safetensors_file.py), the model card (folders/model_card.py), the files that are copied
(folders/companions.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.core.errors import InputError, UnsupportedError
from bitwright.core.plan import Plan, TensorPlan
from bitwright.core.schemes import FloatScheme, IntScheme, MinifloatScheme
from bitwright.facts.checkpoint import CONFIG, INDEX
from bitwright.facts.stored_tensors import MAX_SHARD_BYTES, METADATA, shards
from bitwright.formats.compressed.encode import encode_quantized
from bitwright.formats.folders.companions import read_companions, read_model_config
from bitwright.formats.folders.model_card import CARD_NAME, model_card
from bitwright.formats.folders.quantization_config import quantization_config
from bitwright.formats.folders.safetensors_file import plan_file
from bitwright.formats.layout import FileLayout, float_bytes
from bitwright.tensors.qtensor import QTensor


class CompressedTensorsWriter:
    """`ArtifactWriter` for compressed-tensors. `folder` is the source checkpoint: its config and tokenizer are copied.

    Raises `UnsupportedError` for a plan whose schemes this format has no place for.
    """

    def __init__(self, plan: Plan, folder: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
        self._plan = plan
        self._folder = folder
        self._max_shard_bytes = max_shard_bytes
        for entry in plan.tensors:
            _check(entry)

    def layouts(self) -> tuple[FileLayout, ...]:
        """One file, or numbered shards of at most `max_shard_bytes` of data (a single larger tensor stays whole)."""
        files = shards(self._plan.tensors, self._max_shard_bytes)
        return tuple(plan_file(name, parts, METADATA) for name, parts in files)

    def encode(self, entry: TensorPlan, value: QTensor | NDArray[Any]) -> dict[str, bytes]:
        """Stored name → bytes. Raises `InputError` when a float does not fit the type it is to be stored in."""
        if isinstance(value, QTensor):
            assert value.scheme == entry.scheme, (entry.name, value.scheme, entry.scheme)
            return encode_quantized(module_of(entry.stored_name), value, entry.shape)
        assert isinstance(entry.scheme, FloatScheme), entry.name
        assert value.shape[1:] == entry.shape[1:], (entry.name, value.shape, entry.shape)
        values = np.asarray(value, dtype=np.float32)
        if entry.scheme.dtype == "f16" and values.size and np.abs(values).max() > np.finfo(np.float16).max:
            raise InputError(
                f"`{entry.name}` holds values beyond 65504, which F16 cannot store",
                hint="keep this tensor in BF16 or F32",
            )
        return {entry.stored_name: float_bytes(values, entry.scheme.dtype)}

    def rows_apart(self, entry: TensorPlan) -> bool:
        """Always: packed words, scales and zero points lie in the order of rows."""
        return True

    def constants(self) -> dict[str, bytes]:
        """None: every region comes from a tensor of the checkpoint."""
        return {}

    def sidecars(self) -> dict[str, bytes]:
        """`config.json`, tokenizer and licence files of the source, the model card, and the index of shards."""
        config = read_model_config(self._folder)
        config["quantization_config"] = quantization_config(self._plan)
        files = read_companions(self._folder)
        files[CONFIG] = _json(config)
        files[CARD_NAME] = model_card(self._plan).encode()
        layouts = self.layouts()
        if len(layouts) > 1:
            weight_map = {name: layout.name for layout in layouts for name in layout.regions}
            total = sum(region.bytes for layout in layouts for region in layout.regions.values())
            files[INDEX] = _json({"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})
        return files


def module_of(name: str) -> str:
    """`model.layers.0.mlp.up_proj.weight` → `model.layers.0.mlp.up_proj`."""
    return name.removesuffix(".weight")


def _check(entry: TensorPlan) -> None:
    scheme = entry.scheme
    if isinstance(scheme, FloatScheme):
        return
    if not isinstance(scheme, IntScheme | MinifloatScheme):
        raise UnsupportedError(
            f"`{entry.name}`: compressed-tensors cannot hold {scheme.label}", hint="use --format gguf for ggml types"
        )
    if isinstance(scheme, IntScheme) and scheme.ordered:
        raise UnsupportedError(
            f"`{entry.name}`: compressed-tensors stores no order of columns any more (`actorder` has lost `group`)",
            hint="use --format gptq, or --act-order static, whose files have plain groups",
        )
    if isinstance(scheme, MinifloatScheme) and scheme.element == "e5m2":
        raise UnsupportedError(
            f"`{entry.name}`: compressed-tensors has no name for E5M2 weights, its 8-bit floats are E4M3",
            hint="use FP8, FP8_DYNAMIC or FP8_BLOCK",
        )
    if len(entry.shape) != 2 or not entry.name.endswith(".weight"):
        raise UnsupportedError(
            f"`{entry.name}` of shape {list(entry.shape)} is not the weight of a linear layer",
            hint="only matrices called `<module>.weight` can be packed",
        )
    if scheme.input_group is not None and entry.shape[1] % scheme.input_group:
        raise UnsupportedError(
            f"`{entry.name}` has {entry.shape[1]} inputs, which groups of {scheme.input_group} do not divide",
            hint="choose a smaller --group-size, or `channel`",
        )


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"
