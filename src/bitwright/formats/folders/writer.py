"""What every artifact of the Hugging Face kind shares: safetensors shards, `config.json`, tokenizer, model card.

A format says how codes become bytes (`encode_codes`) and what loaders must be told (`quantization_config`,
`extra_files`); what is stored under which name stands in facts/packed_tensors.py. Everything else keeps its name and is
stored as its scheme says. Weights are split into shards in plan order, so that the tensors of one decoder block lie in
one or two files.

Not here: the container (safetensors_file.py), the model card (model_card.py), what is copied (companions.py).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.core.errors import InputError, UnsupportedError
from bitwright.core.plan import Plan, TensorPlan
from bitwright.core.schemes import FloatScheme
from bitwright.facts.checkpoint import CONFIG, INDEX
from bitwright.facts.packed_tensors import parts_of
from bitwright.facts.stored_tensors import MAX_SHARD_BYTES, METADATA, shards
from bitwright.formats.folders.companions import read_companions, read_model_config
from bitwright.formats.folders.model_card import CARD_NAME, model_card
from bitwright.formats.folders.safetensors_file import plan_file
from bitwright.formats.layout import FileLayout, float_bytes
from bitwright.tensors.qtensor import QTensor


class SafetensorsFolderWriter(ABC):
    """`ArtifactWriter` of a folder. `folder` is the source checkpoint: its config and tokenizer are copied.

    Raises `UnsupportedError` for a plan whose schemes the format has no place for.
    """

    def __init__(self, plan: Plan, folder: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
        self._plan = plan
        self._folder = folder
        self._max_shard_bytes = max_shard_bytes
        for entry in plan.tensors:
            if not isinstance(entry.scheme, FloatScheme):
                check_matrix(entry)
                self.check(entry)

    @abstractmethod
    def check(self, entry: TensorPlan) -> None:
        """Raise `UnsupportedError` when the format has no place for this matrix under its scheme."""

    @abstractmethod
    def encode_codes(self, entry: TensorPlan, value: QTensor) -> dict[str, bytes]:
        """Stored name → bytes of a quantized matrix."""

    @abstractmethod
    def quantization_config(self) -> dict[str, Any] | None:
        """What goes into `config.json` under this name, if anything."""

    def model_config(self) -> dict[str, Any]:
        """`config.json`."""
        config = read_model_config(self._folder)
        for key in ("compression_config", "quantization_config"):
            config.pop(key, None)
        settings = self.quantization_config()
        return config if settings is None else config | {"quantization_config": settings}

    def extra_files(self) -> dict[str, bytes]:
        """Small files that only this format has."""
        return {}

    def layouts(self) -> tuple[FileLayout, ...]:
        """One file, or numbered shards of at most `max_shard_bytes` of data (a single larger tensor stays whole)."""
        files = shards(self._plan.tensors, self._max_shard_bytes, parts_of(self._plan.format))
        return tuple(plan_file(name, parts, METADATA) for name, parts in files)

    def encode(self, entry: TensorPlan, value: QTensor | NDArray[Any]) -> dict[str, bytes]:
        """Stored name → bytes. Raises `InputError` when a float does not fit the type it is to be stored in."""
        if isinstance(value, QTensor):
            assert value.scheme == entry.scheme, (entry.name, value.scheme, entry.scheme)
            return self.encode_codes(entry, value)
        return encode_float(entry, value)

    def rows_apart(self, entry: TensorPlan) -> bool:
        """Whether rows follow one another in the file: floats do, packed codes often lie the other way."""
        return isinstance(entry.scheme, FloatScheme)

    def constants(self) -> dict[str, bytes]:
        """None: every region comes from a tensor of the checkpoint."""
        return {}

    def sidecars(self) -> dict[str, bytes]:
        """`config.json`, tokenizer and licence files of the source, the model card, and the index of shards."""
        files = read_companions(self._folder) | self.extra_files()
        files[CONFIG] = json_bytes(self.model_config())
        files[CARD_NAME] = model_card(self._plan).encode()
        layouts = self.layouts()
        if len(layouts) > 1:
            weight_map = {name: layout.name for layout in layouts for name in layout.regions}
            total = sum(region.bytes for layout in layouts for region in layout.regions.values())
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
            files[INDEX] = json_bytes(index)
        return files

    def float_linears(self) -> list[str]:
        """Module names of linear layers left in floating point. Embeddings are no linear layer."""
        modules = (
            module_of(entry.name)
            for entry in self._plan.tensors
            if isinstance(entry.scheme, FloatScheme) and len(entry.shape) == 2 and entry.name.endswith(".weight")
        )
        return sorted(module for module in modules if "embed" not in module.rpartition(".")[2])


def module_of(name: str) -> str:
    """`model.layers.0.mlp.up_proj.weight` → `model.layers.0.mlp.up_proj`."""
    return name.removesuffix(".weight")


def encode_float(entry: TensorPlan, value: NDArray[Any]) -> dict[str, bytes]:
    """Bytes of a tensor in floating point under its own name. Raises `InputError` when F16 cannot hold a value."""
    assert isinstance(entry.scheme, FloatScheme), entry.name
    assert value.shape[1:] == entry.shape[1:], (entry.name, value.shape, entry.shape)
    values = np.asarray(value, dtype=np.float32)
    if entry.scheme.dtype == "f16" and values.size and np.abs(values).max() > np.finfo(np.float16).max:
        raise InputError(
            f"`{entry.name}` holds values beyond 65504, which F16 cannot store",
            hint="keep this tensor in BF16 or F32",
        )
    return {entry.stored_name: float_bytes(values, entry.scheme.dtype)}


def check_matrix(entry: TensorPlan) -> None:
    """Raise `UnsupportedError` unless the tensor is the weight of a linear layer."""
    if len(entry.shape) != 2 or not entry.name.endswith(".weight"):
        raise UnsupportedError(
            f"`{entry.name}` of shape {list(entry.shape)} is not the weight of a linear layer",
            hint="only matrices called `<module>.weight` can be quantized here",
        )


def json_bytes(value: dict[str, Any]) -> bytes:
    """Indented UTF-8 with a line end."""
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"
