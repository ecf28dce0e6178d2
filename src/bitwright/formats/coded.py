"""The codes of an artifact as they lie in its files, for `convert`: our own decoders, up to the integers.

Nothing is decoded to floats on the way from one format to another; the proof afterwards decodes both ends through the
readers of sniff.py, which rest on foreign libraries. So a mistake here is found there.

    gptq, awq            integers in regular groups; other orders of columns are refused
    compressed-tensors   packed integers, int8 and small floats; what inputs are rounded to, the config says
    fp8, modelopt        small floats and their scales
    gguf                 any block type that has a codec
    bitsandbytes         nothing: its levels have no peer

Not here: what goes where (recode.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import gguf
import numpy as np
import torch

from bitwright.core.errors import InputError, UnsupportedError
from bitwright.core.plan import ArtifactFormat, ModelFacts
from bitwright.core.schemes import GGML_FLOATS, GROUP_SIZES, FloatDtype, FloatScheme, IntScheme, MinifloatScheme
from bitwright.facts.checkpoint import read_checkpoint
from bitwright.formats.compressed.reader import CompressedTensorsSource
from bitwright.formats.folders.ranges import locate
from bitwright.formats.folders.safetensors_file import read_tensor
from bitwright.formats.ggml.blocks import unpack
from bitwright.formats.ggml.names import inverse_permutation, rotary_heads
from bitwright.formats.ggml.reader import GgufSource
from bitwright.formats.packed.awq_reader import AwqSource
from bitwright.formats.packed.gptq_reader import GptqSource
from bitwright.formats.packing import unpack_nibbles, unpack_rows, words_for
from bitwright.formats.scaled.fp8_reader import Fp8Source
from bitwright.formats.scaled.modelopt_reader import ModelOptSource
from bitwright.formats.sniff import gguf_file, sniff
from bitwright.tensors.qtensor import QTensor

FLOATS: dict[str, FloatDtype] = {"F32": "f32", "F16": "f16", "BF16": "bf16"}


class CodedSource(Protocol):
    """An artifact whose matrices can be had as codes."""

    format: ArtifactFormat

    @property
    def facts(self) -> ModelFacts:
        """What the model is."""
        ...

    def names(self) -> Iterable[str]:
        """All tensors under Hugging Face names."""
        ...

    def load(self, name: str) -> FloatScheme | QTensor:
        """The codes of a quantized matrix, or the scheme of one that is stored in floating point.

        Raises `UnsupportedError` for a matrix that is not integers.
        """
        ...


def open_codes(path: Path) -> CodedSource:
    """Open an artifact for its codes. Raises as `sniff` and the readers; `UnsupportedError` where there are none."""
    match sniff(path):
        case "gptq":
            source = GptqSource(path)
            return FolderCodes(source, source.version, path)
        case "awq":
            return FolderCodes(AwqSource(path), "awq", path)
        case "compressed-tensors":
            return CompressedTensorsCodes(path)
        case "gguf":
            return GgufCodes(gguf_file(path))
        case "fp8":
            return FolderCodes(Fp8Source(path), "fp8", path)
        case "modelopt":
            return FolderCodes(ModelOptSource(path), "modelopt", path)
        case "bitsandbytes":
            raise UnsupportedError(f"`{path}`: bitsandbytes' levels have no peer in another format")
        case "checkpoint":
            raise UnsupportedError(f"`{path}` is not quantized")


class HoldsCodes(Protocol):
    """A reader of a folder that can give its codes away."""

    @property
    def facts(self) -> ModelFacts: ...
    def names(self) -> Iterable[str]: ...
    def is_packed(self, name: str) -> bool: ...
    def scheme(self, module: str) -> Any:
        """The scheme of a matrix, `None` where ours has no word for it."""
        ...

    def codes(self, module: str, scheme: Any) -> QTensor: ...


class FolderCodes:
    """GPTQ, AWQ, fp8 and ModelOpt."""

    def __init__(self, source: HoldsCodes, format: ArtifactFormat, path: Path) -> None:
        self.format = format
        self._source = source
        self._path = path
        self._dtypes = {tensor.name: tensor.dtype for tensor in source.facts.tensors}

    @property
    def facts(self) -> ModelFacts:
        return self._source.facts

    def names(self) -> Iterable[str]:
        return self._source.names()

    def load(self, name: str) -> FloatScheme | QTensor:
        if not self._source.is_packed(name):
            return FloatScheme(dtype=FLOATS[self._dtypes[name]])
        module = name.removesuffix(".weight")
        scheme = self._source.scheme(module)
        if scheme is None:
            raise UnsupportedError(f"`{self._path}`: the inputs of `{module}` are not in groups of 32, 64 or 128")
        return self._source.codes(module, scheme)


class CompressedTensorsCodes:
    """compressed-tensors. Shapes and types were checked against the config by its reader."""

    format: ArtifactFormat = "compressed-tensors"

    def __init__(self, folder: Path) -> None:
        self._source = CompressedTensorsSource(folder)
        self._facts = self._source.facts
        self._folder = folder
        tensors = read_checkpoint(folder).tensors
        self._stored = {tensor.name: tensor for tensor in tensors}
        self._places = locate(folder, tensors)

    @property
    def facts(self) -> ModelFacts:
        return self._facts

    def names(self) -> Iterable[str]:
        return tuple(tensor.name for tensor in self._facts.tensors)

    def load(self, name: str) -> FloatScheme | QTensor:
        module = name.removesuffix(".weight")
        if f"{module}.weight_scale" not in self._stored or not name.endswith(".weight"):
            return FloatScheme(dtype=FLOATS[self._stored[name].dtype])
        plain = self._stored.get(name)
        if plain is not None and plain.dtype == "I8":
            return self._integers(module, 8, self._read(name).numpy())
        packed = self._stored.get(f"{module}.weight_packed")
        if (plain is not None and plain.dtype == "F8_E4M3") or (packed is not None and packed.dtype == "U8"):
            return self._floats(module)
        if packed is None or packed.dtype != "I32" or f"{module}.weight_g_idx" in self._stored:
            raise UnsupportedError(f"`{self._folder}`: `{module}` is not stored as integers in regular groups")
        columns = int(self._read(f"{module}.weight_shape")[1])
        bits = packed.shape[1] * 32 // columns
        if packed.shape[1] != words_for(columns, bits):
            raise UnsupportedError(f"`{self._folder}`: `{module}` has rows that do not fill 32-bit words")
        return self._integers(module, bits, unpack_rows(self._read(packed.name).numpy(), bits, columns))

    def _floats(self, module: str) -> QTensor:
        """FP8, NVFP4, MXFP4 and MXFP8: what shares a scale follows from the shape of the scales."""
        packed = f"{module}.weight_packed" in self._stored
        raw = self._read(f"{module}.{'weight_packed' if packed else 'weight'}").view(torch.uint8).numpy()
        codes = unpack_nibbles(raw) if packed else raw
        rounding = self._source.input_rounding(module)
        scale = self._read(f"{module}.weight_scale")
        fields: dict[str, Any] = {}
        if f"{module}.weight_global_scale" in self._stored:
            scaling, fields["scale_codes"] = "nv", scale.view(torch.uint8).numpy()
            fields["global_scale"] = self._read(f"{module}.weight_global_scale").float().reshape(1).numpy()
        elif self._stored[f"{module}.weight_scale"].dtype in ("U8", "F8_E8M0"):
            scaling, fields["exponents"] = "mx", scale.view(torch.uint8).numpy()
        else:
            per = {(1,): "tensor", (): "tensor", (codes.shape[0], 1): "channel"}
            scaling, values = per.get(tuple(scale.shape), "block"), scale.float()
            fields["scale"] = (values.reshape(1) if scaling == "tensor" else values).numpy()
        if rounding is not None and rounding.scale is not None:
            fields["input_scale"] = np.array([rounding.scale], dtype=np.float32)
        stored = self._stored[f"{module}.weight_scale"].dtype
        scheme = MinifloatScheme(
            element="e2m1" if packed else "e4m3", scaling=scaling,  # type: ignore[arg-type]  # of the five above
            scale_dtype=FLOATS.get(stored, "bf16"), activations=None if rounding is None else rounding.scheme,
        )  # fmt: skip
        return QTensor(scheme=scheme, codes=codes, fields=fields)

    def _integers(self, module: str, bits: int, codes: Any) -> QTensor:
        rows, columns = codes.shape
        stored = self._stored[f"{module}.weight_scale"]
        scale = self._read(stored.name).float().numpy()
        groups = scale.shape[1] if scale.ndim == 2 else 0
        size = columns // groups if groups else 0
        if scale.shape[0] != rows or not groups or (groups > 1 and size not in GROUP_SIZES):
            raise UnsupportedError(f"`{self._folder}`: `{module}` has scales {list(scale.shape)}, not one per group")
        fields: dict[str, Any] = {"scale": np.ascontiguousarray(scale)}
        zeros = f"{module}.weight_zero_point"
        if zeros in self._stored:
            words = np.ascontiguousarray(self._read(zeros).numpy().T)
            fields["zero_point"] = np.ascontiguousarray(unpack_rows(words, bits, rows).T)
        scheme = IntScheme(
            bits=bits, group_size=size if size in GROUP_SIZES else None,
            symmetric="zero_point" not in fields, scale_dtype=FLOATS[stored.dtype],
        )  # fmt: skip
        return QTensor(scheme=scheme, codes=codes, fields=fields)

    def _read(self, name: str) -> Any:
        return read_tensor(self._folder / self._stored[name].file, self._places[name])


class GgufCodes:
    """One GGUF file, rows of q and k back in the order of Hugging Face."""

    format: ArtifactFormat = "gguf"

    def __init__(self, path: Path) -> None:
        self._source = GgufSource(path)
        self._path = path
        self._tensors = {tensor.name: tensor for tensor in self._source.reader.tensors}

    @property
    def facts(self) -> ModelFacts:
        return self._source.facts

    def names(self) -> Iterable[str]:
        return tuple(self._source.names())

    def load(self, name: str) -> FloatScheme | QTensor:
        tensor = self._tensors[self._source.stored_name(name)]
        kind = gguf.GGMLQuantizationType(tensor.tensor_type).name
        if kind in GGML_FLOATS:
            return FloatScheme(dtype=FLOATS[kind])
        columns, rows = (int(size) for size in tensor.shape)
        value = unpack(np.ascontiguousarray(tensor.data).view(np.uint8).reshape(-1), kind, rows, columns)
        if not all(np.isfinite(field.astype(np.float32)).all() for field in value.fields.values()):
            raise InputError(f"`{self._path}`: `{name}` has scales that are not finite", hint="the file is damaged")
        facts = self.facts
        heads = rotary_heads(facts.family, name, facts.heads, facts.kv_heads)
        return value if heads is None else value.take_rows(inverse_permutation(rows, heads))
