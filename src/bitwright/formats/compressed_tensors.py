"""Writer of `pack-quantized` compressed-tensors folders: what vLLM, SGLang and transformers load as W4A16 and W8A16.

Per quantized matrix `<module>.weight` of shape [out, in], b bits, G groups per row:
    <module>.weight_packed      I32  [out, ceil(in*b/32)]   codes + 2^(b-1), first value in the lowest bits
    <module>.weight_scale       scale_dtype [out, G]        w = scale * (code - zero_point)
    <module>.weight_shape       I64  [2]                    (out, in)
    <module>.weight_zero_point  I32  [ceil(out*b/32), G]    asymmetric only; packed along the outputs
Everything else keeps its name and is stored as its scheme says. Weights are split into shards in plan order, so that
the tensors of one decoder block lie in one or two files.

Not here: the bit packing (packing.py), `quantization_config` (quantization_config.py), the container
(safetensors_file.py), the model card (model_card.py), the files that are copied (companions.py).
Source: compressed-tensors 0.20, compressors/pack_quantized/base.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.core.errors import InputError, UnsupportedError
from bitwright.core.plan import Plan, TensorPlan
from bitwright.core.schemes import FloatScheme, IntScheme
from bitwright.core.units import GIB
from bitwright.facts.checkpoint import CONFIG, INDEX, SINGLE, read_config
from bitwright.formats.companions import read_companions
from bitwright.formats.layout import FileLayout, float_bytes
from bitwright.formats.model_card import CARD_NAME, model_card
from bitwright.formats.packing import pack_rows, words_for
from bitwright.formats.quantization_config import quantization_config
from bitwright.formats.safetensors_file import StoredTensor, plan_file
from bitwright.tensors.qtensor import QTensor

STORED_DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}


class CompressedTensorsWriter:
    """`ArtifactWriter` for compressed-tensors. `folder` is the source checkpoint: its config and tokenizer are copied.

    Raises `UnsupportedError` for a plan whose schemes this format has no place for.
    """

    def __init__(self, plan: Plan, folder: Path, *, max_shard_bytes: int = 5 * GIB) -> None:
        self._plan = plan
        self._folder = folder
        self._max_shard_bytes = max_shard_bytes
        for entry in plan.tensors:
            _check(entry)

    def layouts(self) -> tuple[FileLayout, ...]:
        """One file, or numbered shards of at most `max_shard_bytes` of data (a single larger tensor stays whole)."""
        shards = self._shards()
        metadata = {"format": "pt"}
        if len(shards) == 1:
            return (plan_file(SINGLE, shards[0], metadata),)
        return tuple(
            plan_file(f"model-{number:05d}-of-{len(shards):05d}.safetensors", shard, metadata)
            for number, shard in enumerate(shards, start=1)
        )

    def encode(self, entry: TensorPlan, value: QTensor | NDArray[Any]) -> dict[str, bytes]:
        """Stored name → bytes. Raises `InputError` when a float does not fit the type it is to be stored in."""
        if isinstance(value, QTensor):
            assert value.scheme == entry.scheme, (entry.name, value.scheme, entry.scheme)
            return _encode_int(module_of(entry.name), value)
        assert isinstance(entry.scheme, FloatScheme), entry.name
        assert tuple(value.shape) == entry.shape, (entry.name, value.shape, entry.shape)
        values = np.asarray(value, dtype=np.float32)
        if entry.scheme.dtype == "f16" and values.size and np.abs(values).max() > np.finfo(np.float16).max:
            raise InputError(
                f"`{entry.name}` holds values beyond 65504, which F16 cannot store",
                hint="keep this tensor in BF16 or F32",
            )
        return {entry.name: float_bytes(values, entry.scheme.dtype)}

    def constants(self) -> dict[str, bytes]:
        """None: every region comes from a tensor of the checkpoint."""
        return {}

    def sidecars(self) -> dict[str, bytes]:
        """`config.json`, tokenizer and licence files of the source, the model card, and the index of shards."""
        config = read_config(self._folder)
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

    def _shards(self) -> list[list[StoredTensor]]:
        shards: list[list[StoredTensor]] = [[]]
        held = 0
        for entry in self._plan.tensors:
            stored = stored_tensors(entry)
            size = sum(tensor.bytes for tensor in stored)
            if shards[-1] and held + size > self._max_shard_bytes:
                shards.append([])
                held = 0
            shards[-1].extend(stored)
            held += size
        return shards


def module_of(name: str) -> str:
    """`model.layers.0.mlp.up_proj.weight` → `model.layers.0.mlp.up_proj`."""
    return name.removesuffix(".weight")


def stored_tensors(entry: TensorPlan) -> list[StoredTensor]:
    """Names, types and shapes that one planned tensor takes in the file."""
    scheme = entry.scheme
    if isinstance(scheme, FloatScheme):
        return [StoredTensor(name=entry.name, dtype=STORED_DTYPES[scheme.dtype], shape=entry.shape)]
    assert isinstance(scheme, IntScheme), scheme
    rows, columns = entry.shape
    groups, module = scheme.groups(columns), module_of(entry.name)
    scale_dtype = STORED_DTYPES[scheme.scale_dtype]
    stored = [
        StoredTensor(name=f"{module}.weight_packed", dtype="I32", shape=(rows, words_for(columns, scheme.bits))),
        StoredTensor(name=f"{module}.weight_scale", dtype=scale_dtype, shape=(rows, groups)),
        StoredTensor(name=f"{module}.weight_shape", dtype="I64", shape=(2,)),
    ]
    if not scheme.symmetric:
        shape = (words_for(rows, scheme.bits), groups)
        stored.append(StoredTensor(name=f"{module}.weight_zero_point", dtype="I32", shape=shape))
    return stored


def _check(entry: TensorPlan) -> None:
    scheme = entry.scheme
    if isinstance(scheme, FloatScheme):
        return
    if not isinstance(scheme, IntScheme):
        raise UnsupportedError(
            f"`{entry.name}`: compressed-tensors cannot hold {scheme.label}", hint="use --format gguf for ggml types"
        )
    if len(entry.shape) != 2 or not entry.name.endswith(".weight"):
        raise UnsupportedError(
            f"`{entry.name}` of shape {list(entry.shape)} is not the weight of a linear layer",
            hint="only matrices called `<module>.weight` can be packed",
        )
    if scheme.group_size is not None and entry.shape[1] % scheme.group_size:
        raise UnsupportedError(
            f"`{entry.name}` has {entry.shape[1]} inputs, which groups of {scheme.group_size} do not divide",
            hint="choose a smaller --group-size, or `channel`",
        )


def _encode_int(module: str, value: QTensor) -> dict[str, bytes]:
    scheme = value.scheme
    assert isinstance(scheme, IntScheme), scheme
    scale = value.fields["scale"].astype(np.float32)
    stored = {
        f"{module}.weight_packed": pack_rows(value.codes, scheme.bits).tobytes(),
        f"{module}.weight_scale": float_bytes(scale, scheme.scale_dtype),
        f"{module}.weight_shape": np.array(value.shape, dtype="<i8").tobytes(),
    }
    assert is_exact(scale, scheme.scale_dtype), f"{module}: a scale is not representable in {scheme.scale_dtype}"
    if not scheme.symmetric:
        words = pack_rows(value.fields["zero_point"].T, scheme.bits).T
        stored[f"{module}.weight_zero_point"] = np.ascontiguousarray(words).tobytes()
    return stored


def is_exact(values: NDArray[np.float32], dtype: str) -> bool:
    """Whether every value survives the cast to `dtype`."""
    match dtype:
        case "f32":
            return True
        case "f16":
            with np.errstate(over="ignore"):
                return bool((values.astype(np.float16).astype(np.float32) == values).all())
        case _:
            return not (values.view(np.uint32) & 0xFFFF).any()


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"
